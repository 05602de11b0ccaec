// Where everything of the kernel for many rows on sm_90a goes: arithmetic that the kernel, its
// launcher, the chooser of plans and the tests share. No CUDA and no torch.
//
// A block stays on its SM and computes tile after tile of y. One warpgroup has x and w copied into
// a ring of stages in shared memory, two others multiply, each the half of a tile's rows. Their
// sums go to y in pieces: each warp's 16 rows of a wgmma, 64 columns at a time, through a place in
// shared memory that is the warp's own.
#pragma once

#include <cstdint>

#include "int8_matmul_schedule.h"
#include "stages_sm90a.h"

namespace green_kernels {

struct WgmmaTile {
  int m, n;     // of y
  int stages;   // of k = 128 in shared memory at once
  int cluster;  // blocks, one below the other, that share what they read of w
};

constexpr int kWarpRows = 16;                                   // of a wgmma
constexpr int kPieceN = 64;                                     // columns
constexpr int kPieceSums = kWarpRows * kPieceN / kWarpSize;     // of a lane
constexpr int kPieceBytes = kWarpRows * kPieceN * 4;            // in float32
constexpr int kPasses = kWarpRows * kPieceN / (kWarpSize * 4);  // of a warp, over a piece's rows

// A wgmma reads shared memory less the larger its n, and a tile reads L2 less the larger and the
// squarer it is: so (128, 256) should be the best where there is work for all SMs, (256, 128) for
// an N that 128 divides better. Blocks in a cluster read w from L2 once. The others are for small
// problems.
constexpr WgmmaTile kWgmmaTiles[] = {
    {256, 128, 4, 2}, {256, 128, 4, 1}, {128, 256, 4, 2}, {128, 256, 4, 1},
    {128, 192, 4, 1}, {128, 128, 6, 2}, {128, 128, 6, 1}, {128, 64, 8, 1},
};
constexpr int kWgmmaTileCount = sizeof(kWgmmaTiles) / sizeof(kWgmmaTiles[0]);

// wgmmas, one below the other, for a consumer's rows of the tile.
HOST_DEVICE constexpr int slices(const WgmmaTile& tile) { return tile.m / kConsumers / kWgmmaM; }
HOST_DEVICE constexpr int pieces_across(const WgmmaTile& tile) { return tile.n / kPieceN; }
HOST_DEVICE constexpr int pieces(const WgmmaTile& tile) {
  return slices(tile) * pieces_across(tile);
}
HOST_DEVICE constexpr int x_bytes(const WgmmaTile& tile) { return tile.m * kStageK; }
HOST_DEVICE constexpr int stage_bytes(const WgmmaTile& tile) { return (tile.m + tile.n) * kStageK; }

// Shared memory: the stages, x before w in each; the warps' places for a piece; the mbarriers.
HOST_DEVICE constexpr int x_offset(const WgmmaTile& tile, int stage) {
  return stage * stage_bytes(tile);
}
HOST_DEVICE constexpr int w_offset(const WgmmaTile& tile, int stage) {
  return x_offset(tile, stage) + x_bytes(tile);
}
HOST_DEVICE constexpr int piece_offset(const WgmmaTile& tile, int warp) {
  return x_offset(tile, tile.stages) + warp * kPieceBytes;
}
HOST_DEVICE constexpr int ring_offset(const WgmmaTile& tile) {
  return piece_offset(tile, kConsumers * 4);
}
HOST_DEVICE constexpr int shared_bytes(const WgmmaTile& tile) {
  return ring_offset(tile) + ring_bytes(tile.stages);
}

// The first row and column of the tile that belong to piece `piece` of a consumer's warp.
HOST_DEVICE constexpr Place piece_corner(const WgmmaTile& tile, int warp, int piece) {
  const int slice = warp / 4 * slices(tile) + piece / pieces_across(tile);
  return {slice * kWgmmaM + warp % 4 * kWarpRows, piece % pieces_across(tile) * kPieceN};
}

// The element of a piece that a lane holds in register `reg` of the piece's 32: a wgmma's sums are
// mmas side by side.
HOST_DEVICE constexpr Place piece_element(int lane, int reg) {
  const Place at = mma_c(lane, reg % 4);
  return {at.row, reg / 4 * kMmaN + at.column};
}

// The word of an element of the piece while it is float32, as staged_word of the other kernel.
HOST_DEVICE constexpr int piece_word(int row, int column) {
  return row * kPieceN + (column ^ row % 4 * 8);
}

// The row, and the first of four columns, that a lane finishes in pass `pass`. It keeps its columns
// in every pass, and with them their scales and biases.
HOST_DEVICE constexpr Place finished(int lane, int pass) {
  constexpr int lanes = kPieceN / 4;  // for one row
  return {pass * (kWarpSize / lanes) + lane / lanes, lane % lanes * 4};
}

// The byte where they go, in y's dtype, for TMA to fetch: rows with no gap, from the beginning of
// the piece. That is never past the rows that this pass has read.
HOST_DEVICE constexpr int packed_byte(Place at, int element_bytes) {
  return (at.row * kPieceN + at.column) * element_bytes;
}

// Tiles of a cluster: as many rows of tiles as it has blocks. Those of y, down and across.
HOST_DEVICE constexpr Place cluster_tiles(const WgmmaTile& tile, int64_t M, int64_t N) {
  return {int(ceil_div(M, int64_t(tile.m) * tile.cluster)), int(ceil_div(N, int64_t(tile.n)))};
}

// The first row and column of y of the `index`-th tile of a cluster, for its block `rank`.
HOST_DEVICE constexpr Place tile_corner(const WgmmaTile& tile, int index, int rank, Place tiles) {
  const Place at = tile_place(index, tiles.row, tiles.column);
  return {(at.row * tile.cluster + rank) * tile.m, at.column * tile.n};
}

// Whether rows and columns, and the tiles' number, fit in 32 bits.
constexpr bool is_in_range(const WgmmaTile& tile, int64_t M, int64_t N) {
  constexpr int64_t kMost = int64_t(1) << 30;
  return M <= kMost && N <= kMost && ceil_div(M, tile.m) * ceil_div(N, tile.n) <= kMost;
}

// Clusters that run: no more than there is room for, or tiles.
constexpr int cluster_count(const WgmmaTile& tile, Place tiles, int sm_count) {
  const int64_t count = int64_t(tiles.row) * tiles.column;
  const int room = sm_count / tile.cluster > 1 ? sm_count / tile.cluster : 1;
  return count < room ? int(count) : room;
}

constexpr bool sound(const WgmmaTile& tile) {
  return tile.m % (kConsumers * kWgmmaM) == 0  // whole wgmmas for each consumer,
         && slices(tile) * tile.n <= 256       // whose sums stay in registers
         && tile.n % kPieceN == 0              // a warp's pieces are whole,
         && tile.n / tile.cluster % 8 == 0     // and the parts of w whole swizzles
         && tile.m <= 256 && tile.n <= 256     // boxes of TMA
         && tile.stages >= 2 && shared_bytes(tile) <= 227 * 1024;
}

static_assert(all_sound(kWgmmaTiles));

}  // namespace green_kernels
