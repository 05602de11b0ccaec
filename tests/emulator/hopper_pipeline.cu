// A matrix product for sm_90a that uses all that is new there, to show how, and to be run by the
// emulator: y = x_q @ w_q.T, in int32, or in float32 with a scale for each row of x_q and of w_q.
//
// A block stays on its SM and computes one tile of y after the other. One warpgroup, the producer,
// has tiles of x and w copied into a ring of stages in shared memory; two others, the consumers,
// multiply them, each the half of a tile's rows. For each stage there are two mbarriers: `full`,
// whose phases end when a stage's bytes have arrived, and `empty`, when the consumers have done
// with them. In a cluster of two, blocks with neighbouring rows of y and the same columns share
// the tile of w: each has a half of it copied to both.
#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <type_traits>

#include "../../csrc/cuda/ring.cuh"
#include "../../csrc/cuda/stages_sm90a.h"
#include "../../csrc/epilogue.h"

namespace green_kernels {
namespace {

constexpr int kSwizzle = 128;  // bytes that a box is wide, in all three tensor maps
constexpr int kTileM = 128, kTileN = 128, kTileK = kSwizzle;
constexpr int kStages = 4;  // 128 KB, which with the 64 KB of y is most of an SM's memory

constexpr int kWarp = 32;  // threads
constexpr int kThreads = (kConsumers + 1) * kWarpgroup;
constexpr int kConsumerM = kTileM / kConsumers;          // rows of a tile
constexpr int kSums = kConsumerM * kTileN / kWarpgroup;  // of a thread
// Of the 168 registers a thread that 384 threads may have; the producer needs few.
constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;

constexpr int kXBytes = kTileM * kTileK, kWBytes = kTileN * kTileK;     // of a stage
constexpr int kBoxN = kSwizzle / 4, kBoxBytes = kConsumerM * kSwizzle;  // of y
constexpr int kYBytes = kTileN / kBoxN * kBoxBytes;                     // of a consumer

// Where all lies in shared memory. Swizzled tiles begin at multiples of 1024 bytes, so come first.
struct Shared {
  uint32_t base;

