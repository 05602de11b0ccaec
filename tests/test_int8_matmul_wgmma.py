"""int8_matmul's kernel for many rows: where its header puts everything, and the kernel itself on
the emulator, for each tile, with y by TMA and without, under many schedules.
"""

import itertools

import emulator
import pytest
import torch
from emulator.cuda_ops import CudaOps
from hypothesis import given
from hypothesis import strategies as st

from green_kernels._C import plans
from green_kernels.ops import ACTIVATIONS, int8_linear, int8_matmul

needs_emulator = pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))

K_STAGE = 128
LANES, PASSES, PIECE_SUMS = 32, 8, 32
PIECE = set(itertools.product(range(16), range(64)))
SEEDS = 20
FLOATS = [torch.float32, torch.float16, torch.bfloat16]
TILES = list(enumerate(plans.WGMMA_TILES))
SHARING = next(i for i, tile in TILES if tile.cluster > 1 and tile.m == tile.n)  # quick of these
each_tile = pytest.mark.parametrize(
    ("index", "tile"), TILES, ids=[f"{t.m}x{t.n}x{t.cluster}" for _, t in TILES]
)


@each_tile
def test_parts_of_shared_memory_do_not_overlap(index, tile):
    parts, size = plans.wgmma_shared(tile)
    end = 0
    for first, count in sorted(parts):
        assert first == end
        end += count
    assert end == size <= 227 * 1024
    swizzled = parts[: 2 * tile.stages]
    assert all(first % 1024 == 0 for first, _ in swizzled)


@each_tile
def test_pieces_cover_the_tile_once(index, tile):
    covered = [
        (row + r, column + c)
        for warp in range(8)
        for piece in range(plans.wgmma_pieces(tile))
        for row, column in [plans.wgmma_piece_corner(tile, warp, piece)]
        for r, c in ((0, 0), (15, 63))
    ]
    corners = set(itertools.product(range(0, tile.m, 16), range(0, tile.n, 64)))
    assert sorted(covered[::2]) == sorted(corners)
    assert max(covered) == (tile.m - 1, tile.n - 1)


def test_a_piece_is_held_staged_and_finished_once():
    held = [plans.wgmma_piece_element(i, reg) for i in range(LANES) for reg in range(PIECE_SUMS)]
    assert len(held) == len(PIECE) and set(held) == PIECE
    assert {plans.wgmma_piece_word(*at) for at in PIECE} == set(range(len(PIECE)))
    fours = [plans.wgmma_finished(i, p) for p in range(PASSES) for i in range(LANES)]
    assert sorted((r, c + i) for r, c in fours for i in range(4)) == sorted(PIECE)


@pytest.mark.parametrize("element_bytes", [2, 4])
def test_packed_values_replace_only_what_was_read(element_bytes):
    """In the piece's own place: no byte that a later pass will read."""
    for done in range(PASSES):
        places = [plans.wgmma_finished(i, done) for i in range(LANES)]
        last = max(plans.wgmma_packed_byte(*at, element_bytes) for at in places) + 4 * element_bytes
        unread = [
            plans.wgmma_piece_word(row, column) * 4
            for later in range(done + 1, PASSES)
            for row, column in (plans.wgmma_finished(i, later) for i in range(LANES))
        ]
        assert last <= min(unread, default=len(PIECE) * 4)


@given(
    st.sampled_from(plans.WGMMA_TILES),
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.integers(1, 200),
)
def test_every_tile_of_y_is_computed_once(tile, M, N, sm_count):
    blocks = plans.wgmma_corners(tile, M, N, sm_count)
    assert len(blocks) % tile.cluster == 0
    assert len(blocks) <= max(sm_count, tile.cluster)
    corners = [corner for of_block in blocks for corner in of_block if corner[0] < M]
    expected = set(itertools.product(range(0, M, tile.m), range(0, N, tile.n)))
    assert len(corners) == len(expected) and set(corners) == expected
    for first in range(0, len(blocks), tile.cluster):  # have their turns together, and share w
        turns = zip(*blocks[first : first + tile.cluster], strict=True)
        for turn in turns:
            assert len({column for _, column in turn}) == 1


