"""Mutants of the CUDA kernels of int8_weight_linear: each has one mistake, which must be found."""

import emulator
import pytest
import torch
from emulator.mutants import (
    CONFLICTS,
    OUTSIDE,
    VALUES,
    Mutant,
    Subject,
    Suite,
    tiles,
)
from float_sums import assert_near_body

from green_kernels.ops import int8_weight_linear

pytestmark = pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))

RACE = "race: "
EARLY = "has yet to write"  # what an asynchronous copy writes was touched before its wait


def arguments(M, K, dtype):
    x, w_q = torch.randn(M, K).to(dtype), torch.randint(-127, 128, (75, K), dtype=torch.int8)
    return x, w_q, torch.rand(75), torch.randn(75)


def many_rows():
    """Rows that are aligned, and rows that are not."""
    yield int8_weight_linear, arguments(70, 584, torch.bfloat16)
    yield int8_weight_linear, arguments(70, 301, torch.float16)


def few_rows():
    """Several steps of K for each warp; infinity in one of three parts."""
    yield int8_weight_linear, arguments(9, 2200, torch.float16)
    x, *others = arguments(3, 301, torch.float32)
    x[1, 7] = torch.inf
    yield int8_weight_linear, (x, *others)


def is_near(op, args, output):
    try:
        assert_near_body(output, *args)
    except AssertionError:
        return False
    return True


TILES = Subject(
    "int8_weight_linear_tiles.cu",
    "80",
    emulator.A100,
    many_rows,
    agrees=is_near,
    slighter={
        "int8_weight_linear_schedule.h": tiles("kWeightTiles", "{{64, 64, kStepK, 2, 2, 4}}"),
        # The launcher, which is not a mutant's, chooses among all of them.
        "int8_weight_linear_tiles.cu": (
            r"int tile, const Launch& launch\) {",
            "int, const Launch& launch) { const int tile = 0;",
        ),
    },
)
SKINNY = Subject("int8_weight_linear_skinny.cu", "80", emulator.A100, few_rows, agrees=is_near)


def of_tiles(old, new, by):
    return Mutant(TILES, TILES.source, {old: new}, by)


def of_skinny(old, new, by, file=SKINNY.source):
    return Mutant(SKINNY, file, {old: new}, by)


MUTANTS = {
    # Many rows.
    "a wait one group short": of_tiles(
        "wait_group<tile.stages - 2>()", "wait_group<tile.stages - 1>()", EARLY
    ),
    "no barrier before sums are staged": of_tiles(
        "  __syncthreads();  // the sums", "  // the sums", RACE
    ),
    "a swizzle off by one row": of_tiles(
        "swizzle(row, chunk, chunks)",
        "swizzle(row ^ 1, chunk, chunks)",
        VALUES,
    ),
    "chunks of x in the wrong order": of_tiles(
        "x_at.column + mma_values(mma, 0) / kChunkValues",
        "x_at.column + 1 - mma_values(mma, 0) / kChunkValues",
        VALUES,
    ),
    "registers of A exchanged": of_tiles(
        "{low[0], high[0], low[1], high[1]}",
        "{low[0], low[1], high[0], high[1]}",
        VALUES,
    ),
    "values of x past K are copied": of_tiles(
        "row < rows && i < left ?", "row < rows ?", f"{VALUES}|{OUTSIDE}"
    ),
    # Few rows.
    "a lane's wait one group short": of_skinny(
        "wait_group<kSkinnyAhead - 2>()", "wait_group<kSkinnyAhead - 1>()", EARLY
    ),
    "no barrier of the warp before sums are left": of_skinny(
        "  __syncwarp();  // other", "  // other", f"{RACE}overwrites"
    ),
    "no barrier before sums are added up": of_skinny(
        "  leave_sums();\n  __syncthreads();\n",
        "  leave_sums();\n",
        f"{RACE}|nobody has written|{EARLY}",
    ),
    "a warp's sums left out": of_skinny(
        "other = 1; other < kSkinnyWarps", "other = 2; other < kSkinnyWarps", VALUES
    ),
    "rows of w past N are read": of_skinny("n0 + held.row + half * 8 < args.N && ", "", OUTSIDE),
    "values of x past K are read": of_skinny(
        "i < left ? from[i] :", "true ? from[i] :", f"{VALUES}|{OUTSIDE}"
    ),
    "what infinity leaves": of_skinny("isinf(value) ? 0 : ", "", VALUES),
    "partial sums that share banks": of_skinny(
        "(column ^ column / 4) * kSkinnyRows",
        "column * kSkinnyRows",
        CONFLICTS,
        "int8_weight_linear_schedule.h",
    ),
    # Widening.
    "the sign is a bit as others": of_skinny(
        "base | 0x007f007f", "base | 0x00ff00ff", VALUES, "int8_weight_linear.cuh"
    ),
    "pairs exchanged": of_skinny("0x5352", "0x5253", VALUES, "int8_weight_linear.cuh"),
}


SUITE = Suite(MUTANTS)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name):
    SUITE.check_is_caught(name)


@pytest.mark.parametrize("subject", [TILES, SKINNY], ids=["tiles", "skinny"])
def test_there_is_no_false_alarm(subject):
    SUITE.check_is_right(subject)
