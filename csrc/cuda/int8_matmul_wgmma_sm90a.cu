// int8_matmul by wgmma, for many rows on sm_90a: y = epilogue(x_q @ w_q.T).
//
// A block stays on its SM and computes one tile of y after the other. One warpgroup, the producer,
// has tiles of x and w copied into a ring of stages in shared memory; two others, the consumers,
// multiply them, each the half of a tile's rows, and write y while the producer copies on. In a
// cluster of two, blocks with neighbouring rows of y and the same columns share the tile of w: each
// has a half of it copied to both. Where each byte goes is told in int8_matmul_wgmma.h.
#include <utility>

#include "epilogue.cuh"
#include "int8_matmul_kernels.h"
#include "ring.cuh"
#include "tensor_map.h"

namespace green_kernels {
namespace {

constexpr int kThreads = (kConsumers + 1) * kWarpgroup;
// Of the 168 registers a thread that 384 threads may have; the producer needs few.
constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;

extern __shared__ __align__(1024) uint8_t storage[];

// As TMA copies them.
struct Maps {
  CUtensorMap x, w, y;
};

// What of the launch is not the product's.
struct Ways {
  bool wide;    // rows of y and residual are aligned for four values at once
  bool stores;  // y has a map, and TMA writes it
};

template <int kTile>
using Sums = int32_t[slices(kWgmmaTiles[kTile])][kWgmmaTiles[kTile].n / 2];

template <int kTile>
using RowScales = float[slices(kWgmmaTiles[kTile])][2];

template <int kTile>
using StageTurn = Turn<kWgmmaTiles[kTile].stages>;

// This block's place in its cluster, and where all lies in its shared memory.
template <int kTile>
struct Block {
  uint32_t base;
  int rank;

