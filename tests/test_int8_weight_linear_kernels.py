"""int8_weight_linear on CUDA: where its data go, and each of its kernels on the emulator."""

import itertools
import math

import emulator
import pytest
import torch
from emulator import cuda_ops
from emulator.cuda_ops import CudaOps
from float_sums import assert_near_body
from hypothesis import given
from hypothesis import strategies as st

from green_kernels._C import schedule
from green_kernels.ops import int8_weight_linear

needs_emulator = pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))
DEVICES = {"sm_80": emulator.A100, "sm_90a": emulator.H100}
HALVES = [torch.float16, torch.bfloat16]
WARP = range(32)
BANKS = 8  # of 16 bytes; 32 of 4
STEP, STEP_MMAS, LANE_K = 64, 4, 16  # values of K, mmas deep, values that a lane holds of a row
CHUNKS = {"x": 8, "w": 4}  # of 16 bytes, in a row of a step
WARPS = 8  # of a block of the kernel for few rows
TILES = schedule.WEIGHT_TILES

every_tile = pytest.mark.parametrize(
    "tile", range(len(TILES)), ids=[f"{tile.m}x{tile.n}" for tile in TILES]
)
both_matrices = pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)


# Where everything goes.


def test_both_operands_of_an_mma_have_the_same_order_of_k():
    """The ISA's rows of B and columns of A, to the value of the step that the kernels put there."""
    order = {}
    for mma, lane in itertools.product(range(STEP_MMAS), WARP):
        member = lane % 4
        for i in range(4):  # of B (16, 8)
            k = member * 2 + (i & 1) + (0 if i < 2 else 8)
            value = member * LANE_K + schedule.mma_values(mma, i // 2) + i % 2
            assert order.setdefault((mma, k), value) == value
        for i in range(8):  # of A (16, 16); registers 2 and 3 are those of i from 4 on
            k = member * 2 + (i & 1) + (0 if i < 4 else 8)
            value = member * LANE_K + schedule.mma_values(mma, i // 2 // 2) + i % 2
            assert order[mma, k] == value
    assert sorted(order.values()) == list(range(STEP))


@both_matrices
def test_lanes_hold_each_chunk_once_and_meet_no_bank_conflicts(chunks):
    at_once = chunks // 4  # chunks of a lane
    held = []
    for first_row, more in itertools.product(range(0, 64, 8), range(at_once)):
        places = [schedule.held_chunk(lane, chunks) for lane in WARP]
        held += [(first_row + row, chunk + more) for row, chunk in places]
        found = [schedule.swizzle(*place, chunks) % BANKS for place in held[-32:]]
        for first in range(0, 32, 8):  # 16 bytes a lane: 8 lanes are an access
            assert len(set(found[first : first + 8])) == BANKS
    assert sorted(held) == sorted(itertools.product(range(64), range(chunks)))


@every_tile
@both_matrices
def test_threads_copy_each_chunk_once(tile, chunks):
    """A thread's lie in one column, rows apart, as copy_rows goes."""
    tile = TILES[tile]
    rows, apart = tile.m if chunks == CHUNKS["x"] else tile.n, tile.threads // chunks
    copied = [schedule.copied_chunk(thread, chunks) for thread in range(tile.threads)]
    places = [(row + more, chunk) for row, chunk in copied for more in range(0, rows, apart)]
    assert sorted(places) == sorted(itertools.product(range(rows), range(chunks)))


def test_partial_sums_have_a_word_each_and_meet_no_bank_conflicts():
    words = {}
    for first_row, reg in itertools.product((0, 8), (0, 2)):
        # The mma's rows are columns of y, for its A is w.
        places = [schedule.mma_c(lane, reg)[::-1] for lane in WARP]
        stored = [schedule.partial_word(first_row + row, column) for row, column in places]
        for access in (stored[:16], stored[16:]):  # 8 bytes a lane: 16 lanes are an access
            assert len({(word + i) % 32 for word in access for i in (0, 1)}) == 32
        for (row, column), word in zip(places, stored, strict=True):
            words[first_row + row, column] = word
            words[first_row + row + 1, column] = word + 1
    assert sorted(words.values()) == list(range(16 * 16))
    for first, i in itertools.product((0, 32), range(4)):
        places = [schedule.skinny_written(first + lane) for lane in WARP]
        assert len({words[row, column + i] % 32 for row, column in places}) == 32


def test_each_sum_is_written_once():
    places = [schedule.skinny_written(thread) for thread in range(64)]
    written = [(row, column + i) for row, column in places for i in range(4)]
    assert sorted(written) == sorted(itertools.product(range(16), range(16)))
    assert all(schedule.skinny_written(thread)[0] >= 16 for thread in range(64, 32 * WARPS))


@every_tile
def test_every_tile_fits_every_chip_that_allows_99_kilobytes(tile):
    tile = TILES[tile]
    assert tile.stages * (tile.m * 2 + tile.n) * STEP == schedule.weight_shared_bytes(tile)
    assert 4 * tile.staging_words * tile.threads // 32 <= schedule.weight_shared_bytes(tile)
    assert schedule.weight_shared_bytes(tile) <= 99 * 1024


@given(M=st.integers(1, 10**6), N=st.integers(1, 10**6), sm_count=st.integers(1, 500))
def test_a_gpu_that_is_not_full_has_the_smallest_tiles(M, N, sm_count):
    chosen, smallest = schedule.choose_weight_tile(M, N, sm_count), len(TILES) - 1
    assert 0 <= chosen <= smallest
    if schedule.weight_tiles_of_y(TILES[smallest], M, N) <= sm_count:
        assert chosen == smallest


def test_large_products_have_the_largest_tiles():
    assert schedule.choose_weight_tile(8192, 8192, 132) == 0


# The kernels.

# Past the edges of a tile, and what chooses it: how many SMs there are.
PROBLEMS = [(250, 235, 1), (122, 71, 4), (37, 74, 4), (37, 74, 132)]


def arguments(M, N, K, dtype):
    """Of wide range, so that a value too many or too few shows."""
    x = (torch.randn(M, K) * torch.randint(1, 9, (M, 1))).to(dtype)
    w_q = torch.randint(-127, 128, (N, K), dtype=torch.int8)
    return x, w_q, torch.rand(N) / 127, torch.randn(N), "relu", torch.randn(M, N).to(dtype)


def check_under_schedules(args, preset, assert_same_bits, times=2):
    """Near the body, the same in each run, and nothing waits for a bank."""
    first = None
    for _ in range(times):
        ops = CudaOps(preset)
        y = ops.int8_weight_linear(*args)
        if first is None:
            assert_near_body(y, *args)
            first = y
        assert_same_bits(y, first)
        shared = [entry for entry in ops.traffic if entry["kind"].startswith("shared")]
        assert shared
        for entry in shared:
            assert entry["wavefronts"] == entry["least"] > 0, entry


@needs_emulator
@pytest.mark.parametrize("preset", DEVICES.values(), ids=DEVICES)
@pytest.mark.parametrize("more", [8, 7], ids=["aligned", "not aligned"])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@every_tile
def test_every_tile(tile, dtype, more, preset, monkeypatch, assert_same_bits):
    """K past the ring of its stages."""
    M, N, sm_count = PROBLEMS[tile]
    assert schedule.choose_weight_tile(M, N, sm_count) == tile
    monkeypatch.setattr(cuda_ops, "SM_COUNTS", (sm_count,))
    K = (TILES[tile].stages + 1) * STEP + more
    check_under_schedules(arguments(M, N, K, dtype), preset, assert_same_bits)


@needs_emulator
@pytest.mark.parametrize("preset", DEVICES.values(), ids=DEVICES)
@pytest.mark.parametrize("more", [8, 7], ids=["aligned", "not aligned"])
@pytest.mark.parametrize(
    ("rows", "dtype"),
    [(1, torch.bfloat16), (8, torch.float16), (9, torch.bfloat16), (16, torch.float16)]
    + [(5, torch.float32), (19, torch.float32)],
    ids=str,
)
def test_few_rows(rows, dtype, more, preset, assert_same_bits):
    """K past what each warp has under way at first."""
    args = arguments(rows, 37, 5 * WARPS * STEP + more, dtype)
    check_under_schedules(args, preset, assert_same_bits)


ON_A_GPU = [("few rows", dtype) for dtype in (torch.float32, *HALVES)] + [
    (f"{tile.m}x{tile.n}", dtype) for tile in TILES for dtype in HALVES
]


@pytest.mark.gpu
@pytest.mark.parametrize("kernel, dtype", ON_A_GPU, ids=lambda value: str(value))
def test_small_products_on_a_gpu(kernel, dtype):
    """Of few outputs, as a sanitizer is slow; and the body on the CPU, as it looks at torch too."""
    sm_count = torch.cuda.get_device_properties("cuda").multi_processor_count
    for M, N in small_sizes(kernel, dtype, sm_count):
        args = arguments(M, N, 3 * STEP + 7, dtype)
        y = int8_weight_linear(*(a.cuda() if torch.is_tensor(a) else a for a in args))
        assert_near_body(y.cpu(), *args)


def small_sizes(kernel, dtype, sm_count):
    """M and N of which this kernel, or this tile, computes y on a GPU of so many SMs."""
    if kernel == "few rows":
        return [(5, 37), (16, 37)] + [(19, 37)] * (dtype == torch.float32)
    sides = [2**i + 1 for i in range(4, 13)]
    found = [
        sizes
        for sizes in itertools.product(sides, sides)
        if kernel == "{0.m}x{0.n}".format(TILES[schedule.choose_weight_tile(*sizes, sm_count)])
    ]
    return [min(found, key=math.prod)]


@pytest.mark.parametrize("kernel, dtype", ON_A_GPU, ids=lambda value: str(value))
@pytest.mark.parametrize("sm_count", [16, 108, 132, 148])
def test_small_sizes_are_there_on_each_gpu(sm_count, kernel, dtype):
    assert max(map(math.prod, small_sizes(kernel, dtype, sm_count))) <= 2**22


@needs_emulator
def test_few_rows_read_each_weight_once():
    N, K = 48, 3 * WARPS * STEP
    ops = CudaOps(emulator.A100)
    ops.int8_weight_linear(*arguments(9, N, K, torch.float16))
    assert sum(e["sectors"] for e in ops.traffic if "cp.async" in e["kind"]) * 32 == N * K


@needs_emulator
@pytest.mark.parametrize("x", [2.0**127 * (2 - 2.0**-23), 1 + 2.0**-23, -(2.0**-100) / 3, 1 / 3])
def test_float32_is_multiplied_whole(x):
    """x * 1 has all bits of x, that of the largest number too, which bfloat16 would round away."""
    x = torch.tensor([[x, 0.0]])
    y = CudaOps(emulator.A100).int8_weight_linear(
        x, torch.ones(1, 2, dtype=torch.int8), torch.ones(1)
    )
    assert y.item() == x[0, 0].item()


@needs_emulator
@pytest.mark.parametrize("bits", [0x7F800001, 0x7FC00000, 0xFFFFFFFF], ids=hex)
def test_every_nan_is_one(bits):
    """Also that whose leading bits are infinity's."""
    x = torch.tensor([[bits - (1 << 32) * (bits >> 31), 0]], dtype=torch.int32).view(torch.float32)
    y = CudaOps(emulator.A100).int8_weight_linear(
        x, torch.ones(1, 2, dtype=torch.int8), torch.ones(1)
    )
    assert y.isnan().all()


@needs_emulator
@pytest.mark.parametrize("rows", [16, 64], ids=["few rows", "many"])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_every_int8_is_exact(dtype, rows):
    """-128 too, which no weight should be; and each k meets its own."""
    w_q = torch.arange(-128, 128).char().reshape(4, 64)
    for x in torch.eye(64, dtype=dtype).split(rows):
        args = x, w_q, torch.ones(4), None, "none", None, torch.float32
        y = CudaOps(emulator.A100).int8_weight_linear(*args)
        assert torch.equal(y, x.float() @ w_q.float().T)