  HOST_DEVICE constexpr uint32_t x(int stage) const { return base + stage * kXBytes; }
  HOST_DEVICE constexpr uint32_t w(int stage) const { return x(kStages) + stage * kWBytes; }
  HOST_DEVICE constexpr uint32_t y(int consumer) const { return w(kStages) + consumer * kYBytes; }
  HOST_DEVICE constexpr uint32_t full(int stage) const {
    return y(kConsumers) + stage * kMbarrierBytes;
  }
  HOST_DEVICE constexpr uint32_t empty(int stage) const {
    return full(kStages) + stage * kMbarrierBytes;
  }
};
constexpr int kSharedBytes = Shared{0}.empty(kStages);

using RingTurn = Turn<kStages>;

struct Problem {
  const float* x_scale;  // (M,), or null where y is int32
  const float* w_scale;  // (N,), or null
  int M, N, K;
};

// Calls f(m, n) with the first row and column of each tile of this block. A cluster's blocks have
// their turns together, even where the rows of one of them are past M.
template <int kBlocks, typename F>
__device__ __forceinline__ void for_tiles(const Problem& problem, int rank, F f) {
  const int down = int(ceil_div(problem.M, kTileM * kBlocks));
  const int tiles = down * int(ceil_div(problem.N, kTileN));
  for (int tile = blockIdx.x / kBlocks; tile < tiles; tile += gridDim.x / kBlocks)
    f((tile % down * kBlocks + rank) * kTileM, tile / down * kTileN);
}

template <int kBlocks>
__device__ __forceinline__ void initialise_mbarriers(const Shared& shared) {
  for (int stage = 0; stage < kStages; ++stage) {
    ptx::mbarrier_init(shared.full(stage), 1);
    ptx::mbarrier_init(shared.empty(stage), kConsumers * kBlocks);
  }
  ptx::fence_mbarrier_init();
}

// All threads of the block, or of the cluster.
template <int kBlocks>
__device__ __forceinline__ void synchronise() {
  if constexpr (kBlocks > 1)
    ptx::cluster_sync();
  else
    __syncthreads();
}

// The producer, one thread of it: fills stage after stage, as soon as it is empty.
template <int kBlocks>
__device__ __forceinline__ void produce(const Shared& shared, const Problem& problem, int rank,
                                        const CUtensorMap* x_map, const CUtensorMap* w_map) {
  constexpr int part_n = kTileN / kBlocks, part_bytes = kWBytes / kBlocks;
  constexpr uint16_t all_blocks = (1 << kBlocks) - 1;
  RingTurn turn;
  for_tiles<kBlocks>(problem, rank, [&](int m, int n) {
    for (int k = 0; k < problem.K; k += kTileK, turn.next()) {
      const uint32_t full = shared.full(turn.stage), w = shared.w(turn.stage);
      // In the first round it waits for the phase before the first, and so not at all.
      ptx::mbarrier_wait(shared.empty(turn.stage), turn.parity ^ 1);
      ptx::mbarrier_arrive_expect_tx(full, kXBytes + kWBytes);
      ptx::tma_load_2d(shared.x(turn.stage), x_map, k, m, full);
      // The other block's half of w may arrive before this block expects it: the count of bytes is
      // then below zero for a while.
      if constexpr (kBlocks > 1)
        ptx::tma_load_2d_multicast(w + rank * part_bytes, w_map, k, n + rank * part_n, full,
                                   all_blocks);
      else
        ptx::tma_load_2d(w, w_map, k, n, full);
    }
  });
}

// Says that this consumer has done with a stage, to all blocks that copy into it.
template <int kBlocks>
__device__ __forceinline__ void release(uint32_t empty, int thread) {
  if constexpr (kBlocks > 1) {
    if (thread < kBlocks) ptx::mbarrier_arrive_cluster(ptx::map_to_block(empty, thread));
  } else {
    if (thread == 0) ptx::mbarrier_arrive(empty);
  }
}

// The sums of one tile, (64, 128) of them. While the products of a stage are computed, those of the
// next are started; so a stage is released one step later.
template <int kBlocks>
__device__ __forceinline__ void multiply(const Shared& shared, const Problem& problem, int consumer,
                                         RingTurn& turn, int32_t (&sums)[kSums]) {
  const int thread = threadIdx.x % kWarpgroup;
  int before = 0;
  for (int k = 0; k < problem.K; k += kTileK, turn.next()) {
    const uint32_t x = shared.x(turn.stage) + consumer * kConsumerM * kTileK;
    const uint32_t w = shared.w(turn.stage);
    ptx::mbarrier_wait(shared.full(turn.stage), turn.parity);
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < kTileK; i += kWgmmaK)
      ptx::wgmma(sums, ptx::swizzled_128b_descriptor(x + i), ptx::swizzled_128b_descriptor(w + i),
                 k + i > 0);
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<1>();
    if (k > 0) release<kBlocks>(shared.empty(before), thread);
    before = turn.stage;
  }
  ptx::wgmma_wait_group<0>();
  ptx::keep_until_here(sums);
  release<kBlocks>(shared.empty(before), thread);
}

template <typename Y>
__device__ __forceinline__ uint32_t bits_of_result(int32_t sum, float x_scale, float w_scale) {
  if constexpr (std::is_same_v<Y, float>)
    return __float_as_uint(product(product(__int2float_rn(sum), x_scale), w_scale));
  else
    return sum;
}

// A consumer's sums, as y, to shared memory: in boxes of 32 columns, each swizzled as y's tensor
// map says.
template <typename Y>
__device__ __forceinline__ void stage_result(uint32_t shared_y, const Problem& problem, int m,
                                             int n, const int32_t (&sums)[kSums]) {
  constexpr bool is_scaled = std::is_same_v<Y, float>;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x % kWarpgroup / kWarp;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp * 16 + half * 8 + lane / 4;
    const float x_scale = is_scaled && m + row < problem.M ? problem.x_scale[m + row] : 0;
#pragma unroll
    for (int i = 0; i < kTileN / 8; ++i) {
      const int column = i * 8 + lane % 4 * 2;
      uint32_t y[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int at = n + column + j;
        const float w_scale = is_scaled && at < problem.N ? problem.w_scale[at] : 0;
        y[j] = bits_of_result<Y>(sums[i * 4 + half * 2 + j], x_scale, w_scale);
      }
      const uint32_t offset = row * kSwizzle + column % kBoxN * 4;
      const uint32_t swizzled = offset ^ row % 8 * 16;  // chunks of 16 bytes trade places
      ptx::store_shared_2(shared_y + column / kBoxN * kBoxBytes + swizzled, y[0], y[1]);
    }
  }
}

