"""Mutants of the CUDA kernels: each has one mistake, and the emulator must find it.

A mutant is the source with a piece replaced. `by` is what finds it: words of the emulator's error,
or VALUES where nothing is illegal and only the result is wrong, or CONFLICTS where the result is
right and only shared memory is slower.
"""

import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import emulator
import pytest
import torch
from emulator import build
from emulator.cuda_ops import CudaOps
from float_sums import assert_near_body

from green_kernels._C import plans
from green_kernels.ops import int8_matmul, int8_weight_linear, quantize_rows

pytestmark = pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))

VALUES, CONFLICTS = "values differ", "bank conflicts"
RACE = "race: "
EARLY = "has yet to write"  # what an asynchronous copy writes was touched before its wait
OUTSIDE = "outside all buffers"
SMALL_TILE = 5  # 16 rows, 64 columns
TRIES = 12  # schedules, with their seeds; most mutants fall to the first


@dataclass(frozen=True)
class Mutant:
    """A file of csrc/, pieces of it with what stands there instead, and what must find that."""

    file: str
    pieces: dict[str, str]
    by: str
    splits: int = 0  # into how many parts K goes; 0 for what the chooser takes

    @property
    def op(self):
        """The op that must show it."""
        for stem, op in (
            ("quantize_row", "quantize_rows"),
            ("int8_weight_linear", "int8_weight_linear"),
        ):
            if stem in self.file:
                return op
        return "int8_matmul"


def matmul(old, new, by):
    return Mutant("cuda/int8_matmul_mma.cu", {old: new}, by)


def split(old, new, by):
    return Mutant("cuda/int8_matmul_mma.cu", {old: new}, by, splits=4)


def tiles(old, new, by):
    return Mutant("cuda/tiles.cuh", {old: new}, by)


def schedule(old, new, by):
    return Mutant("cuda/int8_matmul_schedule.h", {old: new}, by)


def ptx(old, new, by):
    return Mutant("cuda/ptx.cuh", {old: new}, by)


def epilogue(old, new, by):
    return Mutant("cuda/epilogue.cuh", {old: new}, by)


def row(old, new, by):
    return Mutant("cuda/quantize_row.cuh", {old: new}, by)


def quantize(old, new, by, **more):
    return Mutant("cuda/quantize_rows.cu", {old: new} | more, by)