  __device__ __forceinline__ uint32_t x(int stage) const {
    constexpr WgmmaTile tile = kWgmmaTiles[kTile];
    return base + x_offset(tile, stage);
  }
  __device__ __forceinline__ uint32_t w(int stage) const {
    constexpr WgmmaTile tile = kWgmmaTiles[kTile];
    return base + w_offset(tile, stage);
  }
  __device__ __forceinline__ Ring<kWgmmaTiles[kTile].stages> ring() const {
    constexpr WgmmaTile tile = kWgmmaTiles[kTile];
    return {base + ring_offset(tile)};
  }
};

__device__ __forceinline__ int steps_of(const Int8Matmul& args) {
  return int(ceil_div(args.K, kStageK));
}

// Calls f with the first row and column of each tile of this block. A cluster's blocks have their
// turns together, even where the rows of one of them are past M.
template <int kTile, typename F>
__device__ __forceinline__ void for_tiles(const Int8Matmul& args, int rank, F f) {
  constexpr WgmmaTile tile = kWgmmaTiles[kTile];
  const Place tiles = cluster_tiles(tile, args.M, args.N);
  const int clusters = gridDim.x / tile.cluster;
  for (int i = blockIdx.x / tile.cluster; i < tiles.row * tiles.column; i += clusters)
    f(tile_corner(tile, i, rank, tiles));
}

// All threads of the block, or of the cluster.
template <int kTile>
__device__ __forceinline__ void synchronise() {
  if constexpr (kWgmmaTiles[kTile].cluster > 1)
    ptx::cluster_sync();
  else
    __syncthreads();
}

// Starts filling a stage that is empty: with w, which no kernel before this one has just written.
template <int kTile>
__device__ __forceinline__ void begin_stage(const Block<kTile>& block, const CUtensorMap* w_map,
                                            const StageTurn<kTile>& turn, int k, int n) {
  constexpr WgmmaTile tile = kWgmmaTiles[kTile];
  constexpr int part = tile.n / tile.cluster;  // rows of w that this block reads
  const uint32_t full = block.ring().full(turn.stage), w = block.w(turn.stage);
  ptx::mbarrier_arrive_expect_tx(full, stage_bytes(tile));
  // The other block's part of w may arrive before this block expects it: the count of bytes is then
  // below zero for a while.
  if constexpr (tile.cluster > 1)
    ptx::tma_load_2d_multicast(w + block.rank * part * kStageK, w_map, k, n + block.rank * part,
                               full, (1 << tile.cluster) - 1);
  else
    ptx::tma_load_2d(w, w_map, k, n, full);
}

// The producer, one thread of it: fills stage after stage, as soon as it is empty. The stages are
// empty at first, so w is on its way to all of them before the kernel that writes x has ended.
template <int kTile>
__device__ __forceinline__ void produce(const Int8Matmul& args, const Maps& maps,
                                        const Block<kTile>& block) {
  constexpr WgmmaTile tile = kWgmmaTiles[kTile];
  const int steps = steps_of(args);
  const Place first =
      tile_corner(tile, blockIdx.x / tile.cluster, block.rank, cluster_tiles(tile, args.M, args.N));
  StageTurn<kTile> begun, turn;
  int ahead = min(steps, tile.stages);  // stages that have begun
  for (int i = 0; i < ahead; ++i, begun.next())
    begin_stage(block, &maps.w, begun, i * kStageK, first.column);
  ptx::wait_for_kernel_before();
  for_tiles<kTile>(args, block.rank, [&](Place corner) {
    for (int step = 0; step < steps; ++step, turn.next()) {
      const int k = step * kStageK;
      if (ahead > 0) {
        --ahead;
      } else {
        block.ring().wait_until_empty(turn);
        begin_stage(block, &maps.w, turn, k, corner.column);
      }
      ptx::tma_load_2d(block.x(turn.stage), &maps.x, k, corner.row, block.ring().full(turn.stage));
    }
  });
}

// Says that this consumer has done with a stage, to all blocks that copy into it.
template <int kTile>
__device__ __forceinline__ void release(const Block<kTile>& block, int stage) {
  constexpr int blocks = kWgmmaTiles[kTile].cluster;
  const int thread = threadIdx.x % kWarpgroup;
  const uint32_t empty = block.ring().empty(stage);
  if constexpr (blocks > 1) {
    if (thread < blocks) ptx::mbarrier_arrive_cluster(ptx::map_to_block(empty, thread));
  } else {
    if (thread == 0) ptx::mbarrier_arrive(empty);
  }
}

// A consumer's sums of one tile. While the products of a stage are computed, those of the next are
// started; so a stage is released one step later.
template <int kTile>
__device__ __forceinline__ void multiply(const Block<kTile>& block, int steps, int consumer,
                                         StageTurn<kTile>& turn, Sums<kTile>& sums) {
  constexpr WgmmaTile tile = kWgmmaTiles[kTile];
  int before = 0;
  for (int step = 0; step < steps; ++step, turn.next()) {
    const uint32_t x = block.x(turn.stage) + consumer * slices(tile) * kWgmmaM * kStageK;
    const uint32_t w = block.w(turn.stage);
    block.ring().wait_until_full(turn);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kStageK; k += kWgmmaK)
#pragma unroll
      for (int slice = 0; slice < slices(tile); ++slice)
        ptx::wgmma(sums[slice], ptx::swizzled_128b_descriptor(x + slice * kWgmmaM * kStageK + k),
                   ptx::swizzled_128b_descriptor(w + k), step + k > 0);
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<1>();
    if (step > 0) release(block, before);
    before = turn.stage;
  }
  ptx::wgmma_wait_group<0>();
#pragma unroll
  for (int slice = 0; slice < slices(tile); ++slice) ptx::keep_until_here(sums[slice]);
  if (steps > 0) release(block, before);
}

// Of the residual, for some passes over a piece: read together, and before the sums are staged.
constexpr int kTogether = 4;
struct ResidualRows {
  Raw4 values[kTogether];  // they take turns at the front: registers have no index

  __device__ __forceinline__ void next() {
#pragma unroll
    for (int i = 1; i < kTogether; ++i) values[i - 1] = values[i];
  }
};

// The scales of the two rows of each slice that a lane has sums of.
template <int kTile>
__device__ __forceinline__ void load_x_scales(const Int8Matmul& args, int64_t m, int warp, int lane,
                                              RowScales<kTile>& x_scale) {
  constexpr WgmmaTile tile = kWgmmaTiles[kTile];
#pragma unroll
  for (int slice = 0; slice < slices(tile); ++slice)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = piece_corner(tile, warp, slice * pieces_across(tile)).row;
      const int64_t at = m + row + piece_element(lane, half * 2).row;
      x_scale[slice][half] = at < args.M ? args.x_scale[at] : 0;
    }
}

// A piece's sums, each with its row's scale, from the wgmma's order to rows of shared memory.
__device__ __forceinline__ void stage_piece(uint32_t shared, int lane, const int32_t* sums,
                                            const float (&x_scale)[2]) {
#pragma unroll
  for (int reg = 0; reg < kPieceSums; reg += 2) {
    const Place at = piece_element(lane, reg);
    float y[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) y[i] = product(__int2float_rn(sums[reg + i]), x_scale[reg / 2 % 2]);
    ptx::store_shared_2(shared + piece_word(at.row, at.column) * 4, __float_as_int(y[0]),
                        __float_as_int(y[1]));
  }
}

