// Where everything of int8_matmul's kernel for every GPU goes: arithmetic that the kernel, its
// launcher and the tests share, and other kernels where they do likewise. No CUDA and no torch, so
// that a machine without a GPU can test it.
//
// A block computes one tile of y, (m, n), and goes through K in steps of k. Its warps divide the
// tile among themselves. A tile's rows of x and w lie in shared memory as 16-byte chunks, swizzled,
// one stage for each step of k that is under way. Places are pairs: the row of a matrix, then the
// column (of x, w and y themselves, or counted in chunks where the name says so).
#pragma once

#include <cstdint>

#include "../types.h"

namespace green_kernels {

struct Place {
  int row, column;
};

struct Tile {
  int m, n, k;           // of the problem that a block holds at a time
  int warps_m, warps_n;  // how its warps divide (m, n)
  int stages;            // steps of k in shared memory at once
};

constexpr int kWarpSize = 32;
constexpr int kMmaM = 16, kMmaN = 8, kMmaK = 32;  // what one mma multiplies

// A (64, 64) share for a warp is the largest whose sums stay in registers, and the larger the share
// the fewer bytes of shared memory a product takes. Small tiles are for small M and N: they make
// enough blocks to fill the chip, with steps of k = 128 so that each wait brings many bytes. No
// tile takes more than 99 KB, all that a block may have on sm_86, 89 and 120.
constexpr Tile kTiles[] = {
    {256, 128, 64, 4, 2, 4},  // 96 KB: one block an SM, least traffic
    {128, 128, 64, 2, 2, 4},  // 64 KB: two blocks an SM where it has 164 KB or more
    {64, 128, 64, 2, 2, 4},   // 48 KB: two blocks an SM everywhere
    {64, 64, 128, 2, 2, 3},   // 48 KB
    {32, 64, 128, 2, 2, 4},   // 48 KB
    {16, 64, 128, 1, 4, 4},   // 40 KB
    {16, 32, 128, 1, 2, 6},   // 36 KB: decoding, when (16, 64) would leave SMs idle
};
constexpr int kTileCount = sizeof(kTiles) / sizeof(kTiles[0]);

HOST_DEVICE constexpr int threads(const Tile& tile) {
  return tile.warps_m * tile.warps_n * kWarpSize;
}
HOST_DEVICE constexpr int warp_m(const Tile& tile) { return tile.m / tile.warps_m; }
HOST_DEVICE constexpr int warp_n(const Tile& tile) { return tile.n / tile.warps_n; }
HOST_DEVICE constexpr int chunks_per_row(const Tile& tile) { return tile.k / kChunk; }
HOST_DEVICE constexpr int stage_bytes(const Tile& tile) { return (tile.m + tile.n) * tile.k; }

// The place of chunk `chunk` of row `row`, counted in chunks, in a matrix of 4 or 8 chunks a row.
// Eight chunks are all the banks there are; the XOR sends the same chunk of eight rows, which is
// what ldmatrix reads at once, to eight different ones. Rows of 4 chunks share the banks in pairs.
HOST_DEVICE constexpr int swizzle(int row, int chunk, int chunks) {
  return row * chunks + (chunk ^ (row / (8 / chunks) % chunks));
}

// The chunk of a matrix that is copied `index`-th: a warp's 32 lanes take 32 in a row, so that they
// read whole lines of global memory and write to all banks evenly.
HOST_DEVICE constexpr Place copied_chunk(int index, int chunks) {
  return {index / chunks, index % chunks};
}

// The row and chunk, within 16 rows and 2 chunks of x, whose address a lane hands to ldmatrix.x4.
// The four matrices then are registers 0 .. 3 of the mma's A.
HOST_DEVICE constexpr Place x_fragment_chunk(int lane) { return {lane % 16, lane / 16}; }

// The same for 16 rows of w: registers 0 and 1 of B for the first 8 rows, then for the other 8.
HOST_DEVICE constexpr Place w_fragment_chunk(int lane) {
  return {lane % 8 + lane / 16 * 8, lane / 8 % 2};
}

// The element of A (16, 32), of B (32, 8) and of C (16, 8) that a lane holds in byte `byte` of
// register `reg`, or in register `reg`.
HOST_DEVICE constexpr Place mma_a(int lane, int reg, int byte) {
  return {lane / 4 + reg % 2 * 8, lane % 4 * 4 + reg / 2 * 16 + byte};
}
HOST_DEVICE constexpr Place mma_b(int lane, int reg, int byte) {
  return {lane % 4 * 4 + reg * 16 + byte, lane / 4};
}
HOST_DEVICE constexpr Place mma_c(int lane, int reg) {
  return {lane / 4 + reg / 2 * 8, lane % 4 * 2 + reg % 2};
}

// The first row and column of the tile that belong to a warp.
HOST_DEVICE constexpr Place warp_corner(const Tile& tile, int warp) {
  return {warp / tile.warps_n * warp_m(tile), warp % tile.warps_n * warp_n(tile)};
}

// A warp turns its sums, 16 rows at a time, from the mma's order to rows, through a piece of shared
// memory of its own. This is the word of a sum. Eight columns move together, of which four sets
// are all the banks there are: the XOR sends those of the four rows that a half warp stores to four
// different ones, and those of the rows that eight lanes read as well.
HOST_DEVICE constexpr int staged_word(const Tile& tile, int row, int column) {
  const int sets = warp_n(tile) / 8 < 4 ? warp_n(tile) / 8 : 4;
  return row * warp_n(tile) + (column ^ row / (4 / sets) % sets * 8);
}
HOST_DEVICE constexpr int staging_words(const Tile& tile) { return kMmaM * warp_n(tile); }

// The row of the 16, and the first of the four columns, that a lane writes in pass `pass`. A lane
// keeps its columns in every pass, and with them their scales and biases.
HOST_DEVICE constexpr Place written(const Tile& tile, int lane, int pass) {
  const int lanes = warp_n(tile) / 4;  // for one row
  return {pass * (kWarpSize / lanes) + lane / lanes, lane % lanes * 4};
}
HOST_DEVICE constexpr int write_passes(const Tile& tile) {
  return kMmaM * (warp_n(tile) / 4) / kWarpSize;
}

HOST_DEVICE constexpr int shared_bytes(const Tile& tile) {
  const int multiplying = tile.stages * stage_bytes(tile);
  const int writing = tile.warps_m * tile.warps_n * staging_words(tile) * 4;
  return multiplying > writing ? multiplying : writing;
}

// Blocks that run at the same time have neighbouring indices. In bands of 8 tiles down, 64 of them
// take 8 + 8 strips of x and w from memory, where row by row they could take 1 + 64.
constexpr int kBand = 8;

// The row and column, counted in tiles, of the tile that block `index` computes. (In 32 bits, since
// a GPU divides 64 by a call; tiles_m * tiles_n, a grid's size, fits.)
HOST_DEVICE constexpr Place tile_place(int index, int tiles_m, int tiles_n) {
  const int band_tiles = (tiles_m < kBand ? tiles_m : kBand) * tiles_n;
  const int band = index / band_tiles, within = index % band_tiles;
  const int below = tiles_m - band * kBand;
  const int height = below < kBand ? below : kBand;
  return {band * kBand + within % height, within / height};
}

// Whether several blocks may share a tile of this kind. Large ones leave no registers to add up in,
// and where they are too few, smaller ones come first.
HOST_DEVICE constexpr bool may_split(const Tile& tile) {
  return warp_m(tile) * warp_n(tile) / kWarpSize <= 64;  // sums of a thread
}

// The first of the `steps` of K that part `split` of `splits` multiplies; the last part ends at
// steps. No part has more than one step more than another, and a part may have none.
HOST_DEVICE constexpr int first_step(int steps, int split, int splits) {
  return int(int64_t(steps) * split / splits);
}

constexpr bool sound(const Tile& tile) {
  const int chunks = chunks_per_row(tile), lanes = warp_n(tile) / 4;
  return tile.m % (tile.warps_m * kMmaM) == 0     // a warp's rows are whole fragments of x,
         && tile.n % (tile.warps_n * 16) == 0     // and its columns whole ldmatrix.x4 of w
         && (chunks == 4 || chunks == 8)          // what swizzle knows
         && tile.k % (2 * kMmaK) == 0             // two fragments take turns, evenly in each step
         && threads(tile) % chunks == 0           // a thread's copies lie in one column,
         && tile.m * chunks % threads(tile) == 0  // as many of x for each thread,
         && tile.n * chunks % threads(tile) == 0  // and of w
         && kWarpSize % lanes == 0 && tile.stages >= 3 && shared_bytes(tile) <= 99 * 1024;
}

// Of the tiles of any kernel.
template <typename T, int kCount>
constexpr bool all_sound(const T (&tiles)[kCount]) {
  for (const T& tile : tiles)
    if (!sound(tile)) return false;
  return true;
}
static_assert(all_sound(kTiles));
static_assert(shared_bytes(kTiles[kTileCount - 1]) <= 48 * 1024, "the last one fits everywhere");

}  // namespace green_kernels
