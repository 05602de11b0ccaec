// int8_weight_linear for many rows of float16 or bfloat16: a block computes one tile of y, as in
// int8_matmul_mma.cu. Weights stay int8 until they are in registers, so that they take half the
// room and the way of x; each warp widens those of its columns, on the side of the mma that has 8
// of them, for all its rows.
#include <utility>

#include "int8_weight_linear.cuh"
#include "int8_weight_linear_kernels.h"
#include "tiles.cuh"

namespace green_kernels {
namespace {

// What copy_rows does, value by value: for rows of x that are not aligned. `left` values are before
// K, of the chunk that is the thread's in each of its rows.
template <int kThreads, int kRows, int kChunks, typename T>
__device__ __forceinline__ void copy_values(uint32_t shared, const T* source, int64_t stride,
                                            int rows, int left) {
  constexpr int rows_apart = kThreads / kChunks, count = kChunk / sizeof(T);
  const Place first = copied_chunk(threadIdx.x, kChunks);
#pragma unroll 1
  for (int row = first.row; row < kRows; row += rows_apart, source += rows_apart * stride) {
    Vector<T, count> chunk;
#pragma unroll
    for (int i = 0; i < count; ++i)
      chunk.values[i] = row < rows && i < left ? source[i] : from_float32<T>(0.0f);
    ptx::store_shared_4(shared + swizzle(row, first.column, kChunks) * kChunk,
                        as_bits<Vector<int32_t, 4>>(chunk).values);
  }
}

// (One block an SM is the least to ask for, and leaves the compiler all the registers.)
template <typename T, int kTile>
__global__ void __launch_bounds__(threads(kWeightTiles[kTile]), 1)
    int8_weight_linear_tiles_kernel(const __grid_constant__ Int8WeightLinear args, bool x_wide,
                                    bool wide) {  // rows of x, and of y and residual, are aligned
  constexpr Tile tile = kWeightTiles[kTile];
  constexpr int slices_m = warp_m(tile) / kMmaM, slices_n = warp_n(tile) / kMmaN;
  constexpr int kChunkValues = kChunk / sizeof(T);

  extern __shared__ int4 shared[];
  const uint32_t shared_base = ptx::shared_address(shared);
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const Place corner = warp_corner(tile, warp);

  const int tiles_m = int(ceil_div(args.M, tile.m)), tiles_n = int(ceil_div(args.N, tile.n));
  const Place place = tile_place(blockIdx.x, tiles_m, tiles_n);
  const int64_t m0 = int64_t(place.row) * tile.m, n0 = int64_t(place.column) * tile.n;
  const Place x_copied = copied_chunk(threadIdx.x, kXChunks);
  const Place w_copied = copied_chunk(threadIdx.x, kWChunks);
  const int x_k0 = x_copied.column * kChunkValues, w_k0 = w_copied.column * kChunk;
  const T* const x = static_cast<const T*>(args.x) + (m0 + x_copied.row) * args.K + x_k0;
  const int8_t* const w_q = args.w_q + (n0 + w_copied.row) * args.w_q_stride + w_k0;
  const int rows = int(min(args.M - m0, int64_t(tile.m)));
  const int columns = int(min(args.N - n0, int64_t(tile.n)));
  const int stages_of_K = int(ceil_div(args.K, tile.k));

  float sums[slices_m][slices_n][4] = {};

  const auto x_stage = [&](int i) { return i % tile.stages * weight_stage_bytes(tile); };
  const auto w_stage = [&](int i) { return x_stage(i) + x_stage_bytes(tile); };

  // Every thread commits one group for every stage, past the last too, so that the count of groups
  // under way says which stage has arrived.
  const auto fetch_to_shared = [&](int i) {
    if (i < stages_of_K) {
      const int k = i * tile.k, left = int(args.K) - k;
      const int x_left = max(left - x_k0, 0), w_bytes = min(max(left - w_k0, 0), kChunk);
      const uint32_t to = shared_base + x_stage(i);
      if (x_wide)
        copy_rows<threads(tile), tile.m, kXChunks>(to, x + k, args.K * int64_t(sizeof(T)), rows,
                                                   min(x_left * int(sizeof(T)), kChunk));
      else
        copy_values<threads(tile), tile.m, kXChunks>(to, x + k, args.K, rows, x_left);
      copy_rows<threads(tile), tile.n, kWChunks>(shared_base + w_stage(i), w_q + k, args.w_q_stride,
                                                 columns, w_bytes);
    }
    ptx::cp_async_commit_group();
  };

  // After it, all stages but the newest tile.stages - 2 are here, whichever thread copied them; and
  // every thread has read all it needs of the one before the oldest, whose place may be filled.
  const auto wait_for_stage = [&] {
    ptx::cp_async_wait_group<tile.stages - 2>();
    __syncthreads();
  };

  // A chunk of a stage's matrix that begins at byte `base`.
  const auto read_chunk = [&](int base, int row, int chunk, int chunks) {
    return as_bits<Vector<uint32_t, 4>>(shared[base / kChunk + swizzle(row, chunk, chunks)]);
  };

  const auto multiply = [&](int i) {
    const Place x_at = held_chunk(lane, kXChunks), w_at = held_chunk(lane, kWChunks);
    Vector<uint32_t, 4> w[slices_n], x[slices_m][2];
#pragma unroll
    for (int n = 0; n < slices_n; ++n)
      w[n] = read_chunk(w_stage(i), corner.column + n * kMmaN + w_at.row, w_at.column, kWChunks);
#pragma unroll
    for (int mma = 0; mma < kStepMmas; ++mma) {
      const int first = mma_values(mma, 0) % kChunkValues;  // of a chunk of x, two mmas deep
#pragma unroll
      for (int m = 0; m < slices_m; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half)  // rows of the mma: the first 8, the other 8
          if (first == 0)
            x[m][half] =
                read_chunk(x_stage(i), corner.row + m * kMmaM + half * kMmaM / 2 + x_at.row,
                           x_at.column + mma_values(mma, 0) / kChunkValues, kXChunks);
#pragma unroll
      for (int n = 0; n < slices_n; ++n) {
        uint32_t b[2];
        widen_int8<T>(w[n].values[mma_values(mma, 0) / 4], b[0], b[1]);
#pragma unroll
        for (int m = 0; m < slices_m; ++m) {
          const uint32_t* const low = x[m][0].values + first / 2;
          const uint32_t* const high = x[m][1].values + first / 2;
          const uint32_t a[4] = {low[0], high[0], low[1], high[1]};
          multiply_add<T>(sums[m][n], a, b);
        }
      }
    }
  };

#pragma unroll 1
  for (int i = 0; i < tile.stages - 1; ++i) fetch_to_shared(i);
#pragma unroll 1
  for (int i = 0; i < stages_of_K; ++i) {
    wait_for_stage();
    fetch_to_shared(i + tile.stages - 1);
    multiply(i);
  }
  __syncthreads();  // the sums go where stages have been
  write_sums(tile, args, shared, m0 + corner.row, n0 + corner.column, wide, sums,
             [](const int4& acc, int64_t, float (&y)[4]) { as_floats(acc, y); });
}

using Function = void (*)(Int8WeightLinear, bool, bool);

template <typename T, int... kTile>
Function kernel_of(int tile, std::integer_sequence<int, kTile...>) {
  static constexpr Function kernels[] = {int8_weight_linear_tiles_kernel<T, kTile>...};
  return kernels[tile];
}

}  // namespace

cudaError_t launch_weight_tiles(const Int8WeightLinear& args, int tile, const Launch& launch) {
  constexpr auto all = std::make_integer_sequence<int, kWeightTileCount>();
  const Function kernel = args.x_dtype == Float::kFloat16 ? kernel_of<__half>(tile, all)
                                                          : kernel_of<__nv_bfloat16>(tile, all);
  const Tile& shape = kWeightTiles[tile];
  return start(kernel, weight_tiles_of_y(shape, args.M, args.N), threads(shape),
               weight_shared_bytes(shape), 1, launch, args, x_is_wide(args), rows_are_wide(args));
}

}  // namespace green_kernels