// A consumer's part of a tile, whose first row is m, through shared memory to y.
template <typename Y>
__device__ __forceinline__ void write_result(uint32_t shared_y, const Problem& problem,
                                             const CUtensorMap* y_map, int consumer, int m, int n,
                                             const int32_t (&sums)[kSums]) {
  const bool is_first = threadIdx.x % kWarpgroup == 0;
  const int barrier = 1 + consumer;              // 0 is __syncthreads
  if (is_first) ptx::bulk_wait_group_read<0>();  // for the copies of the tile before
  ptx::barrier_sync(barrier, kWarpgroup);
  stage_result<Y>(shared_y, problem, m, n, sums);
  ptx::fence_proxy_async_shared();
  ptx::barrier_sync(barrier, kWarpgroup);
  if (is_first) {
    for (int i = 0; i < kTileN / kBoxN; ++i)
      ptx::tma_store_2d(y_map, n + i * kBoxN, m, shared_y + i * kBoxBytes);
    ptx::bulk_commit_group();
  }
}

template <typename Y, int kBlocks>
__device__ __forceinline__ void consume(const Shared& shared, const Problem& problem, int rank,
                                        int consumer, const CUtensorMap* y_map) {
  RingTurn turn;
  for_tiles<kBlocks>(problem, rank, [&](int m, int n) {
    int32_t sums[kSums];
    multiply<kBlocks>(shared, problem, consumer, turn, sums);
    write_result<Y>(shared.y(consumer), problem, y_map, consumer, m + consumer * kConsumerM, n,
                    sums);
  });
  if (threadIdx.x % kWarpgroup == 0) ptx::bulk_wait_group_read<0>();
}

// kBlocks is the size of the cluster.
template <typename Y, int kBlocks>
__global__ void __launch_bounds__(kThreads, 1)
    hopper_pipeline_kernel(const __grid_constant__ CUtensorMap x_map,
                           const __grid_constant__ CUtensorMap w_map,
                           const __grid_constant__ CUtensorMap y_map, const Problem problem) {
  extern __shared__ __align__(1024) uint8_t storage[];
  const Shared shared{ptx::shared_address(storage)};
  const int rank = kBlocks > 1 ? ptx::cluster_rank() : 0;
  // The same in all lanes, and by the shuffle the compiler knows.
  const int warpgroup = __shfl_sync(0xffffffff, threadIdx.x / kWarpgroup, 0);

  if (threadIdx.x == 0) initialise_mbarriers<kBlocks>(shared);
  synchronise<kBlocks>();
  if (warpgroup == kConsumers) {
    ptx::setmaxnreg_dec<kProducerRegisters>();
    if (threadIdx.x % kWarpgroup == 0) produce<kBlocks>(shared, problem, rank, &x_map, &w_map);
  } else {
    ptx::setmaxnreg_inc<kConsumerRegisters>();
    consume<Y, kBlocks>(shared, problem, rank, warpgroup, &y_map);
  }
  if constexpr (kBlocks > 1) {
    __syncwarp();
    ptx::cluster_sync();  // until no other block arrives at this one's mbarriers any more
  }
}

// As tests fill it. x_q, w_q and y begin at multiples of 16 bytes, and so do their rows.
struct HopperMatmul {
  const int8_t* x_q;  // (M, K), rows x_q_stride bytes apart
  int64_t x_q_stride;
  const int8_t* w_q;  // (N, K), rows w_q_stride bytes apart
  int64_t w_q_stride;
  const float* x_scale;  // (M,), or null, and y is int32
  const float* w_scale;  // (N,), or null
  void* y;               // (M, N), rows y_stride bytes apart
  int64_t y_stride;
  int M, N, K;
};

