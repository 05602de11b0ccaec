// Where everything of int8_weight_linear goes, and which kernel computes it: arithmetic that the
// kernels, their launcher and the tests share. No CUDA and no torch, so that a machine without a
// GPU can test it. (Tile, swizzle and the rest of what int8_matmul does alike are that op's.)
//
// Both kernels go through K in steps of 64. Of those, lane l holds 16 in a row, from 16 * (l % 4)
// on, of x and of w alike: 16 bytes of int8. Four mmas of k = 16 take four each. That is not the
// order of K that the mma means, but it is the same for both operands, and so the same sum; and it
// lets bytes be widened where they are, with no exchange between lanes.
#pragma once

#include "int8_matmul_schedule.h"

namespace green_kernels {

constexpr int kStepK = 64;    // values of K in a step
constexpr int kStepMmas = 4;  // mmas deep in it
constexpr int kLaneK = 16;    // values of a row in a step that a lane holds

// The first of the two values, of a lane's 16, that mma `mma` takes from register `pair` of B, and
// from registers 2 * pair and 2 * pair + 1 of A.
HOST_DEVICE constexpr int mma_values(int mma, int pair) { return mma * 4 + pair * 2; }

// The row of 8 whose values a lane holds, and the first of its chunks, of `chunks` a row.
HOST_DEVICE constexpr Place held_chunk(int lane, int chunks) {
  return {lane / 4, lane % 4 * (chunks / 4)};
}

// The kernel for few rows: a block computes 16 columns of y, in 8 or 16 rows. Its warps divide K
// among themselves, step by step, and leave their sums in shared memory.
constexpr int kSkinnyColumns = 16;  // the rows of w are the mma's A
constexpr int kSkinnyRows = 8;      // and those of x its B, once or twice
constexpr int kSkinnyWarps = 8;
constexpr int kMaxSkinnyRows = 2 * kSkinnyRows;
constexpr int kPartialWords = kSkinnyColumns * kSkinnyRows;  // of a warp, for 8 rows

// A warp's weights of a few steps, each in two halves of 8 rows: chunks, a lane's own next to those
// of its neighbours.
constexpr int kSkinnyAhead = 4;  // steps in the ring: one is read, 3 KB are under way
HOST_DEVICE constexpr int ring_chunk(int step, int half, int lane) {
  return (step % kSkinnyAhead * 2 + half) * kWarpSize + lane;
}
constexpr int kSkinnyRing = kSkinnyAhead * 2 * kWarpSize;  // chunks
static_assert(kMaxSkinnyRows * kSkinnyColumns * 4 <= kSkinnyRing * kChunk, "its sums fit there");

// The word of a sum. Rows of y are next to each other, as the mma has them in pairs; the XOR sends
// the columns 4 apart that lanes read at once to different banks.
HOST_DEVICE constexpr int partial_word(int row, int column) {
  return row / kSkinnyRows * kPartialWords + (column ^ column / 4) * kSkinnyRows +
         row % kSkinnyRows;
}

// The row and the first of the four columns that a thread adds up and writes.
HOST_DEVICE constexpr Place skinny_written(int thread) {
  return {thread / kWarpSize * kSkinnyRows + thread % kSkinnyRows, thread / kSkinnyRows % 4 * 4};
}

// The kernel for many rows, 17 at the least. Small tiles make enough blocks where M or N is small.
constexpr Tile kWeightTiles[] = {
    {128, 128, kStepK, 2, 4, 4},  // 96 KB: all that a block may have everywhere
    {64, 64, kStepK, 2, 2, 4},    // 48 KB
    {32, 64, kStepK, 1, 4, 6},    // 48 KB
    {32, 32, kStepK, 2, 2, 6},    // 36 KB
};
constexpr int kWeightTileCount = sizeof(kWeightTiles) / sizeof(kWeightTiles[0]);

constexpr int kXChunks = kStepK * 2 / kChunk, kWChunks = kStepK / kChunk;  // in a row of a stage

HOST_DEVICE constexpr int x_stage_bytes(const Tile& tile) { return tile.m * kXChunks * kChunk; }
HOST_DEVICE constexpr int weight_stage_bytes(const Tile& tile) {
  return x_stage_bytes(tile) + tile.n * kWChunks * kChunk;
}
HOST_DEVICE constexpr int weight_shared_bytes(const Tile& tile) {
  return tile.stages * weight_stage_bytes(tile);
}

constexpr bool sound_for_weights(const Tile& tile) {
  return tile.k == kStepK && tile.m % (tile.warps_m * kMmaM) == 0 &&
         tile.n % (tile.warps_n * kMmaN) == 0 && tile.m * kXChunks % threads(tile) == 0 &&
         tile.n * kWChunks % threads(tile) == 0 && threads(tile) % kXChunks == 0 &&
         kWarpSize % (warp_n(tile) / 4) == 0 && tile.stages >= 3 &&
         tile.warps_m * tile.warps_n * staging_words(tile) * 4 <= weight_shared_bytes(tile) &&
         weight_shared_bytes(tile) <= 99 * 1024;  // all that a block may have on sm_86, 89 and 120
}
constexpr bool all_sound_for_weights() {
  for (const Tile& tile : kWeightTiles)
    if (!sound_for_weights(tile)) return false;
  return true;
}
static_assert(all_sound_for_weights());

// Whether the kernel for few rows computes y. It takes float32 of any number of rows, 16 to a
// block: such x go to the tensor cores in three parts, and it alone knows how.
HOST_DEVICE constexpr bool is_skinny(int64_t M, Float x_dtype) {
  return M <= kMaxSkinnyRows || x_dtype == Float::kFloat32;
}

// The blocks that compute y.
HOST_DEVICE constexpr int64_t skinny_blocks(int64_t M, int64_t N) {
  const int64_t rows = M <= kSkinnyRows ? kSkinnyRows : kMaxSkinnyRows;
  return ceil_div(M, rows) * ceil_div(N, kSkinnyColumns);
}
constexpr int64_t weight_tiles_of_y(const Tile& tile, int64_t M, int64_t N) {
  return ceil_div(M, tile.m) * ceil_div(N, tile.n);
}

// The tile that takes least time, if an SM computes one at a time, multiplies 1024 pairs in the
// time in which 32 bytes arrive, and does one after the other.
constexpr int choose_weight_tile(int64_t M, int64_t N, int sm_count) {
  int best = 0;
  int64_t least = INT64_MAX;
  for (int i = 0; i < kWeightTileCount; ++i) {
    const Tile& tile = kWeightTiles[i];
    const int64_t waves = ceil_div(weight_tiles_of_y(tile, M, N), sm_count);
    const int64_t cost = waves * (tile.m * tile.n + 1024 / 32 * (2 * tile.m + tile.n));
    if (cost < least) least = cost, best = i;
  }
  return best;
}

}  // namespace green_kernels
