// int8_matmul by mma, for sm_80 and later: y = epilogue(x_q @ w_q.T). A block computes one tile of
// y. While its warps multiply one step of K, the next few are on their way from global to shared
// memory by cp.async; the sums stay in registers until all of K is in them, and the whole epilogue
// follows before y is written, once. Where each byte goes is told in int8_matmul_schedule.h.
//
// Where there are too few tiles to keep the GPU busy, several blocks share one, each a part of K.
// They leave their sums in memory, and the last of them to come adds them up: in int32, so exactly,
// and the order in which they come shows nowhere.
#include <utility>

#include "int8_matmul_kernels.h"
#include "tiles.cuh"

namespace green_kernels {
namespace {

// How blocks that share a tile hand over their sums.
struct Split {
  int splits;         // blocks to a tile
  uint32_t* counter;  // of each tile, zero at first
  int4* sums;         // of each block of each tile, as its threads hold them
};

// Leaves this block's sums for the last of the blocks that share the tile `part`. For that one,
// adds up those of all, and returns true.
template <int kThreads, int kCount>
__device__ __forceinline__ bool add_up(const Split& split, int part, int own,
                                       int32_t (&sums)[kCount][4]) {
  const auto sums_of = [&](int other) {
    return split.sums + (int64_t(part) * split.splits + other) * kCount * kThreads + threadIdx.x;
  };
#pragma unroll
  for (int i = 0; i < kCount; ++i)
    __stcg(sums_of(own) + i * kThreads, make_int4(sums[i][0], sums[i][1], sums[i][2], sums[i][3]));
  __threadfence();  // what each thread has written is seen before the block is counted,
  __syncthreads();
  const bool is_last =
      threadIdx.x == 0 && atomicAdd(split.counter + part, 1) + 1 == uint32_t(split.splits);
  if (!__syncthreads_or(is_last)) return false;
  __threadfence();  // and what the others wrote is read after
  for (int other = 0; other < split.splits; ++other) {
    if (other == own) continue;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int4 more = __ldcg(sums_of(other) + i * kThreads);
      sums[i][0] += more.x, sums[i][1] += more.y, sums[i][2] += more.z, sums[i][3] += more.w;
    }
  }
  return true;
}

// One block an SM is the least to ask for, and leaves the compiler all the registers: left to its
// own idea of how many blocks there should be, it spills a few.
template <int kTile>
__global__ void __launch_bounds__(threads(kTiles[kTile]), 1)
    int8_matmul_kernel(const __grid_constant__ Int8Matmul args, const Split split,
                       bool wide) {  // rows of y and residual are aligned for four values at once
  constexpr Tile tile = kTiles[kTile];
  constexpr int chunks = chunks_per_row(tile);
  constexpr int slices_m = warp_m(tile) / kMmaM, slices_n = warp_n(tile) / kMmaN;
  constexpr int steps = tile.k / kMmaK;  // mmas deep in a stage

  extern __shared__ int4 shared[];
  const uint32_t shared_base = ptx::shared_address(shared);
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const Place corner = warp_corner(tile, warp);

  const int tiles_m = int(ceil_div(args.M, tile.m)), tiles_n = int(ceil_div(args.N, tile.n));
  const int splits = may_split(tile) ? split.splits : 1;
  const int part = blockIdx.x / splits, own = blockIdx.x % splits;
  const Place place = tile_place(part, tiles_m, tiles_n);
  const int64_t m0 = int64_t(place.row) * tile.m, n0 = int64_t(place.column) * tile.n;
  const Place copied = copied_chunk(threadIdx.x, chunks);
  const int steps_of_K = int(ceil_div(args.K, tile.k));
  const int first = first_step(steps_of_K, own, splits);
  const int k0 = first * tile.k + copied.column * kChunk;
  const int8_t* const x_q = args.x_q + (m0 + copied.row) * args.x_q_stride + k0;
  const int8_t* const w_q = args.w_q + (n0 + copied.row) * args.w_q_stride + k0;
  const int rows = int(min(args.M - m0, int64_t(tile.m)));
  const int columns = int(min(args.N - n0, int64_t(tile.n)));
  const int left_of_K = int(args.K) - k0;
  const int stages_of_K = first_step(steps_of_K, own + 1, splits) - first;

  int32_t sums[slices_m][slices_n][4] = {};
  uint32_t x[2][slices_m][4], w[2][slices_n][2];  // fragments: one to multiply, one on its way

  const auto x_stage = [&](int i) { return shared_base + i % tile.stages * stage_bytes(tile); };
  const auto w_stage = [&](int i) { return x_stage(i) + tile.m * tile.k; };

  // Every thread commits one group for every stage, past the last too, so that the count of groups
  // under way says which stage has arrived.
  const auto fetch_to_shared = [&](int i) {
    if (i < stages_of_K) {
      const int k = i * tile.k, bytes = min(max(left_of_K - k, 0), kChunk);
      copy_rows<threads(tile), tile.m, chunks>(x_stage(i), x_q + k, args.x_q_stride, rows, bytes);
      copy_rows<threads(tile), tile.n, chunks>(w_stage(i), w_q + k, args.w_q_stride, columns,
                                               bytes);
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

  ptx::wait_for_kernel_before();
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
  if (splits > 1) {
    using Flat = int32_t[slices_m * slices_n][4];
    if (!add_up<threads(tile)>(split, part, own, reinterpret_cast<Flat&>(sums))) return;
  }
  // The last wait_for_stage came after every read of a stage.
  write_sums(
      tile, args, shared, m0 + corner.row, n0 + corner.column, wide, sums,
      [&](const int4& acc, int64_t m, float (&y)[4]) { scale_sums(acc, args.x_scale[m], y); });
}

using Function = void (*)(Int8Matmul, Split, bool);

template <int... kTile>
Function kernel_of(int tile, std::integer_sequence<int, kTile...>) {
  static constexpr Function kernels[] = {int8_matmul_kernel<kTile>...};
  return kernels[tile];
}

__global__ void zero_kernel(uint32_t* words, int64_t count) {
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += int64_t(gridDim.x) * blockDim.x)
    words[i] = 0;
}

}  // namespace

cudaError_t launch_mma(const Int8Matmul& args, const Launch& launch) {
  const Plan& plan = launch.plan;
  const Tile& tile = kTiles[plan.tile];
  const auto workspace = static_cast<char*>(launch.workspace);
  const Split split{plan.splits, reinterpret_cast<uint32_t*>(workspace),
                    reinterpret_cast<int4*>(workspace + counter_bytes(plan, args.M, args.N))};
  const int64_t count = counters(plan, args.M, args.N);
  if (count > 0 && !launch.follows_quantizer)
    zero_kernel<<<1, 256, 0, static_cast<cudaStream_t>(launch.stream)>>>(split.counter, count);
  return start(kernel_of(plan.tile, std::make_integer_sequence<int, kTileCount>()),
               parts_of_y(plan, args.M, args.N) * plan.splits, threads(tile), shared_bytes(tile), 1,
               launch, args, split, rows_are_wide(args));
}

}  // namespace green_kernels