def weights(file, old, new, by):
    return Mutant(f"cuda/int8_weight_linear{file}", {old: new}, by)


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
        f"{EARLY}|nobody has written|{VALUES}",
    ),
    "no group for stages past the last": matmul(
        "    }\n    ptx::cp_async_commit_group();",
        "      ptx::cp_async_commit_group();\n    }",
        EARLY,
    ),
    "a stage read one step late": matmul(
        "ptx::ldmatrix_x4(x_stage(i) +",
        "ptx::ldmatrix_x4(x_stage(i + tile.stages - 1) +",
        f"{RACE}|{EARLY}|nobody has written|{VALUES}",
    ),
    "no barrier of the warp before its rows are written": tiles(
        "lane, sums[m]);\n    __syncwarp();",
        "lane, sums[m]);",
        f"{RACE}reads what the store",
    ),
    "no barrier of the warp before its rows are staged again": tiles(
        "      }\n    }\n    __syncwarp();\n", "      }\n    }\n", f"{RACE}overwrites"
    ),
    # Indices.
    "a swizzle off by one row, reading": matmul(
        "swizzle(row, step * 2 + x_at.column, chunks)",
        "swizzle(row + 1, step * 2 + x_at.column, chunks)",
        f"{VALUES}|nobody has written|{RACE}|outside the block",
    ),
    "a swizzle off by one row, writing": tiles(
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
    "rows past the end are read": tiles("row < rows ? bytes : 0", "bytes", OUTSIDE),
    "columns past K are read": matmul(
        "bytes = min(max(left_of_K - k, 0), kChunk)",
        "bytes = kChunk",
        f"{VALUES}|{OUTSIDE}",
    ),
    "rows past M are written": tiles(
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
    # int8_weight_linear, many rows.
    "int8 weights: a wait one group short": weights(
        "_tiles.cu", "wait_group<tile.stages - 2>()", "wait_group<tile.stages - 1>()", EARLY
    ),
    "int8 weights: no barrier before sums are staged": weights(
        "_tiles.cu", "  __syncthreads();  // the sums", "  // the sums", RACE
    ),
    "int8 weights: a swizzle off by one row": weights(
        "_tiles.cu",
        "swizzle(row, chunk, chunks)",
        "swizzle(row ^ 1, chunk, chunks)",
        VALUES,
    ),
    "int8 weights: chunks of x in the wrong order": weights(
        "_tiles.cu",
        "x_at.column + mma_values(mma, 0) / kChunkValues",
        "x_at.column + 1 - mma_values(mma, 0) / kChunkValues",
        VALUES,
    ),
    "int8 weights: registers of A exchanged": weights(
        "_tiles.cu",
        "{low[0], high[0], low[1], high[1]}",
        "{low[0], low[1], high[0], high[1]}",
        VALUES,
    ),
    "int8 weights: values of x past K are copied": weights(
        "_tiles.cu", "row < rows && i < left ?", "row < rows ?", f"{VALUES}|{OUTSIDE}"
    ),
    # Few rows.
    "int8 weights: a lane's wait one group short": weights(
        "_skinny.cu", "wait_group<kSkinnyAhead - 2>()", "wait_group<kSkinnyAhead - 1>()", EARLY
    ),
    "int8 weights: no barrier of the warp before sums are left": weights(
        "_skinny.cu", "  __syncwarp();  // other", "  // other", f"{RACE}overwrites"
    ),
    "int8 weights: no barrier before sums are added up": weights(
        "_skinny.cu",
        "  leave_sums();\n  __syncthreads();\n",
        "  leave_sums();\n",
        f"{RACE}|nobody has written",
    ),
    "int8 weights: a warp's sums left out": weights(
        "_skinny.cu", "other = 1; other < kSkinnyWarps", "other = 2; other < kSkinnyWarps", VALUES
    ),
    "int8 weights: rows of w past N are read": weights(
        "_skinny.cu", "n0 + held.row + half * 8 < args.N && ", "", OUTSIDE
    ),
    "int8 weights: values of x past K are read": weights(
        "_skinny.cu", "i < left ? from[i] :", "true ? from[i] :", f"{VALUES}|{OUTSIDE}"
    ),
    "int8 weights: what infinity leaves": weights("_skinny.cu", "isinf(value) ? 0 : ", "", VALUES),
    "int8 weights: partial sums that share banks": weights(
        "_schedule.h", "(column ^ column / 4) * kSkinnyRows", "column * kSkinnyRows", CONFLICTS
    ),
    # Widening.
    "int8 weights: the sign is a bit as others": weights(
        ".cuh", "base | 0x007f007f", "base | 0x00ff00ff", VALUES
    ),
    "int8 weights: pairs exchanged": weights(".cuh", "0x5352", "0x5253", VALUES),
}


def folder_of(mutant, to):
    """A copy of what of csrc/ the CUDA kernels need, with the mutant's pieces replaced."""
    shutil.copytree(build.CSRC, to, ignore=shutil.ignore_patterns("cpu", "*.cpp"))
    path = to / mutant.file
    text = path.read_text()
    for old, new in mutant.pieces.items():
        assert text.count(old) == 1 or old.startswith("__"), f"{mutant.file} has not one {old!r}"
        text = text.replace(old, new)
    path.write_text(text)
    return to


@pytest.fixture(scope="module")
def mutants(tmp_path_factory):
    """{name: the path of its launchers}, built side by side."""
    folder, emulated = tmp_path_factory.mktemp("mutants"), emulator.runtime().__file__

    def make(item):
        number, mutant = item
        name = f"mutant{number}"
        csrc = folder_of(mutant, folder / name / "csrc")
        return build.build_kernels(csrc, name, ["80"], emulated, mutant.op)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(MUTANTS, pool.map(make, enumerate(MUTANTS.values())), strict=True))


