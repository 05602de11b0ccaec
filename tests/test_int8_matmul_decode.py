"""int8_matmul for few rows on sm_90a: where its data go, and the kernel on the emulator."""

import itertools

import emulator
import pytest
import torch
from emulator.cuda_ops import CudaOps

from green_kernels._C import plans
from green_kernels.ops import ACTIVATIONS, int8_linear, int8_matmul

needs_emulator = pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))

SEEDS = 20
FLOATS = [torch.float32, torch.float16, torch.bfloat16]
TILES = list(enumerate(plans.DECODE_TILES))
QUANTIZING = next(i for i, tile in TILES if tile.quantizes)
ROWS, STEP = 128, 128  # of w for a block, and of K for a stage
CONSUMERS, WARPS = 256, 8  # threads that multiply, and their warps

every_tile = pytest.mark.parametrize(
    "tile", [i for i, tile in TILES if not tile.quantizes], ids=lambda i: f"{TILES[i][1].tokens}"
)
every_split = pytest.mark.parametrize("splits", plans.SPLITS)


def ops_of(tile, splits):
    return CudaOps(emulator.H100, plan=plans.Plan(plans.Kernel.decode, tile, splits))


def matmul_arguments(M, N, K, dtype=torch.float32):
    x_q = torch.randint(-127, 128, (M, K), dtype=torch.int8)
    w_q = torch.randint(-127, 128, (N, K), dtype=torch.int8)
    scales = torch.rand(M) / 1000, torch.rand(N) / 100  # y is where activations curve
    return x_q, scales[0], w_q, scales[1], torch.randn(N).to(dtype), torch.randn(M, N).to(dtype)


def linear_arguments(M, N, K, dtype):
    _, _, w_q, w_scale, bias, residual = matmul_arguments(M, N, K, dtype)
    return torch.randn(M, K).to(dtype), w_q, w_scale, bias, "relu", residual


# Where everything goes.


