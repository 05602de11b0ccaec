"""The kernels on the emulator: every shape, tile and epilogue, under many schedules; and what they
cost in shared and global memory. (The ops' own tests run on it too, by the `backend` fixture.)
"""

import itertools

import emulator
import pytest
import torch
from emulator import cuda_ops, triton_ops
from shapes import SHAPES

from green_kernels._C import schedule
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


def problem_for(tile, preset):
    """M, N, K past the edges of such a tile, and a number of SMs for which it is chosen."""
    M, N, K = tile.m + 3, tile.n + 5, 2 * tile.stages * tile.k + 7
    index = next(i for i, other in enumerate(schedule.TILES) if same(other, tile))
    for rows, sm_count in itertools.product((M, tile.m - 1, 1), (1, 2, 3, 4, 8, 132, 1000)):
        if schedule.choose_tile(rows, N, K, sm_count, preset.shared_optin) == index:
            return rows, N, K, sm_count
    raise LookupError(f"nothing chooses {tile.m} x {tile.n}")


def same(a, b):
    return (a.m, a.n, a.k, a.warps_m, a.warps_n) == (b.m, b.n, b.k, b.warps_m, b.warps_n)


def matmul_arguments(M, N, K, dtype=torch.float32):
    x_q = torch.randint(-127, 128, (M, K), dtype=torch.int8)
    w_q = torch.randint(-127, 128, (N, K), dtype=torch.int8)
    x_scale, w_scale = torch.rand(M), torch.rand(N)
    return x_q, x_scale, w_q, w_scale, torch.randn(N).to(dtype), torch.randn(M, N).to(dtype)


TILES = pytest.mark.parametrize("tile", schedule.TILES, ids=lambda t: f"{t.m}x{t.n}x{t.k}")


@TILES
def test_every_tile_under_many_schedules(tile, preset, monkeypatch, assert_same_bits):
    M, N, K, sm_count = problem_for(tile, preset)
    monkeypatch.setattr(cuda_ops, "SM_COUNTS", (sm_count,))
    args = matmul_arguments(M, N, K)
    expected = int8_matmul.reference(*args)
    for _ in range(SEEDS):
        assert_same_bits(cuda_ops.CudaOps(preset).int8_matmul(*args), expected)


@TILES
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_every_epilogue_of_every_tile(tile, act, preset, monkeypatch, assert_within_one_ulp):
    M, N, K, sm_count = problem_for(tile, preset)
    monkeypatch.setattr(cuda_ops, "SM_COUNTS", (sm_count,))
    for dtype, out_dtype, N_more in zip(FLOATS, FLOATS[1:] + FLOATS[:1], (0, 3, 7), strict=True):
        x_q, x_scale, w_q, w_scale, bias, residual = matmul_arguments(M, N + N_more, K, dtype)
        scales = x_scale / 1000, w_scale / 100  # so that the activations' curves are where y is
        args = x_q, scales[0], w_q, scales[1], bias, None, act, out_dtype
        actual, expected = cuda_ops.CudaOps(preset).int8_matmul(*args), int8_matmul.reference(*args)
        if act in ("none", "relu"):
            assert torch.equal(actual, expected)
        assert_within_one_ulp(actual, expected)
    args = x_q, scales[0], w_q, scales[1], bias, residual
    assert torch.equal(cuda_ops.CudaOps(preset).int8_matmul(*args), int8_matmul.reference(*args))


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
def test_int8_matmul_meets_no_bank_conflicts(tile, preset, monkeypatch):
    M, N, K, sm_count = problem_for(tile, preset)
    monkeypatch.setattr(cuda_ops, "SM_COUNTS", (sm_count,))
    ops = cuda_ops.CudaOps(preset)
    ops.int8_matmul(*matmul_arguments(M, N, K))
    shared = [entry for entry in ops.traffic if entry["kind"].startswith("shared")]
    assert {e["kind"].split()[1].split(".")[0] for e in shared} == {"cp", "ldmatrix", "st", "ld"}
    for entry in shared:
        assert entry["wavefronts"] == entry["least"] > 0, entry


@TILES
def test_int8_matmul_reads_each_operand_once_a_tile(tile, preset, monkeypatch):
    """Whole tiles: sectors of global memory are exactly those of the matrices, so often."""
    M, N, K = tile.m * 2, tile.n * 2, tile.k * 4
    _, _, _, sm_count = problem_for(tile, preset)
    for count in (sm_count, 1, 4, 132, 1000):
        index = schedule.choose_tile(M, N, K, count, preset.shared_optin)
        if same(schedule.TILES[index], tile):
            break
    tile = schedule.TILES[index]
    monkeypatch.setattr(cuda_ops, "SM_COUNTS", (count,))
    ops = cuda_ops.CudaOps(preset)
    ops.int8_matmul(*matmul_arguments(M, N, K))
    moved = by_kind(ops.traffic)
    copies = moved["global cp.async.cg.shared.global"]
    tiles_m, tiles_n = -(-M // tile.m), -(-N // tile.n)
    assert copies["bytes"] == tiles_m * tiles_n * (tile.m + tile.n) * K
    assert copies["sectors"] * 32 <= M * K * tiles_n + N * K * tiles_m
    written = moved["global st.global.wb.v4.s32"]
    assert written["bytes"] == written["sectors"] * 32 == M * N * 4


def test_quantize_rows_reads_twice_and_writes_once(preset):
    x = torch.randn(8, 2048)
    ops = cuda_ops.CudaOps(preset)
    ops.quantize_rows(x)
    moved = by_kind(ops.traffic)
    reads = sum(v["bytes"] for k, v in moved.items() if k.startswith("global ld"))
    assert reads == 2 * x.numel() * 4
    stored = moved["global st.global.wb.v2.s32"]
    assert stored["bytes"] == stored["sectors"] * 32 == x.numel()