def matmul_arguments():
    """Tails in M, N and K, several steps of K; rows for vectors; sums that no float32 holds."""
    for M, N, K, least in ((70, 75, 400, -127), (40, 72, 1000, -127), (5, 46, 3000, 64)):
        x_q = torch.randint(least, 128, (M, K), dtype=torch.int8)
        w_q = torch.randint(least, 128, (N, K), dtype=torch.int8)
        yield x_q, torch.rand(M), w_q, torch.rand(N), torch.randn(N), torch.randn(M, N)


def quantize_arguments():
    for shape in ((3, 1500), (9, 77), (4, 1604), (2, 2048)):
        yield (torch.randn(shape) * torch.randint(1, 2**20, shape),)
    yield (torch.tensor([[1.0, torch.inf, 2.0], [1.0, 2.0, 3.0]]),)


def weight_linear_arguments():
    """Rows that are aligned or not, for each kernel and dtype; several steps of K for each warp."""
    for M, K, dtype in (
        (70, 584, torch.bfloat16), (70, 301, torch.float16),
        (9, 2200, torch.float16), (3, 301, torch.float32),
    ):  # fmt: skip
        x, w_q = torch.randn(M, K).to(dtype), torch.randint(-127, 128, (75, K), dtype=torch.int8)
        if dtype == torch.float32:
            x[1, 7] = torch.inf
        yield x, w_q, torch.rand(75), torch.randn(75)


def same_values(actual, expected):
    return all(
        torch.equal(a.nan_to_num(), e.nan_to_num()) and torch.equal(a.isnan(), e.isnan())
        for a, e in zip(actual, expected, strict=True)
    )


def is_right(op, args, outputs):
    """Whether they are the body's values, or as near as they can be where sums are rounded."""
    if op is int8_weight_linear:
        try:
            assert_near_body(outputs, *args)
        except AssertionError:
            return False
        return True
    expected = op.reference(*args)
    return same_values(*((t if op is quantize_rows else (t,)) for t in (outputs, expected)))


OPS = {
    "int8_matmul": (int8_matmul, matmul_arguments),
    "quantize_rows": (quantize_rows, quantize_arguments),
    "int8_weight_linear": (int8_weight_linear, weight_linear_arguments),
}


def symptom(mutant, ops):
    """What is seen of a mutant in a run over the arguments, or None."""
    op, arguments = OPS[mutant.op]
    for args in arguments():
        try:
            outputs = getattr(ops, mutant.op)(*args)
        except emulator.runtime().EmulatorError as error:
            return str(error)
        if not is_right(op, args, outputs):
            return VALUES
        if any(entry["wavefronts"] > entry["least"] for entry in ops.traffic):
            return CONFLICTS
    return None


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name, mutants):
    mutant = MUTANTS[name]
    module = emulator.load("_kernels", mutants[name])
    splitting = plans.Plan(plans.Kernel.mma, SMALL_TILE, mutant.splits) if mutant.splits else None
    ops = CudaOps(emulator.A100, lambda: module, splitting)
    for _ in range(TRIES):
        seen = symptom(mutant, ops)
        if seen:
            assert re.search(mutant.by, seen), seen
            return
    pytest.fail(f"not caught in {TRIES} tries")


def test_there_is_no_false_alarm():
    ops = CudaOps(emulator.A100)
    for _ in range(TRIES):
        for mutant in (MUTANTS["operands of B exchanged"], MUTANTS["rounding towards zero"]):
            assert symptom(mutant, ops) is None
