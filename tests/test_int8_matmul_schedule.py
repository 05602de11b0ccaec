"""The CUDA kernel's index arithmetic, and a NumPy emulation of the way its data take."""

from collections import deque
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from green_kernels._C import schedule

TILES = {f"{t.m}x{t.n}x{t.k}": t for t in schedule.TILES}
WARP = range(32)
CHUNK = 16  # bytes
BANKS = 8  # of 16 bytes, the width of ldmatrix and cp.async; 32 of 4 bytes

every_tile = pytest.mark.parametrize("tile", TILES.values(), ids=TILES)


# What the PTX ISA says of mma.m16n8k32 for 8-bit types and of ldmatrix, in its own words and order.


def isa_a(lane, i):
    group, member = lane >> 2, lane % 4
    row = group if i < 4 or 8 <= i < 12 else group + 8
    return row, member * 4 + (i & 3) + (0 if i < 8 else 16)


def isa_b(lane, i):
    group, member = lane >> 2, lane % 4
    return member * 4 + (i & 3) + (0 if i < 4 else 16), group


def isa_c(lane, i):
    group, member = lane >> 2, lane % 4
    return (group if i < 2 else group + 8), member * 2 + (i & 1)


@cache
def isa_indices(place, count):
    """Rows and columns, (32, count) each, of the elements that every lane holds."""
    places = np.array([[place(lane, i) for i in range(count)] for lane in WARP])
    return places[..., 0], places[..., 1]


def ldmatrix_x4(shared, addresses):
    """Four registers of four bytes for every lane, from 32 addresses of rows of 16 bytes."""
    rows = shared[np.asarray(addresses)[:, None] + np.arange(CHUNK)].reshape(4, 8, CHUNK)
    return rows.reshape(4, 32, 4).swapaxes(0, 1)  # lane l: bytes 4 * (l % 4) .. of row l // 4


def mma_m16n8k32(c, a, b):
    """C fragments (32, 4) plus the product of fragments (32, 4, 4) and (32, 2, 4)."""
    A, B = np.zeros((16, 32), np.int32), np.zeros((32, 8), np.int32)
    A[isa_indices(isa_a, 16)] = a.reshape(32, 16)
    B[isa_indices(isa_b, 8)] = b.reshape(32, 8)
    return c + (A @ B)[isa_indices(isa_c, 4)]


@pytest.mark.parametrize(
    ("ours", "isa", "registers", "bytes_each", "shape"),
    [
        (schedule.mma_a, isa_a, 4, 4, (16, 32)),
        (schedule.mma_b, isa_b, 2, 4, (32, 8)),
        (lambda lane, reg, _: schedule.mma_c(lane, reg), isa_c, 4, 1, (16, 8)),
    ],
    ids=["A", "B", "C"],
)
def test_fragments_are_those_of_the_isa_and_cover_each_element_once(
    ours, isa, registers, bytes_each, shape
):
    places = {}
    for lane in WARP:
        for i in range(registers * bytes_each):
            places[lane, i] = ours(lane, *divmod(i, bytes_each))
            assert places[lane, i] == isa(lane, i)
    assert sorted(places.values()) == sorted(np.ndindex(shape))


def fragment_addresses(tile, fragment_chunk, first_row, step):
    """What fetch_to_registers of int8_matmul_mma.cu hands to ldmatrix, in bytes."""
    places = [fragment_chunk(lane) for lane in WARP]
    return [
        CHUNK * schedule.swizzle(first_row + row, step * 2 + chunk, tile.chunks_per_row)
        for row, chunk in places
    ]


