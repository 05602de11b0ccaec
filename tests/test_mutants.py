"""Mutants of the CUDA kernels for every GPU: each has one mistake, which the emulator must find."""

from dataclasses import replace

import emulator
import pytest
import torch
from emulator.mutants import (
    CONFLICTS,
    OUTSIDE,
    UNORDERED,
    VALUES,
    Mutant,
    Subject,
    Suite,
    linear_call,
    matmul_call,
    tiles,
)

import green_kernels as gk
from green_kernels.ops import quantize_rows

pytestmark = pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))

RACE = "race: "
EARLY = "has yet to write|nobody has written"  # what a copy writes was touched before its wait


def matmul_calls():
    """Tails in M, N and K, several steps of K; rows for vectors; sums that no float32 holds."""
    for shape in ((70, 75, 400), (40, 72, 1000), (5, 46, 3000, 64)):
        yield matmul_call(*shape)


def linear_calls():
    yield linear_call(5, 46, 300)


def quantize_calls():
    for shape in ((3, 1500), (64, 77), (4, 1604), (2, 2048)):
        yield quantize_rows, (torch.randn(shape) * torch.randint(1, 2**20, shape),)
    yield quantize_rows, (torch.tensor([[1.0, torch.inf, 2.0], [1.0, 2.0, 3.0]]),)


MATMUL = Subject(
    "int8_matmul_mma.cu",
    "80",
    emulator.A100,
    matmul_calls,
    gk.ops.PLANS["mma:64x64x128:1"],
    {
        "int8_matmul_schedule.h": tiles("kTiles", "{{64, 64, 128, 2, 2, 3}}"),
        "int8_matmul_mma.cu": (
            "const Plan& plan = launch.plan;",
            "const Plan plan{launch.plan.kernel, 0, launch.plan.splits};",
        ),
    },
)
SPLIT = replace(MATMUL, plan=gk.ops.PLANS["mma:64x64x128:4"])
LINEAR = replace(MATMUL, architecture="90a", device=emulator.H100, calls=linear_calls)
QUANTIZE = Subject(
    "quantize_rows.cu",
    "80",
    emulator.A100,
    quantize_calls,
    slighter={"quantize_rows.cu": ("launch_for = [^;]*;", "launch_for = launch<float>;")},
)


def matmul(old, new, by, file="int8_matmul_mma.cu"):
    return Mutant(MATMUL, file, {old: new}, by)


def split(old, new, by):
    return Mutant(SPLIT, MATMUL.source, {old: new}, by)


def in_tiles(old, new, by):
    return matmul(old, new, by, "tiles.cuh")


def schedule(old, new, by):
    return matmul(old, new, by, "int8_matmul_schedule.h")


def ptx(old, new, by):
    return matmul(old, new, by, "ptx.cuh")


def epilogue(old, new, by):
    return matmul(old, new, by, "epilogue.cuh")


def row(old, new, by):
    return Mutant(QUANTIZE, "quantize_row.cuh", {old: new}, by)


def quantize(old, new, by, **more):
    return Mutant(QUANTIZE, "quantize_rows.cu", {old: new} | more, by)


FEW_BLOCKS = {"kMaxBlocks = 1 << 20": "kMaxBlocks = 1"}  # so that a block has several rows

# Of the mma of integers: its sums are in integer registers.
OPERANDS = '"+r"(c[3])\n      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1])'

