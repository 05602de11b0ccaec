// Where everything of the kernel for few rows on sm_90a goes: arithmetic that the kernel, its
// launcher, the chooser of plans and the tests share. No CUDA and no torch.
#pragma once

#include <cstdint>

#include "../types.h"
#include "int8_matmul_schedule.h"
#include "stages_sm90a.h"

namespace green_kernels {

// A block multiplies 128 rows of w, wgmma's A, with a few rows of x, its B, over its share of K.
struct DecodeTile {
  int tokens;      // rows of x
  int stages;      // of k = 128 in shared memory at once
  bool quantizes;  // x is in floating point still, and each block rounds what it needs of it
};

// Up to 64 tokens, two blocks fit into the 228 KB of an SM: one has its weights arrive while the
// other begins or ends. (Not where they round x and hold more than 16 steps of it.)
constexpr DecodeTile kDecodeTiles[] = {
    {8, 6, true}, {8, 6, false}, {16, 6, false}, {32, 5, false}, {64, 4, false}, {128, 6, false},
};
constexpr int kDecodeTileCount = sizeof(kDecodeTiles) / sizeof(kDecodeTiles[0]);
constexpr int kDecodeRows = kConsumers * kWgmmaM;  // of w
constexpr int kQuantizingRows = 4;                 // of x: more should be rounded once, for all

// The consumers multiply 64 rows of w each; a warp after them copies.
constexpr int kDecodeConsumingWarps = kDecodeRows / kMmaM;
constexpr int kDecodeConsumingThreads = kDecodeConsumingWarps * kWarpSize;
constexpr int kDecodeThreads = kDecodeConsumingThreads + kWarpSize;

// Steps of K, of kStageK each but for the last.
struct Steps {
  int first, count;
};

HOST_DEVICE constexpr int decode_steps(int64_t K) { return int(ceil_div(K, kStageK)); }

// What block `rank` of a cluster of `splits` takes of `steps`; nothing, perhaps.
HOST_DEVICE constexpr Steps decode_share(int steps, int splits, int rank) {
  const int first = steps * rank / splits;
  return {first, steps * (rank + 1) / splits - first};
}

// The tile of x and that of w of a cluster; those that run at the same time share their w.
HOST_DEVICE constexpr Place decode_place(int cluster, int tiles_of_x) {
  return {cluster % tiles_of_x, cluster / tiles_of_x};
}

// Where all lies in shared memory. What is swizzled begins at multiples of 1024 bytes. Where the
// block rounds x itself, `x` is not one of the ring's stages but a step of the block's share.
HOST_DEVICE constexpr int decode_w(int stage) { return stage * kDecodeRows * kStageK; }
HOST_DEVICE constexpr int decode_mbarriers(const DecodeTile& tile) { return decode_w(tile.stages); }
HOST_DEVICE constexpr int decode_maxima(const DecodeTile& tile) {  // as each warp finds them
  return decode_mbarriers(tile) + ring_bytes(tile.stages);
}
HOST_DEVICE constexpr int decode_scales(const DecodeTile& tile) {  // of each token
  return decode_maxima(tile) + 4 * kDecodeConsumingWarps;
}
HOST_DEVICE constexpr int decode_x(const DecodeTile& tile, int stage) {
  return decode_mbarriers(tile) + 1024 + stage * tile.tokens * kStageK;
}
constexpr int decode_shared_bytes(const DecodeTile& tile, int64_t K, int splits) {
  const int share = int(ceil_div(decode_steps(K), splits));
  return decode_x(tile, tile.quantizes ? share : tile.stages);
}

// Whether the blocks of such a plan have room for what they hold of x.
constexpr int64_t kDecodeQuantizedBytes = 48 * 1024;
constexpr bool decode_fits(const DecodeTile& tile, int64_t K, int splits) {
  return !tile.quantizes ||
         ceil_div(decode_steps(K), splits) * tile.tokens * kStageK <= kDecodeQuantizedBytes;
}

// The byte, within a step of 8 tokens of x, of a token's value: as tensor maps swizzle it.
HOST_DEVICE constexpr int decode_x_byte(int token, int k) {
  return swizzle(token, k / kChunk, kStageK / kChunk) * kChunk + k % kChunk;
}

// The row of w and the token whose sum a consumer's thread holds as its `index`-th.
HOST_DEVICE constexpr Place decode_sum(int thread, int index) {
  return {thread / kWarpSize * kMmaM + thread % kWarpSize / 4 + index / 2 % 2 * 8,
          thread % 4 * 2 + index / 4 * 8 + index % 2};
}

// How many warps find and round one of so many tokens, of at most 8: as many for each.
HOST_DEVICE constexpr int decode_team_warps(int tokens) {
  return tokens > 4 ? 1 : tokens > 2 ? 2 : tokens > 1 ? 4 : kDecodeConsumingWarps;
}

// A block's sums, over the stages of w that are done with: the word of each. Four words between
// tokens send the 4 tokens and 8 rows of a warp's store to 32 banks.
constexpr int kDecodeTokenWords = kDecodeRows + 4;
HOST_DEVICE constexpr int decode_sum_word(int token, int row) {
  return token * kDecodeTokenWords + row;
}

// The token that a warp of block `rank` adds up in turn `turn`, for all of w's rows, each lane
// four.
HOST_DEVICE constexpr int decode_added_token(int splits, int rank, int warp, int turn) {
  return rank + splits * (warp + kDecodeConsumingWarps * turn);
}

constexpr bool sound(const DecodeTile& tile) {
  return tile.tokens % 8 == 0 && tile.stages >= 2 && (!tile.quantizes || tile.tokens == 8) &&
         tile.tokens * kDecodeTokenWords * 4 <= decode_mbarriers(tile)  // sums lie over w alone,
         && decode_scales(tile) + 4 * 8 <= decode_x(tile, 0)            // and these before x
         && decode_x(tile, 0) % 1024 == 0 &&
         decode_x(tile, tile.stages) <= (tile.tokens <= 64 ? 113 : 227) * 1024;
}

static_assert(all_sound(kDecodeTiles));

}  // namespace green_kernels
