// int8_matmul by mma, for sm_80 and later: y = epilogue(x_q @ w_q.T). A block computes one tile of
// y. While its warps multiply one step of K, the next few are on their way from global to shared
// memory by cp.async; the sums stay in registers until all of K is in them, and the whole epilogue
// follows before y is written, once. Where each byte goes is told in int8_matmul_schedule.h.
#include <utility>

#include "epilogue.cuh"
#include "int8_matmul_kernels.h"
#include "int8_matmul_schedule.h"
#include "ptx.cuh"

namespace green_kernels {
namespace {

// Starts copying a stage's part of one matrix, kRows rows of tile.k bytes. A thread's chunks lie in
// one column, the first at `source`; `bytes` of each are before K, and none of those past `rows`.
// What is not read becomes zero.
template <int kTile, int kRows>
__device__ __forceinline__ void copy_rows(uint32_t shared, const int8_t* source, int64_t stride,
                                          int rows, int bytes) {
  constexpr Tile tile = kTiles[kTile];
  constexpr int chunks = chunks_per_row(tile), rows_apart = threads(tile) / chunks;
  const Place first = copied_chunk(threadIdx.x, chunks);
#pragma unroll
  for (int i = 0; i < kRows / rows_apart; ++i) {
    const int row = first.row + i * rows_apart;
    ptx::cp_async_16(shared + swizzle(row, first.column, chunks) * kChunk, source,
                     row < rows ? bytes : 0);
    source += rows_apart * stride;
  }
}

// A warp's sums of 16 rows, from the mma's order to rows of shared memory.
template <int kTile, int kSlices>
__device__ __forceinline__ void stage_slice(uint32_t staging, int lane,
                                            const int32_t (&sums)[kSlices][4]) {
  constexpr Tile tile = kTiles[kTile];
#pragma unroll
  for (int n = 0; n < kSlices; ++n)
#pragma unroll
    for (int reg = 0; reg < 4; reg += 2) {
      const Place at = mma_c(lane, reg);
      const int word = staged_word(tile, at.row, n * kMmaN + at.column);
      ptx::store_shared_2(staging + word * 4, sums[n][reg], sums[n][reg + 1]);
    }
}

// One block an SM is the least to ask for, and leaves the compiler all the registers: left to its
// own idea of how many blocks there should be, it spills a few.
template <int kTile>
__global__ void __launch_bounds__(threads(kTiles[kTile]), 1)
    int8_matmul_kernel(const __grid_constant__ Int8Matmul args,
                       bool wide) {  // rows of y and residual are aligned for four values at once
  constexpr Tile tile = kTiles[kTile];
  constexpr int chunks = chunks_per_row(tile);
  constexpr int slices_m = warp_m(tile) / kMmaM, slices_n = warp_n(tile) / kMmaN;
  constexpr int steps = tile.k / kMmaK;  // mmas deep in a stage

  extern __shared__ int4 shared[];
  const uint32_t shared_base = ptx::shared_address(shared);
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const Place corner = warp_corner(tile, warp);

  const Place place =
      tile_place(blockIdx.x, int(ceil_div(args.M, tile.m)), int(ceil_div(args.N, tile.n)));
  const int64_t m0 = int64_t(place.row) * tile.m, n0 = int64_t(place.column) * tile.n;
  const Place copied = copied_chunk(threadIdx.x, chunks);
  const int8_t* const x_q = args.x_q + (m0 + copied.row) * args.x_q_stride + copied.column * kChunk;
  const int8_t* const w_q = args.w_q + (n0 + copied.row) * args.w_q_stride + copied.column * kChunk;
  const int rows = int(min(args.M - m0, int64_t(tile.m)));
  const int columns = int(min(args.N - n0, int64_t(tile.n)));
  const int K = int(args.K), stages_of_K = int(ceil_div(K, tile.k));

  int32_t sums[slices_m][slices_n][4] = {};
  uint32_t x[2][slices_m][4], w[2][slices_n][2];  // fragments: one to multiply, one on its way

  const auto x_stage = [&](int i) { return shared_base + i % tile.stages * stage_bytes(tile); };
  const auto w_stage = [&](int i) { return x_stage(i) + tile.m * tile.k; };

  // Every thread commits one group for every stage, past the last too, so that the count of groups
  // under way says which stage has arrived.
  const auto fetch_to_shared = [&](int i) {
    if (i < stages_of_K) {
      const int k = i * tile.k, bytes = min(max(K - k - copied.column * kChunk, 0), kChunk);
      copy_rows<kTile, tile.m>(x_stage(i), x_q + k, args.x_q_stride, rows, bytes);
      copy_rows<kTile, tile.n>(w_stage(i), w_q + k, args.w_q_stride, columns, bytes);
    }
    ptx::cp_async_commit_group();
  };

  // After it, all stages but the newest tile.stages - 2 are here, whichever thread copied them; and
  // every thread has read all it needs of the oldest, whose place may be filled again.
  const auto wait_for_stage = [&] {
    ptx::cp_async_wait_group<tile.stages - 2>();
    __syncthreads();
  };

  const auto fetch_to_registers = [&](int i, int step) {
    const Place x_at = x_fragment_chunk(lane), w_at = w_fragment_chunk(lane);
#pragma unroll
    for (int m = 0; m < slices_m; ++m) {
      const int row = corner.row + m * kMmaM + x_at.row;
      uint32_t (&f)[4] = x[step % 2][m];
      ptx::ldmatrix_x4(x_stage(i) + swizzle(row, step * 2 + x_at.column, chunks) * kChunk, f[0],
                       f[1], f[2], f[3]);
    }
#pragma unroll
    for (int n = 0; n < slices_n; n += 2) {
      const int row = corner.column + n * kMmaN + w_at.row;
      uint32_t (&f)[2] = w[step % 2][n], (&g)[2] = w[step % 2][n + 1];
      ptx::ldmatrix_x4(w_stage(i) + swizzle(row, step * 2 + w_at.column, chunks) * kChunk, f[0],
                       f[1], g[0], g[1]);
    }
  };

  const auto multiply = [&](int step) {
#pragma unroll
    for (int m = 0; m < slices_m; ++m)
#pragma unroll
      for (int n = 0; n < slices_n; ++n)
        ptx::mma_m16n8k32(sums[m][n], x[step % 2][m], w[step % 2][n]);
  };

  const auto write_result = [&] {
    const int staging = warp * staging_words(tile);  // the first word of the warp's
    const Columns four(args, n0 + corner.column + written(tile, lane, 0).column, wide);
#pragma unroll 1  // one copy of the epilogue: unrolled, its activations fill the instruction cache
    for (int slice = 0; slice < slices_m; ++slice) {
#pragma unroll
      for (int m = 0; m < slices_m; ++m)
        if (m == slice)  // registers have no index
          stage_slice<kTile>(shared_base + staging * 4, lane, sums[m]);
      __syncwarp();
#pragma unroll 1
      for (int pass = 0; pass < write_passes(tile); ++pass) {
        const Place at = written(tile, lane, pass);
        const int64_t m = m0 + corner.row + slice * kMmaM + at.row;
        const int acc = staging + staged_word(tile, at.row, at.column);
        if (m < args.M && four.count > 0) {
          float y[4];
          scale_sums(shared[acc / 4], args.x_scale[m], y);
          write_row(args, m, four, y);
        }
      }
      __syncwarp();
    }
  };

#pragma unroll 1
  for (int i = 0; i < tile.stages - 1; ++i) fetch_to_shared(i);
  wait_for_stage();
  if (stages_of_K > 0) fetch_to_registers(0, 0);
#pragma unroll 1
  for (int i = 0; i < stages_of_K; ++i) {
#pragma unroll
    for (int step = 0; step < steps; ++step) {
      if (step < steps - 1) {
        fetch_to_registers(i, step + 1);
      } else {
        wait_for_stage();
        if (i + 1 < stages_of_K) fetch_to_registers(i + 1, 0);
      }
      if (step == 0) fetch_to_shared(i + tile.stages - 1);
      multiply(step);
    }
  }
  write_result();  // the last wait_for_stage came after every read of a stage
}

using Function = void (*)(Int8Matmul, bool);

template <int... kTile>
Function kernel_of(int tile, std::integer_sequence<int, kTile...>) {
  static constexpr Function kernels[] = {int8_matmul_kernel<kTile>...};
  return kernels[tile];
}

}  // namespace

cudaError_t launch_mma(const Int8Matmul& args, const Launch& launch) {
  const Tile tile = kTiles[launch.plan.tile];
  const Function kernel =
      kernel_of(launch.plan.tile, std::make_integer_sequence<int, kTileCount>());
  const cudaError_t error =
      allow_shared_memory(reinterpret_cast<const void*>(kernel), shared_bytes(tile));
  if (error != cudaSuccess) return error;
  const int64_t blocks = ceil_div(args.M, tile.m) * ceil_div(args.N, tile.n);
  if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
  kernel<<<unsigned(blocks), threads(tile), shared_bytes(tile),
           static_cast<cudaStream_t>(launch.stream)>>>(args, rows_are_wide(args));
  return cudaGetLastError();
}

}  // namespace green_kernels
