"""Mutants of int8_matmul's kernels for sm_90a: each has one mistake, which the emulator must find.

They are made of one small tile of each kernel, or two, with so few stages that the ring turns.
"""

import emulator
import pytest
import torch
from emulator.mutants import VALUES, Mutant, Subject, check_is_caught, check_is_right

from green_kernels._C import plans
from green_kernels.ops import int8_linear, int8_matmul

pytestmark = pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))

HANG = r"hang: nothing can go on[\s\S]*wait for phase of parity"
OVERWRITES = "may still read|is to write|race: overwrites what"
READS_EARLY = "has yet to write|that nobody has written|race: reads what the store"
TOO_MANY = "arrives 1 times where the mbarrier awaits 0"
NO_MBARRIER = "there is no mbarrier|uses the mbarrier that PTX line .* initialises, with no barrier"
UNFENCED = "reads asynchronously .* with no fence.proxy.async"
GONE = "which has not synchronised with another block's access|of a block that has ended"
UNORDERED = "reads what the grid before it writes, with no griddepcontrol.wait"
OUTSIDE = "outside all buffers|outside the block's"

WGMMA_TILES = """{
    {256, 128, 4, 2}, {256, 128, 4, 1}, {128, 256, 4, 2}, {128, 256, 4, 1},
    {128, 192, 4, 1}, {128, 128, 6, 2}, {128, 128, 6, 1}, {128, 64, 8, 1},
};"""
DECODE_TILES = """{
    {8, 6, true}, {8, 6, false}, {16, 6, false}, {32, 5, false}, {64, 4, false}, {128, 6, false},
};"""
STEP = 128  # of K
STAGES = 3
TURNS = 2 * STAGES * STEP  # in K: the ring twice


def arguments(M, N, K):
    x_q = torch.randint(-127, 128, (M, K), dtype=torch.int8)
    w_q = torch.randint(-127, 128, (N, K), dtype=torch.int8)
    return x_q, torch.rand(M), w_q, torch.rand(N), torch.randn(N), torch.randn(M, N)


def linear_arguments(M, N, K):
    _, _, w_q, w_scale, bias, residual = arguments(M, N, K)
    return torch.randn(M, K), w_q, w_scale, bias, "none", residual


def wgmma_calls():
    """Two tiles of a cluster: y written by TMA, by lanes, and after the quantizer."""
    for N in (68, 67):
        yield int8_matmul, arguments(198, N, TURNS - STEP + 16)
    yield int8_linear, linear_arguments(20, 40, 144)


def decode_calls():
    yield int8_matmul, arguments(9, 131, 2 * TURNS - 16)
    yield int8_linear, linear_arguments(5, 12, 144)


def quantizing_calls():
    for M in (3, 2, 1):
        yield int8_linear, linear_arguments(M, 131, 2 * TURNS - 16)


def subject(source, calls, plan, tiles, slight_tiles):
    slighter = {f"{source}.h": {tiles: slight_tiles}}
    return Subject(f"{source}_sm90a.cu", "90a", emulator.H100, calls, plan, slighter)


WGMMA = subject(
    "int8_matmul_wgmma",
    wgmma_calls,
    plans.Plan(plans.Kernel.wgmma, 0, 1),
    WGMMA_TILES,
    f"{{{{128, 64, {STAGES}, 2}}}};",
)
# Which tile rounds x, the rest of the build knows by its number.
DECODE = subject(
    "int8_matmul_decode",
    decode_calls,
    plans.Plan(plans.Kernel.decode, 1, 2),
    DECODE_TILES,
    f"{{{{8, {STAGES}, false}}, {{8, {STAGES}, false}}}};",
)
QUANTIZING = subject(
    "int8_matmul_decode",
    quantizing_calls,
    plans.Plan(plans.Kernel.decode, 0, 2),
    DECODE_TILES,
    f"{{{{8, {STAGES}, true}}}};",
)


def wgmma(old, new, by, file=WGMMA.source, **more):
    return Mutant(WGMMA, file, {old: new} | more, by)