// The piece of this number: registers have no index, so each has its own branch.
template <int kTile>
__device__ __forceinline__ void stage_piece(uint32_t shared, int lane, int piece,
                                            const Sums<kTile>& sums,
                                            const RowScales<kTile>& x_scale) {
  constexpr WgmmaTile tile = kWgmmaTiles[kTile];
  constexpr int across = pieces_across(tile);
#pragma unroll
  for (int i = 0; i < pieces(tile); ++i)
    if (i == piece)
      stage_piece(shared, lane, &sums[i / across][i % across * kPieceSums], x_scale[i / across]);
}

// Four values of y, rounded once, to shared memory.
__device__ __forceinline__ void pack(uint32_t shared, Float dtype, const float (&y)[4]) {
  with_type(dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    Vector<T, 4> vector;
#pragma unroll
    for (int i = 0; i < 4; ++i) vector.values[i] = from_float32<T>(y[i]);
    int32_t words[sizeof(vector) / 4];
    memcpy(words, &vector, sizeof(vector));
    if constexpr (sizeof(vector) == 16)
      ptx::store_shared_4(shared, words);
    else
      ptx::store_shared_2(shared, words[0], words[1]);
  });
}

// A lane's four values of the residual in the rows of `kTogether` passes from `pass` on, on their
// way to registers: none waits for another.
__device__ __forceinline__ ResidualRows read_residual_rows(const Int8Matmul& args, int lane,
                                                           int64_t m, int pass,
                                                           const Columns& four) {
  ResidualRows rows{};
  if (args.residual) {
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int64_t row = m + finished(lane, pass + i).row;
      if (row < args.M && four.count > 0) rows.values[i] = read_residual(args, row, four);
    }
  }
  return rows;
}

// A staged piece, whose first row is m, row by row through the epilogue: to y, or for TMA to fetch
// back into its own place, from which the values of a pass are read before any is written.
__device__ __forceinline__ void finish_piece(const Int8Matmul& args, const Ways& ways,
                                             uint32_t shared, const float* staged, int lane,
                                             int64_t m, const Columns& four,
                                             ResidualRows residual) {
#pragma unroll 1
  for (int pass = 0; pass < kPasses; ++pass) {
    if (pass % kTogether == 0 && pass > 0) residual = read_residual_rows(args, lane, m, pass, four);
    const Place at = finished(lane, pass);
    const int64_t row = m + at.row;
    const bool exists = row < args.M && four.count > 0;
    const float4 scaled = *reinterpret_cast<const float4*>(staged + piece_word(at.row, at.column));
    float y[4] = {scaled.x, scaled.y, scaled.z, scaled.w};
    if (exists) finish(args, four, residual.values[0], y);
    residual.next();
    if (ways.stores) {
      __syncwarp();
      pack(shared + packed_byte(at, int(bytes(args.y_dtype))), args.y_dtype, y);
    } else if (exists) {
      store4(args.y, args.y_dtype, row * args.N + four.n, four.count, four.whole, y);
    }
  }
}

// Has TMA write a packed piece; what is past the last row or column of y it leaves out.
__device__ __forceinline__ void store_piece(const CUtensorMap* y_map, uint32_t shared, int lane,
                                            int m, int n) {
  ptx::fence_proxy_async_shared();
  __syncwarp();
  if (lane == 0) {
    ptx::tma_store_2d(y_map, n, m, shared);
    ptx::bulk_commit_group();
  }
}

// A consumer warp's part of the tile at `corner`, to y, by pieces. The epilogue stands here once
// for all of them: unrolled, its activations fill the instruction cache.
template <int kTile>
__device__ __forceinline__ void write_tile(const Int8Matmul& args, const Maps& maps,
                                           const Ways& ways, const Block<kTile>& block,
                                           Place corner, const Sums<kTile>& sums,
                                           const RowScales<kTile>& x_scale) {
  constexpr WgmmaTile tile = kWgmmaTiles[kTile];
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const uint32_t shared = block.base + piece_offset(tile, warp);
  const float* const staged = reinterpret_cast<const float*>(storage + piece_offset(tile, warp));
#pragma unroll 1
  for (int piece = 0; piece < pieces(tile); ++piece) {
    const Place within = piece_corner(tile, warp, piece);
    const int m = corner.row + within.row, n = corner.column + within.column;
    if (m >= args.M || n >= args.N) continue;
    const Columns four(args, n + finished(lane, 0).column, ways.wide);
    const ResidualRows residual = read_residual_rows(args, lane, m, 0, four);
    if (lane == 0) ptx::bulk_wait_group_read<0>();  // for the piece before
    __syncwarp();
    stage_piece<kTile>(shared, lane, piece, sums, x_scale);
    __syncwarp();
    finish_piece(args, ways, shared, staged, lane, m, four, residual);
    if (ways.stores) store_piece(&maps.y, shared, lane, m, n);
  }
}

