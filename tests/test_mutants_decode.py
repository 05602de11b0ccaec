"""Mutants of int8_matmul's kernel for few rows on sm_90a: each has one mistake, which the emulator
must find. They have few stages, so that the ring turns.
"""

import emulator
import pytest
from emulator.mutants import (
    GONE,
    HANG,
    OVERWRITES,
    READS_EARLY,
    TOO_MANY,
    UNFENCED,
    UNORDERED,
    VALUES,
    Mutant,
    Subject,
    Suite,
    linear_call,
    matmul_call,
    tiles,
)

from green_kernels._C import plans

pytestmark = pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))

SOURCE, HEADER = "int8_matmul_decode_sm90a.cu", "int8_matmul_decode.h"
SPLITS, K = 2, 1520  # six steps for each block of a cluster


def decode_calls():
    yield matmul_call(9, 131, K)
    yield linear_call(5, 12, 144)


def quantizing_calls():
    for M in (3, 2, 1):
        yield linear_call(M, 131, K)


def subject(calls, tile, rows):
    plan = plans.Plan(plans.Kernel.decode, tile, SPLITS)
    return Subject(SOURCE, "90a", emulator.H100, calls, plan, {HEADER: tiles("kDecodeTiles", rows)})


# Which tile rounds x, the rest of the build knows by its number.
DECODE = subject(decode_calls, 1, "{{8, 3, false}, {8, 3, false}}")
QUANTIZING = subject(quantizing_calls, 0, "{{8, 3, true}}")


def decode(old, new, by, file=SOURCE):
    return Mutant(DECODE, file, {old: new}, by)


def quantizing(old, new, by, file=SOURCE):
    return Mutant(QUANTIZING, file, {old: new}, by)


CLUSTER_SYNC = "  if (args.splits > 1)\n    ptx::cluster_sync();\n  else\n    consumers_sync();\n"
QUANTIZED_FENCE = (
    "  ptx::fence_proxy_async_shared();  // this thread's stores, for wgmma of any thread\n"
)

MUTANTS = {
    # The ring.
    "the producer waits for the wrong phase": decode(
        "  turn.parity = 1;", "  turn.parity = 0;", f"{OVERWRITES}|{TOO_MANY}|{HANG}"
    ),
    "a stage is released while it is read": decode(
        "wgmma_wait_group<1>", "wgmma_wait_group<2>", f"{OVERWRITES}|{READS_EARLY}"
    ),
    "x's bytes are not expected": decode("w_bytes + x_bytes)", "w_bytes)", f"{READS_EARLY}|{HANG}"),
    "x's part of a stage at the wrong k": decode(
        "x_map, (part.steps.first + step) * kStageK", "x_map, step * kStageK", VALUES
    ),
    # The split.
    "a step that two blocks multiply": decode(
        "- first};", "- first + (rank == 0 ? 1 : 0)};", VALUES, HEADER
    ),
    "a step that none multiplies": decode(
        "- first};", "- first - (rank == 0 && steps > 1 ? 1 : 0)};", VALUES, HEADER
    ),
    "a block's sums added twice": decode(
        "  for (int rank = 1; rank < kSplits; ++rank) {\n    total",
        "  for (int rank = 0; rank < kSplits; ++rank) {\n    total",
        VALUES,
    ),
    "a block's sums left out": decode(
        "  for (int rank = 1; rank < kSplits; ++rank) {\n    total",
        "  for (int rank = 1; rank < kSplits - 1; ++rank) {\n    total",
        VALUES,
    ),
    "sums are read before the other block has staged them": decode(
        CLUSTER_SYNC, "  consumers_sync();\n", f"{READS_EARLY}|{GONE}"
    ),
    "sums are staged over w that is still read": decode(
        "  consumers_sync();  // the sums come to lie over w\n", "", OVERWRITES
    ),
    "a block ends while its sums are read": decode(
        "  if (args.splits > 1) ptx::cluster_sync();  // until", "  // until", GONE
    ),
    "tokens that two blocks add up": decode(
        "return rank + splits * (warp",
        "return rank / 2 + splits * (warp",
        VALUES,
        HEADER,
    ),
    # The launch before, and the epilogue.
    "x is read before the kernel before has ended": decode(
        "  if constexpr (!tile.quantizes) ptx::wait_for_kernel_before();\n", "", UNORDERED
    ),
    "x_scale is read before the kernel before has ended": decode(
        "  if constexpr (!tile.quantizes) ptx::wait_for_kernel_before();  // for x_scale\n",
        "",
        UNORDERED,
    ),
    # Rounding x in the kernel.
    "quantizing: the scale of another token": quantizing(
        "scales[token],\n               y);", "scales[0],\n               y);", VALUES
    ),
    "quantizing: each warp's own maximum": quantizing(
        "maxima[team.token * team.warps + warp]", "maxima[threadIdx.x / kWarpSize]", VALUES
    ),
    "quantizing: no barrier before the warps' maxima are read": quantizing(
        "  if (exists) find_maximum(args, team, row, maxima);\n  consumers_sync();\n",
        "  if (exists) find_maximum(args, team, row, maxima);\n",
        READS_EARLY,
    ),
    "quantizing: no proxy fence before the rounded values are multiplied": quantizing(
        QUANTIZED_FENCE, "", UNFENCED
    ),
    "quantizing: no barrier before the rounded values are multiplied": quantizing(
        f"{QUANTIZED_FENCE}  consumers_sync();\n", QUANTIZED_FENCE, f"{READS_EARLY}|{UNFENCED}"
    ),
    "quantizing: tokens that do not exist are left as they are": quantizing(
        "token < tile.tokens; token += teams)", "token < part.tokens; token += teams)", READS_EARLY
    ),
    "quantizing: rounded values not swizzled": quantizing(
        "swizzle(token, k / kChunk, kStageK / kChunk) * kChunk",
        "token * kStageK + k / kChunk * kChunk",
        VALUES,
        HEADER,
    ),
    "quantizing: the values of the first block's share": quantizing(
        "load_unit(row, first + k, args)", "load_unit(row, k, args)", VALUES
    ),
}


SUITE = Suite(MUTANTS)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name):
    SUITE.check_is_caught(name)


@pytest.mark.parametrize("subject", [DECODE, QUANTIZING], ids=["decode", "quantizing"])
def test_there_is_no_false_alarm(subject):
    SUITE.check_is_right(subject)
