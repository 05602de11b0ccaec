// What the kernels that compute y tile by tile with mma.sync share: the way of rows into shared
// memory, and that of sums out of registers. Where each byte goes is told in
// int8_matmul_schedule.h.
#pragma once

#include "epilogue.cuh"
#include "int8_matmul_schedule.h"
#include "ptx.cuh"

namespace green_kernels {

// Starts copying a stage's part of one matrix, kRows rows of kChunks chunks, `stride` bytes apart.
// A thread's chunks lie in one column, the first at `source`; `bytes` of each are before K, and
// none of those past `rows`. What is not read becomes zero.
template <int kThreads, int kRows, int kChunks>
__device__ __forceinline__ void copy_rows(uint32_t shared, const void* source, int64_t stride,
                                          int rows, int bytes) {
  constexpr int rows_apart = kThreads / kChunks;
  const Place first = copied_chunk(threadIdx.x, kChunks);
  const char* from = static_cast<const char*>(source);
#pragma unroll
  for (int i = 0; i < kRows / rows_apart; ++i) {
    const int row = first.row + i * rows_apart;
    ptx::cp_async_16(shared + swizzle(row, first.column, kChunks) * kChunk, from,
                     row < rows ? bytes : 0);
    from += rows_apart * stride;
  }
}

// A warp's sums of 16 rows, from the mma's order to rows of shared memory.
template <typename T, int kSlices>
__device__ __forceinline__ void stage_slice(const Tile& tile, uint32_t staging, int lane,
                                            const T (&sums)[kSlices][4]) {
#pragma unroll
  for (int n = 0; n < kSlices; ++n)
#pragma unroll
    for (int reg = 0; reg < 4; reg += 2) {
      const Place at = mma_c(lane, reg);
      const int word = staged_word(tile, at.row, n * kMmaN + at.column);
      ptx::store_shared_2(staging + word * 4, sums[n][reg], sums[n][reg + 1]);
    }
}

// A warp's part of y from its sums. Its first row and column are m0 and n0; `scale` makes float32
// of four sums of row m. `wide`: rows of y and residual are aligned for four values at once.
template <typename T, int kSlicesM, int kSlicesN, typename Scale>
__device__ __forceinline__ void write_sums(const Tile& tile, const Epilogue& args, int4* shared,
                                           int64_t m0, int64_t n0, bool wide,
                                           const T (&sums)[kSlicesM][kSlicesN][4], Scale&& scale) {
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int staging = warp * staging_words(tile);  // the first word of the warp's
  const Columns four(args, n0 + written(tile, lane, 0).column, wide);
#pragma unroll 1  // one copy of the epilogue: unrolled, its activations fill the instruction cache
  for (int slice = 0; slice < kSlicesM; ++slice) {
#pragma unroll
    for (int m = 0; m < kSlicesM; ++m)
      if (m == slice)  // registers have no index
        stage_slice(tile, ptx::shared_address(shared) + staging * 4, lane, sums[m]);
    __syncwarp();
#pragma unroll 1
    for (int pass = 0; pass < write_passes(tile); ++pass) {
      const Place at = written(tile, lane, pass);
      const int64_t m = m0 + slice * kMmaM + at.row;
      const int acc = staging + staged_word(tile, at.row, at.column);
      if (m < args.M && four.count > 0) {
        float y[4];
        scale(shared[acc / 4], m, y);
        write_row(args, m, four, y);
      }
    }
    __syncwarp();
  }
}

}  // namespace green_kernels
