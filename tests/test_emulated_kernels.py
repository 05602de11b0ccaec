"""The kernels on the emulator: every shape, tile and epilogue, under many schedules; and what they
cost in shared and global memory. (The ops' own tests run on it too, by the `backend` fixture.)
"""

import emulator
import pytest
import torch
from emulator import cuda_ops, triton_ops
from shapes import SHAPES

from green_kernels._C import plans, schedule
from green_kernels.ops import ACTIVATIONS, int8_linear, int8_matmul, quantize_rows

pytestmark = pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))

SEEDS = 20
FLOATS = [torch.float32, torch.float16, torch.bfloat16]
DEVICES = {"sm_80": emulator.A100, "sm_90a": emulator.H100}


@pytest.fixture(params=DEVICES.values(), ids=DEVICES)
def preset(request):
    return request.param


OPS = {
    "sm_80": lambda: cuda_ops.CudaOps(emulator.A100).all(),
    "sm_90a": lambda: cuda_ops.CudaOps(emulator.H100).all(),
    "triton sm_80": lambda: triton_ops.kernels(80),
    "triton sm_90": lambda: triton_ops.kernels(90),
    "triton sm_120": lambda: triton_ops.kernels(120),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("ops", OPS.values(), ids=OPS)
def test_every_shape_under_many_schedules(shape, ops, assert_same_bits):
    M, N, K = shape
    args = matmul_arguments(M, N, K)
    x = torch.randn(M, K)
    for _ in range(SEEDS):
        assert_same_bits(ops()["int8_matmul"](*args), int8_matmul.reference(*args))
        for actual, e in zip(ops()["quantize_rows"](x), quantize_rows.reference(x), strict=True):
            assert_same_bits(actual, e)


def ops_of(tile, preset, splits=1):
    """The ops by this very tile of the kernel for every GPU."""
    return cuda_ops.CudaOps(preset, plan=plans.Plan(plans.Kernel.mma, tile, splits))


def problem_for(tile):
    """M, N, K past the edges of a tile, and past the ring of its stages."""
    tile = schedule.TILES[tile]
    return tile.m + 3, tile.n + 5, 2 * tile.stages * tile.k + 7


def matmul_arguments(M, N, K, dtype=torch.float32):
    x_q = torch.randint(-127, 128, (M, K), dtype=torch.int8)
    w_q = torch.randint(-127, 128, (N, K), dtype=torch.int8)
    x_scale, w_scale = torch.rand(M), torch.rand(N)
    return x_q, x_scale, w_q, w_scale, torch.randn(N).to(dtype), torch.randn(M, N).to(dtype)


TILES = pytest.mark.parametrize(
    "tile", range(len(schedule.TILES)), ids=[f"{t.m}x{t.n}x{t.k}" for t in schedule.TILES]
)


@TILES
def test_every_tile_under_many_schedules(tile, preset, assert_same_bits):
    args = matmul_arguments(*problem_for(tile))
    expected = int8_matmul.reference(*args)
    for _ in range(SEEDS):
        assert_same_bits(ops_of(tile, preset).int8_matmul(*args), expected)


SPLITTING = [i for i, tile in enumerate(schedule.TILES) if tile.may_split]


@pytest.mark.parametrize("splits", plans.SPLITS[1:])
@pytest.mark.parametrize("tile", SPLITTING)
def test_every_split_under_many_schedules(tile, splits, preset, assert_same_bits):
    """K in parts that are not alike. In int8_linear, quantize_rows sets the counters to zero: both
    ops make up the seeds.
    """
    M, N, K = 5, schedule.TILES[tile].n + 3, (splits + 1) * schedule.TILES[tile].k + 9
    args, x = matmul_arguments(M, N, K), torch.randn(M, K)
    expected, of_x = int8_matmul.reference(*args), int8_linear.reference(x, *args[2:5])
    for _ in range(SEEDS // 2):
        ops = ops_of(tile, preset, splits)
        assert_same_bits(ops.int8_matmul(*args), expected)
        assert_same_bits(ops.int8_linear(x, *args[2:5]), of_x)


@pytest.mark.parametrize("K", [0, 9])
def test_a_part_of_K_may_have_no_step(K, preset, assert_same_bits):
    """The chooser plans none such; whoever asks for a plan may."""
    args = matmul_arguments(5, 37, K)
    ops = ops_of(SPLITTING[-1], preset, plans.SPLITS[-1])
    assert_same_bits(ops.int8_matmul(*args), int8_matmul.reference(*args))


@TILES
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_every_epilogue_of_every_tile(tile, act, preset, assert_within_one_ulp):
    M, N, K = problem_for(tile)
    ops = ops_of(tile, preset)
    for dtype, out_dtype, N_more in zip(FLOATS, FLOATS[1:] + FLOATS[:1], (0, 3, 7), strict=True):
        x_q, x_scale, w_q, w_scale, bias, residual = matmul_arguments(M, N + N_more, K, dtype)
        scales = x_scale / 1000, w_scale / 100  # so that the activations' curves are where y is
        args = x_q, scales[0], w_q, scales[1], bias, None, act, out_dtype
        actual, expected = ops.int8_matmul(*args), int8_matmul.reference(*args)
        if act in ("none", "relu"):
            assert torch.equal(actual, expected)
        assert_within_one_ulp(actual, expected)
    args = x_q, scales[0], w_q, scales[1], bias, residual
    assert torch.equal(ops.int8_matmul(*args), int8_matmul.reference(*args))


def test_int8_linear_under_many_schedules(preset, assert_same_bits):
    x = torch.randn(37, 90)
    _, _, w_q, w_scale, bias, residual = matmul_arguments(37, 50, 90)
    args = x, w_q, w_scale, bias, "relu", residual
    expected = int8_linear.reference(*args)
    for _ in range(SEEDS):
        assert_same_bits(cuda_ops.CudaOps(preset).int8_linear(*args), expected)


def by_kind(traffic):
    """{kind: the sum of its entries}, over all lines."""
    sums = {}
    for entry in traffic:
        of_kind = sums.setdefault(entry["kind"], dict.fromkeys(entry, 0))
        for key in ("requests", "bytes", "wavefronts", "least", "sectors"):
            of_kind[key] += entry[key]
    return sums


@TILES
def test_int8_matmul_meets_no_bank_conflicts(tile, preset):
    ops = ops_of(tile, preset)
    ops.int8_matmul(*matmul_arguments(*problem_for(tile)))
    shared = [entry for entry in ops.traffic if entry["kind"].startswith("shared")]
    assert {e["kind"].split()[1].split(".")[0] for e in shared} == {"cp", "ldmatrix", "st", "ld"}
    for entry in shared:
        assert entry["wavefronts"] == entry["least"] > 0, entry


@TILES
def test_int8_matmul_reads_each_operand_once_a_tile(tile, preset):
    """Whole tiles: sectors of global memory are exactly those of the matrices, so often."""
    ops, tile = ops_of(tile, preset), schedule.TILES[tile]
    M, N, K = tile.m * 2, tile.n * 2, tile.k * 4
    ops.int8_matmul(*matmul_arguments(M, N, K))
    moved = by_kind(ops.traffic)
    copies = moved["global cp.async.cg.shared.global"]
    tiles_m, tiles_n = -(-M // tile.m), -(-N // tile.n)
    assert copies["bytes"] == tiles_m * tiles_n * (tile.m + tile.n) * K
    assert copies["sectors"] * 32 <= M * K * tiles_n + N * K * tiles_m
    written = moved["global st.global.wb.v4.s32"]
    assert written["bytes"] == written["sectors"] * 32 == M * N * 4


# Of one kind of row each: a warp's, blocks', the longest that is held whole, and one beyond that.
READS = {"warp": 1024, "block": 4096, "busy block": 8192, "large block": 32768, "longest": 40000}


@pytest.mark.parametrize("K", READS.values(), ids=READS)
def test_quantize_rows_reads_and_writes_once(K, preset, assert_same_bits):
    x = torch.randn(2, K)
    ops = cuda_ops.CudaOps(preset)
    for actual, e in zip(ops.quantize_rows(x), quantize_rows.reference(x), strict=True):
        assert_same_bits(actual, e)
    moved = by_kind(ops.traffic)
    reads = sum(v["bytes"] for k, v in moved.items() if k.startswith("global ld"))
    again = max(0, K - 32768)  # what of a row the registers of a block cannot hold
    assert reads == 2 * (K + again) * 4
    stored = moved["global st.global.wb.v2.s32"]
    assert stored["bytes"] == stored["sectors"] * 32 == x.numel()