def matmul_arguments(M, N, K, dtype=torch.float32):
    x_q = torch.randint(-127, 128, (M, K), dtype=torch.int8)
    w_q = torch.randint(-127, 128, (N, K), dtype=torch.int8)
    return (
        x_q,
        torch.rand(M) / 1000,  # so that the activations' curves are where y is
        w_q,
        torch.rand(N) / 100,
        torch.randn(N).to(dtype),
        torch.randn(M, N).to(dtype),
    )


def ops_for(index):
    return CudaOps(emulator.H100, plan=plans.Plan(plans.Kernel.wgmma, index, 1))


@needs_emulator
@each_tile
@pytest.mark.parametrize("odd", [0, 1], ids=["y by TMA", "y by lanes"])
def test_past_a_tile_each_way_under_many_schedules(index, tile, odd, assert_same_bits):
    """And more steps than stages, so that the ring turns. Both ways of y make up the seeds."""
    args = matmul_arguments(tile.m + 1, tile.n + 4 + odd, (tile.stages + 1) * K_STAGE + 16)
    expected = int8_matmul.reference(*args)
    for _ in range(SEEDS // 2):
        assert_same_bits(ops_for(index).int8_matmul(*args), expected)


SMALL = {
    "one number": (1, 1, 16),
    "nothing to sum": (5, 8, 0),
    "a consumer with no row, K no multiple of 16": (37, 44, 100),
    "two steps, y by lanes": (70, 43, 144),
}


@needs_emulator
@pytest.mark.parametrize("shape", SMALL.values(), ids=SMALL)
def test_small_shapes_under_many_schedules(shape, assert_same_bits):
    args = matmul_arguments(*shape)
    expected = int8_matmul.reference(*args)
    for index in range(len(TILES) - 3, len(TILES)):  # of every kind of cluster, and quick
        for _ in range(SEEDS):
            assert_same_bits(ops_for(index).int8_matmul(*args), expected)


@needs_emulator
def test_the_ring_turns_in_clusters_under_many_schedules(assert_same_bits):
    args = matmul_arguments(3, 4, (TILES[SHARING][1].stages + 1) * K_STAGE)
    expected = int8_matmul.reference(*args)
    for _ in range(SEEDS):
        assert_same_bits(ops_for(SHARING).int8_matmul(*args), expected)


@needs_emulator
def test_int8_linear_whose_product_may_begin_before_x_is_rounded(assert_same_bits):
    x_q, _, w_q, w_scale, bias, residual = matmul_arguments(130, 20, 144)
    args = x_q / 7, w_q, w_scale, bias, "relu", residual
    expected = int8_linear.reference(*args)
    for _ in range(SEEDS):
        assert_same_bits(ops_for(SHARING).int8_linear(*args), expected)


@needs_emulator
@each_tile
def test_epilogues(index, tile, assert_within_one_ulp):
    for act, (dtype, out_dtype), more in zip(
        ACTIVATIONS,
        itertools.cycle(itertools.product(FLOATS, FLOATS[::-1])),
        itertools.cycle((0, 3)),
        strict=False,
    ):
        args = *matmul_arguments(20, 72 + more, 48, dtype), act, out_dtype
        actual, expected = ops_for(index).int8_matmul(*args), int8_matmul.reference(*args)
        if act in ("none", "relu"):
            assert torch.equal(actual, expected)
        assert_within_one_ulp(actual, expected)


@needs_emulator
@each_tile
@pytest.mark.parametrize("out_dtype", FLOATS, ids=str)
def test_staging_meets_no_bank_conflicts(index, tile, out_dtype):
    ops = ops_for(index)
    ops.int8_matmul(*matmul_arguments(64, 128, 128), "none", out_dtype)
    shared = [e for e in ops.traffic if e["kind"].startswith("shared")]
    assert shared
    for entry in shared:
        assert entry["wavefronts"] == entry["least"] > 0, entry