// Finds cuTensorMapEncodeTiled, a function of the driver, with no need to link with that.
cudaError_t find_encoder(PFN_cuTensorMapEncodeTiled_v12000& encode) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                             12000, cudaEnableDefault, &found);
  if (error != cudaSuccess) return error;
  encode = reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  return found == cudaDriverEntryPointSuccess ? cudaSuccess : cudaErrorNotSupported;
}

// A map of `rows` rows of `columns` elements, to be copied in boxes of `box_rows` times 128 bytes.
struct Matrix {
  CUtensorMapDataType type;
  int element_bytes;
  const void* data;
  int64_t rows, columns, stride;
  int box_rows;

  CUresult encode(PFN_cuTensorMapEncodeTiled_v12000 encode_tiled, CUtensorMap& map) const {
    const cuuint64_t sizes[] = {cuuint64_t(columns), cuuint64_t(rows)};
    const cuuint64_t strides[] = {cuuint64_t(stride)};
    const cuuint32_t box[] = {cuuint32_t(kSwizzle / element_bytes), cuuint32_t(box_rows)};
    const cuuint32_t element_strides[] = {1, 1};
    return encode_tiled(&map, type, 2, const_cast<void*>(data), sizes, strides, box,
                        element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                        CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  }
};

template <typename Y, int kBlocks>
cudaError_t launch(const HopperMatmul& args, cudaStream_t stream) {
  PFN_cuTensorMapEncodeTiled_v12000 encode = nullptr;
  cudaError_t error = find_encoder(encode);
  if (error != cudaSuccess) return error;
  constexpr auto y_type =
      std::is_same_v<Y, float> ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32 : CU_TENSOR_MAP_DATA_TYPE_INT32;
  const Matrix x{
      CU_TENSOR_MAP_DATA_TYPE_UINT8, 1, args.x_q, args.M, args.K, args.x_q_stride, kTileM};
  const Matrix w{CU_TENSOR_MAP_DATA_TYPE_UINT8,
                 1,
                 args.w_q,
                 args.N,
                 args.K,
                 args.w_q_stride,
                 kTileN / kBlocks};
  const Matrix y{y_type, 4, args.y, args.M, args.N, args.y_stride, kConsumerM};
  CUtensorMap x_map, w_map, y_map;
  if (x.encode(encode, x_map) != CUDA_SUCCESS || w.encode(encode, w_map) != CUDA_SUCCESS ||
      y.encode(encode, y_map) != CUDA_SUCCESS)
    return cudaErrorInvalidValue;

  int device = 0, sm_count = 0;
  error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&sm_count, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  const auto kernel = hopper_pipeline_kernel<Y, kBlocks>;
  error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (error != cudaSuccess) return error;

  const int64_t tiles = ceil_div(args.M, kTileM * kBlocks) * ceil_div(args.N, kTileN);
  const int64_t clusters = std::min<int64_t>(tiles, std::max(sm_count / kBlocks, 1));
  cudaLaunchAttribute cluster;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {kBlocks, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(unsigned(clusters * kBlocks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kSharedBytes;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, x_map, w_map, y_map,
                            Problem{args.x_scale, args.w_scale, args.M, args.N, args.K});
}

}  // namespace
}  // namespace green_kernels

// Writes y on `stream`, by clusters of one block or of two. M, N and K are at least 1. Returns
// null, or CUDA's words for what went wrong.
extern "C" __attribute__((visibility("default"))) const char* hopper_matmul(
    const green_kernels::HopperMatmul* args, int blocks, void* stream) {
  using namespace green_kernels;
  const auto run = args->x_scale ? (blocks > 1 ? launch<float, 2> : launch<float, 1>)
                                 : (blocks > 1 ? launch<int32_t, 2> : launch<int32_t, 1>);
  const cudaError_t error = run(*args, static_cast<cudaStream_t>(stream));
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