@every_split
@pytest.mark.parametrize("K", [0, 1, 127, 128, 129, 1000, 1025, 8192])
def test_blocks_of_a_cluster_share_the_steps_evenly(K, splits):
    steps = plans.decode_steps(K)
    assert steps == -(-K // STEP)
    shares = [plans.decode_share(steps, splits, rank) for rank in range(splits)]
    taken = [step for first, count in shares for step in range(first, first + count)]
    assert taken == list(range(steps))
    assert max(count for _, count in shares) - min(count for _, count in shares) <= 1


def test_clusters_cover_the_tiles_once():
    for tiles_of_x, tiles_of_w in ((1, 5), (3, 4)):
        places = [plans.decode_place(i, tiles_of_x) for i in range(tiles_of_x * tiles_of_w)]
        assert sorted(places) == sorted(itertools.product(range(tiles_of_x), range(tiles_of_w)))


@pytest.mark.parametrize("tokens", sorted({tile.tokens for _, tile in TILES}))
def test_sums_cover_the_tile_once_and_meet_no_bank_conflicts(tokens):
    count = ROWS * tokens // CONSUMERS
    places = {(t, i): plans.decode_sum(t, i) for t in range(CONSUMERS) for i in range(count)}
    assert sorted(places.values()) == sorted(itertools.product(range(ROWS), range(tokens)))
    words = {at: plans.decode_sum_word(token, row) for at, (row, token) in places.items()}
    assert len(set(words.values())) == len(words)
    for i in range(count):
        for first in range(0, CONSUMERS, 32):
            assert len({words[thread, i] % 32 for thread in range(first, first + 32)}) == 32


@every_split
@pytest.mark.parametrize("tokens", sorted({tile.tokens for _, tile in TILES}))
def test_every_token_is_added_up_once(tokens, splits):
    turns = -(-tokens // (splits * WARPS))
    added = [
        plans.decode_added_token(splits, rank, warp, turn)
        for rank, warp, turn in itertools.product(range(splits), range(WARPS), range(turns))
    ]
    assert sorted(token for token in added if token < tokens) == list(range(tokens))


def test_rounded_values_lie_as_a_128_byte_swizzle_puts_them():
    for token, k in itertools.product(range(8), range(STEP)):
        byte = token * STEP + k
        assert plans.decode_x_byte(token, k) == byte ^ (byte >> 7 & 7) << 4


def test_warps_are_as_many_for_each_token():
    for tokens in range(1, 9):
        assert plans.decode_team_warps(tokens) * tokens <= WARPS
        assert WARPS % plans.decode_team_warps(tokens) == 0


@pytest.mark.parametrize("tile", [tile for _, tile in TILES], ids=lambda t: f"{t.tokens}")
@every_split
def test_shared_memory_holds_every_product_that_fits(tile, splits):
    two_blocks = tile.tokens <= 64 and not tile.quantizes
    of_each = emulator.H100.shared_per_sm // 2 - 1024  # which a block has besides
    limit = of_each if two_blocks else emulator.H100.shared_optin
    fitting = [K for K in range(0, 100_000, 999) if tile.fits(K, splits)]
    assert fitting
    assert all(tile.shared_bytes(K, splits) <= limit for K in fitting)


# The kernel.


@needs_emulator
@every_tile
@every_split
def test_every_tile_and_split_under_many_schedules(tile, splits, assert_same_bits):
    for seed in range(SEEDS):
        M, K = ((5, 300), (1, 1030), (TILES[tile][1].tokens + 1, 60), (3, 0))[seed % 4]
        args = matmul_arguments(M, 130, K)
        assert_same_bits(ops_of(tile, splits).int8_matmul(*args), int8_matmul.reference(*args))


@needs_emulator
@every_tile
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_every_epilogue_of_every_tile(tile, act, assert_within_one_ulp):
    for dtype, out_dtype, N in zip(FLOATS, FLOATS[1:] + FLOATS[:1], (132, 131, 9), strict=True):
        *args, residual = matmul_arguments(6, N, 200, dtype)
        plain = *args, None, act, out_dtype
        actual = ops_of(tile, 2).int8_matmul(*plain)
        assert_within_one_ulp(actual, int8_matmul.reference(*plain))
        exact = *args, residual, "relu", out_dtype
        assert torch.equal(ops_of(tile, 2).int8_matmul(*exact), int8_matmul.reference(*exact))


@needs_emulator
@every_split
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_int8_linear_in_one_launch(dtype, splits, assert_same_bits):
    for M, K in itertools.product((1, 2, 3, 4), (1, 200, 523)):
        x, *rest = linear_arguments(M, 130, K, dtype)
        actual = ops_of(QUANTIZING, splits).int8_linear(x, *rest)
        assert_same_bits(actual, int8_linear.reference(x, *rest))


@needs_emulator
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_int8_linear_under_many_schedules(dtype, assert_same_bits):
    args = linear_arguments(3, 130, 700, dtype)
    expected = int8_linear.reference(*args)
    for seed in range(SEEDS):
        ops = ops_of(QUANTIZING, plans.SPLITS[seed % 4])
        assert_same_bits(ops.int8_linear(*args), expected)


@needs_emulator
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_rows_that_are_not_finite_or_all_zero(bad, dtype, assert_same_bits):
    x, *rest = linear_arguments(4, 130, 300, dtype)
    x[0] = 0
    x[1, 299] = x[3, 5] = bad
    y = ops_of(QUANTIZING, 2).int8_linear(x, *rest)
    assert_same_bits(y, int8_linear.reference(x, *rest))
    assert y.isnan().all(-1).tolist() == y.isnan().any(-1).tolist() == [False, True, False, True]


@needs_emulator
@pytest.mark.parametrize("tile", [i for i, _ in TILES])
@every_split
def test_there_are_no_bank_conflicts(tile, splits):
    ops = ops_of(tile, splits)
    if tile == QUANTIZING:
        ops.int8_linear(*linear_arguments(4, 128, 1024, torch.float16))
    else:
        ops.int8_matmul(*matmul_arguments(TILES[tile][1].tokens, 128, 1024))
    shared = [entry for entry in ops.traffic if entry["kind"].startswith("shared")]
    assert shared
    for entry in shared:
        assert entry["wavefronts"] == entry["least"], entry