@every_tile
def test_ldmatrix_makes_the_fragments_of_the_mma(tile):
    """Each byte of the matrix says where it comes from: its column within 32, then its row."""
    by_column = np.tile(np.arange(32), (16, 2)).astype(np.uint8)[:, : tile.k]
    by_row = np.repeat(np.arange(16), 32).reshape(16, 32).astype(np.uint8)
    for step in range(2):
        for matrix, part in ((by_column[:, :32], 1), (by_row, 0)):
            shared = np.zeros(16 * tile.k, np.uint8)
            for row in range(16):
                for chunk in range(2):
                    at = schedule.swizzle(row, step * 2 + chunk, tile.chunks_per_row) * CHUNK
                    shared[at : at + CHUNK] = matrix[row, chunk * CHUNK : (chunk + 1) * CHUNK]
            x = ldmatrix_x4(shared, fragment_addresses(tile, schedule.x_fragment_chunk, 0, step))
            w = ldmatrix_x4(shared, fragment_addresses(tile, schedule.w_fragment_chunk, 0, step))
            for lane, reg, byte in np.ndindex(32, 4, 4):
                assert x[lane, reg, byte] == schedule.mma_a(lane, reg, byte)[part]
                k, n = schedule.mma_b(lane, reg % 2, byte)
                assert w[lane, reg, byte] == (n + reg // 2 * 8, k)[part]


@every_tile
def test_swizzle_is_a_bijection(tile):
    for rows in (tile.m, tile.n):
        places = [schedule.swizzle(r, c, tile.chunks_per_row) for r in range(rows)
                  for c in range(tile.chunks_per_row)]  # fmt: skip
        assert sorted(places) == list(range(rows * tile.chunks_per_row))


@every_tile
def test_ldmatrix_reads_every_bank_once(tile):
    """Of the 32 addresses, each eight are one access."""
    for fragment_chunk in (schedule.x_fragment_chunk, schedule.w_fragment_chunk):
        for first_row in range(0, min(tile.m, tile.n), 16):
            for step in range(tile.k // 32):
                addresses = fragment_addresses(tile, fragment_chunk, first_row, step)
                banks = np.reshape(addresses, (4, 8)) // CHUNK % BANKS
                assert all(len(set(access)) == BANKS for access in banks)


@every_tile
def test_cp_async_writes_every_bank_once_and_every_chunk_once(tile):
    for rows in (tile.m, tile.n):
        chunks = [schedule.copied_chunk(i, tile.chunks_per_row)
                  for i in range(rows * tile.chunks_per_row)]  # fmt: skip
        assert sorted(chunks) == sorted(np.ndindex(rows, tile.chunks_per_row))
        places = [schedule.swizzle(row, chunk, tile.chunks_per_row) for row, chunk in chunks]
        for access in np.reshape(places, (-1, 8)):
            assert len(set(access % BANKS)) == BANKS
        # A thread's copies lie in one column, which the kernel computes once.
        columns = np.reshape([chunk for _, chunk in chunks], (-1, tile.threads))
        assert (columns == columns[0]).all()


@every_tile
def test_warps_divide_the_tile(tile):
    seen = np.zeros((tile.m, tile.n), int)
    for warp in range(tile.threads // 32):
        m, n = tile.warp_corner(warp)
        seen[m : m + tile.warp_m, n : n + tile.warp_n] += 1
    assert (seen == 1).all()


@every_tile
def test_staging_turns_sums_into_rows(tile):
    """Each word is stored once and lies in the warp's own part; accesses meet in few banks."""
    stored = {}
    for n in range(tile.warp_n // 8):
        for reg in (0, 2):
            places = [schedule.mma_c(lane, reg) for lane in WARP]
            words = [tile.staged_word(r, n * 8 + c) for r, c in places]
            for half in np.reshape(words, (2, 16)):  # 8 bytes a lane: 16 lanes are an access
                assert len({*(half % 32), *((half + 1) % 32)}) == 32
            for (row, column), word in zip(places, words, strict=True):
                stored[word] = stored[word + 1] = (row, n * 8 + column)
    assert max(stored) < tile.staging_words and len(stored) == 16 * tile.warp_n

    written = []
    for p in range(tile.write_passes):
        places = [tile.written(lane, p) for lane in WARP]
        assert [c for _, c in places] == [tile.written(lane, 0)[1] for lane in WARP]
        words = [tile.staged_word(r, c) for r, c in places]
        assert all(word % 4 == 0 for word in words)  # one load of 16 bytes each
        for access in np.reshape(words, (4, 8)):
            assert len({*(access // 4 % BANKS)}) == 8
        written += [(r, c + i) for r, c in places for i in range(4)]
    assert sorted(written) == sorted(np.ndindex(16, tile.warp_n))


@given(tiles_m=st.integers(1, 60), tiles_n=st.integers(1, 60))
def test_every_tile_is_computed_once(tiles_m, tiles_n):
    places = [schedule.tile_place(i, tiles_m, tiles_n) for i in range(tiles_m * tiles_n)]
    assert sorted(places) == sorted(np.ndindex(tiles_m, tiles_n))


@given(data=st.data(), tiles_m=st.integers(1, 2**31 - 1))
def test_tiles_of_the_largest_grids_are_in_bounds(data, tiles_m):
    tiles_n = data.draw(st.integers(1, (2**31 - 1) // tiles_m))
    index = data.draw(st.integers(0, tiles_m * tiles_n - 1))
    m, n = schedule.tile_place(index, tiles_m, tiles_n)
    assert 0 <= m < tiles_m and 0 <= n < tiles_n


@every_tile
def test_every_tile_fits_every_chip_that_allows_99_kilobytes(tile):
    assert tile.shared_bytes <= 99 * 1024
    assert tile.shared_bytes >= tile.stages * tile.stage_bytes
    assert tile.shared_bytes >= 4 * tile.staging_words * tile.threads // 32


class Block:
    """One block of int8_matmul_mma.cu, step by step, its copies arriving as late as they may."""

    def __init__(self, tile, x, w, index, rng):
        """Stand before the first copy of block `index`, of x (M, K) and w (N, K)."""
        self.tile, self.x, self.w, self.rng = tile, x, w, rng
        (M, self.K), N = x.shape, w.shape[0]
        self.stages_of_K = -(-self.K // tile.k)
        m, n = schedule.tile_place(index, -(-M // tile.m), -(-N // tile.n))
        self.m0, self.n0 = m * tile.m, n * tile.n
        self.shared = self.garbage(tile.shared_bytes)
        self.under_way = deque()

    def garbage(self, size):
        return self.rng.integers(-128, 128, size, dtype=np.int8)

    def stage(self, i):
        size = self.tile.stage_bytes
        start = i % self.tile.stages * size
        split = start + self.tile.m * self.tile.k
        return self.shared[start:split], self.shared[split : start + size]

    def fetch_to_shared(self, i):
        group = []
        if i < self.stages_of_K:
            for part, matrix, first in zip(
                self.stage(i), (self.x, self.w), (self.m0, self.n0), strict=True
            ):
                part[:] = self.garbage(len(part))  # nobody may read it until the group is here
                group.append((part, self.swizzled(matrix[first:], len(part), i * self.tile.k)))
        self.under_way.append(group)

    def swizzled(self, matrix, size, k):
        """A stage's part of a matrix, as cp.async lays it down: zero past its rows and past K."""
        rows = np.zeros((size // self.tile.k, self.tile.k), np.int8)
        here = matrix[: len(rows), k : k + self.tile.k]
        rows[: here.shape[0], : here.shape[1]] = here
        out = np.empty((size // CHUNK, CHUNK), np.int8)
        for i in range(len(out)):
            row, chunk = schedule.copied_chunk(i, self.tile.chunks_per_row)
            place = schedule.swizzle(row, chunk, self.tile.chunks_per_row)
            out[place] = rows[row, chunk * CHUNK : (chunk + 1) * CHUNK]
        return out.reshape(-1)

    def wait_for_stage(self):
        while len(self.under_way) > self.tile.stages - 2:
            for part, values in self.under_way.popleft():
                part[:] = values

    def multiply(self):
        """The sums of the tile, through registers: by warp, slices of rows and of columns."""
        tile = self.tile
        corners = [tile.warp_corner(warp) for warp in range(tile.threads // 32)]
        sums = np.zeros((len(corners), tile.warp_m // 16, tile.warp_n // 8, 32, 4), np.int32)
        for i in range(tile.stages - 1):
            self.fetch_to_shared(i)
        for i in range(self.stages_of_K):
            self.wait_for_stage()
            self.fetch_to_shared(i + tile.stages - 1)
            x_part, w_part = self.stage(i)
            for step in range(tile.k // 32):
                for warp, (row, column) in enumerate(corners):
                    xs = [ldmatrix_x4(x_part, fragment_addresses(tile, schedule.x_fragment_chunk,
                          row + m * 16, step)) for m in range(tile.warp_m // 16)]  # fmt: skip
                    ws = [ldmatrix_x4(w_part, fragment_addresses(tile, schedule.w_fragment_chunk,
                          column + n * 16, step)) for n in range(tile.warp_n // 16)]  # fmt: skip
                    for m, n in np.ndindex(sums.shape[1:3]):
                        b = ws[n // 2][:, n % 2 * 2 : n % 2 * 2 + 2]
                        sums[warp, m, n] = mma_m16n8k32(sums[warp, m, n], xs[m], b)
        return zip(corners, sums, strict=True)

    def run(self, y):
        tile = self.tile
        for (row, column), of_warp in self.multiply():
            for m, of_slice in enumerate(of_warp):
                staging = np.zeros(tile.staging_words, np.int32)
                for n, lane, reg in np.ndindex(of_slice.shape):
                    r, c = schedule.mma_c(lane, reg)
                    staging[tile.staged_word(r, n * 8 + c)] = of_slice[n, lane, reg]
                for p in range(tile.write_passes):
                    for lane in WARP:
                        r, c = tile.written(lane, p)
                        four = staging[tile.staged_word(r, c) :][:4]
                        at_m = self.m0 + row + m * 16 + r
                        at_n = self.n0 + column + c
                        if at_m < y.shape[0]:
                            y[at_m, at_n : at_n + 4] = four[: max(0, y.shape[1] - at_n)]


def check_the_way_of_the_data(tile, M, N, K):
    rng = np.random.default_rng(M + N + K)
    x = rng.integers(-127, 128, (M, K), dtype=np.int8)
    w = rng.integers(-127, 128, (N, K), dtype=np.int8)
    y = np.full((M, N), -1, np.int32)
    for index in range(-(-M // tile.m) * -(-N // tile.n)):
        Block(tile, x, w, index, rng).run(y)
    np.testing.assert_array_equal(y, x.astype(np.int32) @ w.T.astype(np.int32))


@every_tile
def test_data_past_every_edge_of_a_tile_end_in_the_exact_product(tile):
    check_the_way_of_the_data(tile, tile.m + 1, tile.n + 1, tile.k + 1)


@every_tile
def test_every_stage_used_twice_ends_in_the_exact_product(tile):
    check_the_way_of_the_data(tile, 17, 9, 2 * tile.stages * tile.k - 15)


@settings(deadline=None, max_examples=20)
@given(
    tile=st.sampled_from(schedule.TILES[3:]),
    M=st.integers(1, 40),
    N=st.integers(1, 80),
    K=st.integers(0, 300),
)
def test_the_way_of_the_data_ends_in_the_exact_product(tile, M, N, K):
    check_the_way_of_the_data(tile, M, N, K)