MUTANTS = {
    # Waits, barriers and stages.
    "no barrier after the wait for a stage": matmul(
        "    ptx::cp_async_wait_group<tile.stages - 2>();\n    __syncthreads();",
        "    ptx::cp_async_wait_group<tile.stages - 2>();",
        f"{RACE}|{EARLY}",
    ),
    "a wait one group short": matmul(
        "cp_async_wait_group<tile.stages - 2>()", "cp_async_wait_group<tile.stages - 1>()", EARLY
    ),
    "a stage filled one step early": matmul(
        "if (step == 0) fetch_to_shared(i + tile.stages - 1);",
        "if (step == 0) fetch_to_shared(i + tile.stages);",
        f"{RACE}|{EARLY}|may still read|to write, with no wait",
    ),
    "one stage too few in flight": matmul(
        "for (int i = 0; i < tile.stages - 1; ++i) fetch_to_shared(i);",
        "for (int i = 0; i < tile.stages - 2; ++i) fetch_to_shared(i);",
        f"{EARLY}|{VALUES}",
    ),
    "no group for stages past the last": matmul(
        "    }\n    ptx::cp_async_commit_group();",
        "      ptx::cp_async_commit_group();\n    }",
        EARLY,
    ),
    "a stage read one step late": matmul(
        "ptx::ldmatrix_x4(x_stage(i) +",
        "ptx::ldmatrix_x4(x_stage(i + tile.stages - 1) +",
        f"{RACE}|{EARLY}|{VALUES}",
    ),
    "no barrier of the warp before its rows are written": in_tiles(
        "lane, sums[m]);\n    __syncwarp();",
        "lane, sums[m]);",
        f"{RACE}reads what the store",
    ),
    "no barrier of the warp before its rows are staged again": in_tiles(
        "      }\n    }\n    __syncwarp();\n", "      }\n    }\n", f"{RACE}overwrites"
    ),
    # Indices.
    "a swizzle off by one row, reading": matmul(
        "swizzle(row, step * 2 + x_at.column, chunks)",
        "swizzle(row + 1, step * 2 + x_at.column, chunks)",
        f"{VALUES}|nobody has written|{RACE}|outside the block",
    ),
    "a swizzle off by one row, writing": in_tiles(
        "swizzle(row, first.column, kChunks)",
        "swizzle(row ^ 1, first.column, kChunks)",
        f"{VALUES}|nobody has written",
    ),
    "a swizzle that leaves half the banks": schedule(
        "(chunk ^ (row / (8 / chunks) % chunks))", "(chunk ^ (row / (8 / chunks) % 2))", CONFLICTS
    ),
    "staged rows that share banks": schedule(
        "(column ^ row / (4 / sets) % sets * 8)", "column", CONFLICTS
    ),
    "a wrong offset in k": matmul("step * 2 + w_at.column", "step + w_at.column", VALUES),
    "fragments of x transposed": schedule(
        "return {lane % 16, lane / 16};", "return {lane / 2, lane % 2};", VALUES
    ),
    "fragments of w exchanged": schedule(
        "{lane % 8 + lane / 16 * 8, lane / 8 % 2}", "{lane % 16, lane / 16}", VALUES
    ),
    "sums read from the wrong rows of the fragment": schedule(
        "{lane / 4 + reg / 2 * 8, lane % 4 * 2 + reg % 2}",
        "{lane / 4 * 2 + reg / 2, lane % 4 * 2 + reg % 2}",
        VALUES,
    ),
    "bands of tiles that overlap": schedule(
        "return {band * kBand + within % height, within / height};",
        "return {band * kBand + within % height, (within + 1) / height};",
        f"{VALUES}|{OUTSIDE}",
    ),
    "a block too few": matmul(
        "parts_of_y(plan, args.M, args.N) * plan.splits, threads(tile)",
        "parts_of_y(plan, args.M, args.N) * plan.splits - 1, threads(tile)",
        f"{VALUES}|invalid configuration",
    ),
    "a stage of shared memory too little": matmul(
        "threads(tile), shared_bytes(tile),",
        "threads(tile), shared_bytes(tile) - stage_bytes(tile),",
        "outside the block's",
    ),
    # Tails.
    "rows past the end are read": in_tiles("row < rows ? bytes : 0", "bytes", OUTSIDE),
    "columns past K are read": matmul(
        "bytes = min(max(left_of_K - k, 0), kChunk)",
        "bytes = kChunk",
        f"{VALUES}|{OUTSIDE}",
    ),
    "rows past M are written": in_tiles(
        "if (m < args.M && four.count > 0)", "if (four.count > 0)", OUTSIDE
    ),
    "columns past N are written": epilogue(
        "count(int(min(max(args.N - first, int64_t(0)), int64_t(4))))", "count(4)", OUTSIDE
    ),
    "values moved together where they are not aligned": epilogue(
        "return args.N % 4 == 0 &&",
        "return args.N % 2 == 0 &&",
        "is not a multiple of",
    ),
    # PTX.
    "operands of B exchanged": ptx(
        OPERANDS, OPERANDS.replace('"r"(b[0]), "r"(b[1])', '"r"(b[1]), "r"(b[0])'), VALUES
    ),
    "operands of A exchanged": ptx(
        OPERANDS,
        OPERANDS.replace('"r"(a[1]), "r"(a[2])', '"r"(a[2]), "r"(a[1])'),
        VALUES,
    ),
    "ldmatrix transposes": ptx("m8n8.x4.shared.b16", "m8n8.x4.trans.shared.b16", VALUES),
    "no zero fill": ptx(
        '"cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global),'
        '\n               "r"(bytes)',
        '"cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(global)',
        OUTSIDE,
    ),
    "sums do not start at zero": matmul(
        "sums[slices_m][slices_n][4] = {};", "sums[slices_m][slices_n][4];", VALUES
    ),
    # The epilogue, and quantize_rows.
    "the scale of w comes after the bias": epilogue(
        "    y[i] = product(y[i], columns.w_scale[i]);\n"
        "    if (args.bias) y[i] = sum(y[i], columns.bias[i]);",
        "    if (args.bias) y[i] = sum(y[i], columns.bias[i]);\n"
        "    y[i] = product(y[i], columns.w_scale[i]);",
        VALUES,
    ),
    "sums rounded towards zero": epilogue("__int2float_rn", "__int2float_rz", VALUES),
    "no barrier before the warps' maxima are read": quantize(
        "of_warp[threadIdx.x / kWarp] = value;\n  __syncthreads();",
        "of_warp[threadIdx.x / kWarp] = value;",
        f"nobody has written|{RACE}reads",
    ),
    "no barrier before the next row's maxima": quantize(
        "  __syncthreads();  // the next row writes of_warp again\n",
        "",
        f"{RACE}overwrites",
        **FEW_BLOCKS,
    ),
    "a reduction that leaves lanes out": quantize(
        "__reduce_max_sync(0xffffffff, value)",
        "__reduce_max_sync(0x7fffffff, value)",
        "its mask does not name",
    ),
    "values past K are read": quantize(
        "i < left ? from[i] : from_float32<T>(0.0f)", "from[i]", f"{OUTSIDE}|{VALUES}"
    ),
    "eight values read where they are not aligned": quantize(
        "is_aligned(args.x, 16) && args.K % kUnit == 0",
        "is_aligned(args.x, 16) && args.K % 2 == 0",
        f"is not a multiple of|{OUTSIDE}",
        **{"args.x_q_stride % kUnit == 0": "true"},
    ),
    "rounding towards zero": row("__float2int_rn", "__float2int_rz", VALUES),
    "a division that is not IEEE's": row(
        "__fdiv_rn(amax, float(kInt8Max))", "amax * __frcp_rn(float(kInt8Max))", VALUES
    ),
    "infinity taken for a number": row("largest < kInfinity", "largest <= kInfinity", VALUES),
    "x is read before the kernel before has ended": Mutant(
        LINEAR, LINEAR.source, {"  ptx::wait_for_kernel_before();\n": ""}, UNORDERED
    ),
    # Splits.
    "sums counted before they are seen": split(
        "    __stcg(sums_of(own)", "    if (threadIdx.x > 0) __stcg(sums_of(own)", VALUES
    ),
    "a part of K that two blocks multiply": split(
        "first_step(steps_of_K, own + 1, splits) - first",
        "first_step(steps_of_K, own + 1, splits) - first + (own == 0 && splits > 1)",
        VALUES,
    ),
    "its own sums added twice": split("    if (other == own) continue;\n", "", VALUES),
    "the last but one adds up": split(
        "atomicAdd(split.counter + part, 1) + 1 == uint32_t(split.splits)",
        "atomicAdd(split.counter + part, 1) + 2 == uint32_t(split.splits)",
        VALUES,
    ),
    "counters that are not zero at first": split(
        "words[i] = 0;", "words[i] = i == 0 ? 1 : 0;", VALUES
    ),
}


SUITE = Suite(MUTANTS)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name):
    SUITE.check_is_caught(name)


@pytest.mark.parametrize(
    "subject", [MATMUL, SPLIT, LINEAR, QUANTIZE], ids=["matmul", "split", "linear", "quantize"]
)
def test_there_is_no_false_alarm(subject):
    SUITE.check_is_right(subject)