def decode(old, new, by, file=DECODE.source):
    return Mutant(DECODE, file, {old: new}, by)


def quantizing(old, new, by, file=QUANTIZING.source):
    return Mutant(QUANTIZING, file, {old: new}, by)


STORE_WAIT = "if (lane == 0) ptx::bulk_wait_group_read<0>();"
STORE_FENCE = "  ptx::fence_proxy_async_shared();\n  __syncwarp();\n"
CLUSTER_SYNC = "  if (args.splits > 1)\n    ptx::cluster_sync();\n  else\n    consumers_sync();\n"
QUANTIZED_SYNC = (
    "  ptx::fence_proxy_async_shared();  // this thread's stores, for wgmma of any thread\n"
)

MUTANTS = {
    # The ring.
    "wgmma: consumers do not wait for a stage": wgmma(
        "    block.ring().wait_until_full(turn);\n", "", f"{READS_EARLY}|{HANG}"
    ),
    "wgmma: consumers wait for the wrong phase": wgmma(
        "full(turn.stage), turn.parity)",
        "full(turn.stage), turn.parity ^ 1)",
        READS_EARLY,
        "ring.cuh",
    ),
    "wgmma: the producer waits for the wrong phase": wgmma(
        "empty(turn.stage), turn.parity ^ 1)",
        "empty(turn.stage), turn.parity)",
        f"{HANG}|{OVERWRITES}|{TOO_MANY}",
        "ring.cuh",
    ),
    "wgmma: the producer does not wait": wgmma(
        "        block.ring().wait_until_empty(turn);\n", "", f"{OVERWRITES}|{TOO_MANY}"
    ),
    "wgmma: the producer begins a stage too many": wgmma(
        "ahead = min(steps, tile.stages)",
        "ahead = min(steps, tile.stages + 1)",
        f"{OVERWRITES}|{TOO_MANY}",
    ),
    "wgmma: a stage is released while it is read": wgmma(
        "wgmma_wait_group<1>", "wgmma_wait_group<2>", OVERWRITES
    ),
    "wgmma: the last stage of a tile is never released": wgmma(
        "  if (steps > 0) release(block, before);\n", "", HANG
    ),
    "wgmma: one consumer's release is enough": wgmma(
        "initialise(kConsumers * tile.cluster)",
        "initialise(tile.cluster)",
        f"{OVERWRITES}|{TOO_MANY}|{HANG}",
    ),
    "wgmma: too many bytes expected": wgmma(
        "(full, stage_bytes(tile))", "(full, stage_bytes(tile) + 16)", HANG
    ),
    "wgmma: w's bytes are not expected": wgmma(
        "(full, stage_bytes(tile))", "(full, x_bytes(tile))", f"{READS_EARLY}|{HANG}"
    ),
    "wgmma: no wgmma.fence": wgmma(
        "    ptx::wgmma_fence();\n", "", "was used since the last wgmma.fence"
    ),
    "wgmma: sums are read while they are computed": wgmma(
        "  ptx::wgmma_wait_group<0>();\n", "", "has in hand until wgmma.wait_group"
    ),
    # The cluster.
    "wgmma: w goes to one block only": wgmma("(1 << tile.cluster) - 1)", "1)", HANG),
    "wgmma: w goes to the block itself only": wgmma(
        "(1 << tile.cluster) - 1)", "1 << block.rank)", HANG
    ),
    "wgmma: both blocks have the same half of w copied": wgmma(
        "w_map, k, n + block.rank * part,", "w_map, k, n,", VALUES
    ),
    "wgmma: consumers release to their own block only": wgmma(
        "if (thread < blocks)",
        "if (thread == block.rank)",
        f"{OVERWRITES}|{TOO_MANY}",
        **{"initialise(kConsumers * tile.cluster)": "initialise(kConsumers)"},
    ),
    "wgmma: mbarriers are used before the other block has made them": wgmma(
        "    ptx::cluster_sync();\n  else", "    __syncthreads();\n  else", NO_MBARRIER
    ),
    "wgmma: a block ends while the other needs it": wgmma(
        "    ptx::cluster_sync();  // until", "    // until", GONE
    ),
    # Swizzles, descriptors, maps.
    "wgmma: x is not swizzled": wgmma(
        "encode_stages(args.x_q, args.M, args.K, args.x_q_stride, tile.m, maps.x)",
        "encode({CU_TENSOR_MAP_DATA_TYPE_UINT8, args.x_q, args.M, args.K, args.x_q_stride, tile.m,"
        " kStageK, CU_TENSOR_MAP_SWIZZLE_NONE}, maps.x)",
        VALUES,
    ),
    "wgmma: w is not swizzled": wgmma(
        "encode_stages(args.w_q, args.N, args.K, args.w_q_stride, tile.n / tile.cluster, maps.w)",
        "encode({CU_TENSOR_MAP_DATA_TYPE_UINT8, args.w_q, args.N, args.K, args.w_q_stride,"
        " tile.n / tile.cluster, kStageK, CU_TENSOR_MAP_SWIZZLE_NONE}, maps.w)",
        VALUES,
    ),
    "wgmma: a swizzle narrower than the box": wgmma(
        "SWIZZLE_128B", "SWIZZLE_64B", "inner dimension is wider than the swizzle", "tensor_map.h"
    ),
    "wgmma: the descriptor's stride is half of what it is": wgmma(
        "uint64_t(1024 >> 4)", "uint64_t(512 >> 4)", VALUES, "ptx_sm90a.cuh"
    ),
    "wgmma: the wrong step in k": wgmma(
        "ptx::swizzled_128b_descriptor(w + k)", "ptx::swizzled_128b_descriptor(w + k / 2)", VALUES
    ),
    "wgmma: sums of the tile before": wgmma("step + k > 0)", "true)", VALUES),
    # From sums to y.
    "wgmma: no proxy fence before the store": wgmma(STORE_FENCE, "  __syncwarp();\n", UNFENCED),
    "wgmma: no barrier of the warp before the store": wgmma(
        STORE_FENCE, "  ptx::fence_proxy_async_shared();\n", f"{READS_EARLY}|{UNFENCED}"
    ),
    "wgmma: a piece is staged while the one before it is stored": wgmma(
        f"    {STORE_WAIT}  // for the piece before\n", "", OVERWRITES
    ),
    "wgmma: lanes do not wait for the one that waits for the store": wgmma(
        f"    {STORE_WAIT}  // for the piece before\n    __syncwarp();\n",
        f"    {STORE_WAIT}\n",
        OVERWRITES,
    ),
    "wgmma: packed values over what is still to be read": wgmma(
        "      __syncwarp();\n      pack(", "      pack(", f"{OVERWRITES}|{READS_EARLY}"
    ),
    "wgmma: no wait for the last store": wgmma(
        f"  }});\n  {STORE_WAIT}", "  });\n", "exits, and has not waited for the bulk copy"
    ),
    "wgmma: the bias of the wrong columns": wgmma(
        "four(args, n + finished(lane, 0).column",
        "four(args, corner.column + finished(lane, 0).column",
        VALUES,
    ),
    "wgmma: rows past M are written": wgmma(
        "const bool exists = row < args.M && four.count > 0;",
        "const bool exists = four.count > 0;",
        OUTSIDE,
    ),
    "wgmma: the scale of the wrong row": wgmma(
        "x_scale[reg / 2 % 2])", "x_scale[reg % 2])", VALUES
    ),
    # The launch before.
    "wgmma: x is read before the kernel before has ended": wgmma(
        "  ptx::wait_for_kernel_before();\n  for_tiles<kTile>(args, block.rank, [&](Place corner) {\n    for",
        "  for_tiles<kTile>(args, block.rank, [&](Place corner) {\n    for",
        UNORDERED,
    ),
    "wgmma: x_scale is read before the kernel before has ended": wgmma(
        "  ptx::wait_for_kernel_before();  // x_scale is of it, as x is\n", "", UNORDERED
    ),
    # Few rows: the ring.
    "decode: the producer waits for the wrong phase": decode(
        "  turn.parity = 1;", "  turn.parity = 0;", f"{OVERWRITES}|{TOO_MANY}|{HANG}"
    ),
    "decode: a stage is released while it is read": decode(
        "wgmma_wait_group<1>", "wgmma_wait_group<2>", OVERWRITES
    ),
    "decode: x's bytes are not expected": decode(
        "w_bytes + x_bytes)", "w_bytes)", f"{READS_EARLY}|{HANG}"
    ),
    "decode: x's part of a stage at the wrong k": decode(
        "x_map, (part.steps.first + step) * kStageK", "x_map, step * kStageK", VALUES
    ),
    # The split.
    "decode: a step that two blocks multiply": decode(
        "- first};", "- first + (rank == 0 ? 1 : 0)};", VALUES, "int8_matmul_decode.h"
    ),
    "decode: a step that none multiplies": decode(
        "- first};", "- first - (rank == 0 && steps > 1 ? 1 : 0)};", VALUES, "int8_matmul_decode.h"
    ),
    "decode: a block's sums added twice": decode(
        "  for (int rank = 1; rank < kSplits; ++rank) {\n    total",
        "  for (int rank = 0; rank < kSplits; ++rank) {\n    total",
        VALUES,
    ),
    "decode: a block's sums left out": decode(
        "  for (int rank = 1; rank < kSplits; ++rank) {\n    total",
        "  for (int rank = 1; rank < kSplits - 1; ++rank) {\n    total",
        VALUES,
    ),
    "decode: sums are read before the other block has staged them": decode(
        CLUSTER_SYNC, "  consumers_sync();\n", f"{READS_EARLY}|{GONE}"
    ),
    "decode: sums are staged over w that is still read": decode(
        "  consumers_sync();  // the sums come to lie over w\n", "", OVERWRITES
    ),
    "decode: a block ends while its sums are read": decode(
        "  if (args.splits > 1) ptx::cluster_sync();  // until", "  // until", GONE
    ),
    "decode: tokens that two blocks add up": decode(
        "return rank + splits * (warp",
        "return rank / 2 + splits * (warp",
        VALUES,
        "int8_matmul_decode.h",
    ),
    # The launch before, and the epilogue.
    "decode: x is read before the kernel before has ended": decode(
        "  if constexpr (!tile.quantizes) ptx::wait_for_kernel_before();\n", "", UNORDERED
    ),
    "decode: x_scale is read before the kernel before has ended": decode(
        "  if constexpr (!tile.quantizes) ptx::wait_for_kernel_before();  // for x_scale\n",
        "",
        UNORDERED,
    ),
    "decode: columns past N are written": decode(
        "count(int(min(max(args.N - first, int64_t(0)), int64_t(4))))",
        "count(4)",
        OUTSIDE,
        "epilogue.cuh",
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
        QUANTIZED_SYNC, "", UNFENCED
    ),
    "quantizing: no barrier before the rounded values are multiplied": quantizing(
        f"{QUANTIZED_SYNC}  consumers_sync();\n", QUANTIZED_SYNC, f"{READS_EARLY}|{UNFENCED}"
    ),
    "quantizing: tokens that do not exist are left as they are": quantizing(
        "token < tile.tokens; token += teams)", "token < part.tokens; token += teams)", READS_EARLY
    ),
    "quantizing: rounded values not swizzled": quantizing(
        "swizzle(token, k / kChunk, kStageK / kChunk) * kChunk",
        "token * kStageK + k / kChunk * kChunk",
        VALUES,
        "int8_matmul_decode.h",
    ),
    "quantizing: the values of the first block's share": quantizing(
        "load_unit(row, first + k, args)", "load_unit(row, k, args)", VALUES
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name):
    check_is_caught(MUTANTS[name])


@pytest.mark.parametrize(
    "subject", [WGMMA, DECODE, QUANTIZING], ids=["wgmma", "decode", "quantizing"]
)
def test_there_is_no_false_alarm(subject):
    check_is_right(subject)