template <int kTile>
__device__ __forceinline__ void consume(const Int8Matmul& args, const Maps& maps, const Ways& ways,
                                        const Block<kTile>& block, int consumer) {
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int steps = steps_of(args);
  StageTurn<kTile> turn;
  ptx::wait_for_kernel_before();  // x_scale is of it, as x is
  for_tiles<kTile>(args, block.rank, [&](Place corner) {
    Sums<kTile> sums = {};  // as they remain for K = 0
    RowScales<kTile> x_scale;
    load_x_scales<kTile>(args, corner.row, warp, lane, x_scale);
    multiply<kTile>(block, steps, consumer, turn, sums);
    write_tile<kTile>(args, maps, ways, block, corner, sums, x_scale);
  });
  if (lane == 0) ptx::bulk_wait_group_read<0>();
}

template <int kTile>
__global__ void __launch_bounds__(kThreads, 1)
    int8_matmul_wgmma_kernel(const __grid_constant__ Int8Matmul args,
                             const __grid_constant__ Maps maps, const Ways ways) {
  constexpr WgmmaTile tile = kWgmmaTiles[kTile];
  const Block<kTile> block{ptx::shared_address(storage),
                           tile.cluster > 1 ? int(ptx::cluster_rank()) : 0};
  // The same in all lanes, and by the shuffle the compiler knows.
  const int warpgroup = __shfl_sync(0xffffffff, threadIdx.x / kWarpgroup, 0);

  if (threadIdx.x == 0) block.ring().initialise(kConsumers * tile.cluster);
  synchronise<kTile>();
  if (warpgroup == kConsumers) {
    ptx::setmaxnreg_dec<kProducerRegisters>();
    if (threadIdx.x % kWarpgroup == 0) produce<kTile>(args, maps, block);
  } else {
    ptx::setmaxnreg_inc<kConsumerRegisters>();
    consume<kTile>(args, maps, ways, block, warpgroup);
  }
  if constexpr (tile.cluster > 1) {
    __syncwarp();
    ptx::cluster_sync();  // until no other block arrives at this one's mbarriers any more
  }
}

using Function = void (*)(Int8Matmul, Maps, Ways);

template <int... kTile>
Function kernel_of(int tile, std::integer_sequence<int, kTile...>) {
  static constexpr Function kernels[] = {int8_matmul_wgmma_kernel<kTile>...};
  return kernels[tile];
}

constexpr CUtensorMapDataType map_type(Float dtype) {
  return dtype == Float::kFloat32   ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
         : dtype == Float::kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                    : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
}

cudaError_t encode_result(const Int8Matmul& args, Maps& maps) {
  return encode({map_type(args.y_dtype), args.y, args.M, args.N, args.N * bytes(args.y_dtype),
                 kWarpRows, kPieceN, CU_TENSOR_MAP_SWIZZLE_NONE},
                maps.y);
}

}  // namespace

cudaError_t launch_wgmma(const Int8Matmul& args, const Launch& launch) {
  const WgmmaTile tile = kWgmmaTiles[launch.plan.tile];
  if (!is_in_range(tile, args.M, args.N)) return cudaErrorInvalidConfiguration;
  const Ways ways{rows_are_wide(args),
                  args.N * bytes(args.y_dtype) % 16 == 0 && is_aligned(args.y, 16)};
  Maps maps{};
  cudaError_t error = encode_stages(args.x_q, args.M, args.K, args.x_q_stride, tile.m, maps.x);
  if (error == cudaSuccess)
    error = encode_stages(args.w_q, args.N, args.K, args.w_q_stride, tile.n / tile.cluster, maps.w);
  if (error == cudaSuccess && ways.stores) error = encode_result(args, maps);
  if (error != cudaSuccess) return error;
  const int clusters =
      cluster_count(tile, cluster_tiles(tile, args.M, args.N), launch.gpu.sm_count);
  return start(kernel_of(launch.plan.tile, std::make_integer_sequence<int, kWgmmaTileCount>()),
               clusters * tile.cluster, kThreads, shared_bytes(tile), tile.cluster, launch, args,
               maps, ways);
}

}  // namespace green_kernels
