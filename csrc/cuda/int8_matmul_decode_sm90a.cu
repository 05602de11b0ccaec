// int8_matmul of few rows by wgmma, for sm_90a: y = epilogue(x_q @ w_q.T). Nearly all of the work
// is to read w, so w's rows take the place of wgmma's A, of which there are 64 at the least, and
// the few rows of x, the tokens, that of its B, of which there may be 8.
//
// One thread of a block has its part of w copied into a ring of stages in shared memory, as much
// ahead as there is room for; two warpgroups multiply what arrives, 64 rows of w each. Where w has
// too few rows to keep all SMs busy, the blocks of a cluster share K: each leaves its sums in its
// own shared memory, and adds up some tokens' sums over all blocks. Such sums are exact in any
// order. Of very few tokens each block rounds what it multiplies by itself, while w is on its way.
#include <utility>

#include "epilogue.cuh"
#include "int8_matmul_decode.h"
#include "int8_matmul_kernels.h"
#include "quantize_row.cuh"
#include "ring.cuh"
#include "tensor_map.h"

namespace green_kernels {
namespace {

struct Arguments : Int8Matmul {
  int splits;   // blocks of a cluster, which share K
  bool wide_y;  // rows of y and residual are aligned for four values at once
  bool wide_x;  // rows of x, for a unit
};

// What a block computes.
struct Part {
  int64_t m, n;  // the first row of x and of w
  int tokens;    // rows of x that exist
  int rank;      // of the block in its cluster
  Steps steps;

  __device__ __forceinline__ Part(const Arguments& args, const DecodeTile& tile)
      : rank(blockIdx.x % args.splits),
        steps(decode_share(decode_steps(args.K), args.splits, rank)) {
    const Place at = decode_place(blockIdx.x / args.splits, int(ceil_div(args.M, tile.tokens)));
    m = int64_t(at.row) * tile.tokens, n = int64_t(at.column) * kDecodeRows;
    tokens = int(min(args.M - m, int64_t(tile.tokens)));
  }
};

__device__ __forceinline__ void consumers_sync() {
  ptx::barrier_sync(1, kDecodeConsumingThreads);  // 0 is __syncthreads
}

// The producer, one thread: fills stage after stage, as soon as it is empty. The kernel before this
// one may still be at work on x, never on w.
template <int kTile>
__device__ __forceinline__ void produce(const Part& part, uint32_t shared,
                                        const Ring<kDecodeTiles[kTile].stages>& ring,
                                        const CUtensorMap* w_map, const CUtensorMap* x_map) {
  constexpr DecodeTile tile = kDecodeTiles[kTile];
  constexpr int w_bytes = kDecodeRows * kStageK;
  constexpr int x_bytes = tile.quantizes ? 0 : tile.tokens * kStageK;
  const auto copy_w = [&](int stage, int step) {
    ptx::mbarrier_arrive_expect_tx(ring.full(stage), w_bytes + x_bytes);
    ptx::tma_load_2d(shared + decode_w(stage), w_map, (part.steps.first + step) * kStageK,
                     int(part.n), ring.full(stage));
  };
  const auto copy_x = [&](int stage, int step) {
    if (!tile.quantizes)
      ptx::tma_load_2d(shared + decode_x(tile, stage), x_map, (part.steps.first + step) * kStageK,
                       int(part.m), ring.full(stage));
  };

  const int at_once = min(part.steps.count, tile.stages);
  for (int step = 0; step < at_once; ++step) copy_w(step, step);
  if constexpr (!tile.quantizes) ptx::wait_for_kernel_before();
  for (int step = 0; step < at_once; ++step) copy_x(step, step);

  Turn<tile.stages> turn;
  turn.parity = 1;  // the ring has been filled once
  for (int step = at_once; step < part.steps.count; ++step, turn.next()) {
    ring.wait_until_empty(turn);
    copy_w(turn.stage, step);
    copy_x(turn.stage, step);
  }
}

// Eight values of a row of x from k on; zeros past K.
template <typename X>
__device__ __forceinline__ Vector<X, kUnit> load_unit(const X* row, int k, const Arguments& args) {
  Vector<X, kUnit> unit;
  if (args.wide_x && k < args.K) return *reinterpret_cast<const Vector<X, kUnit>*>(row + k);
#pragma unroll
  for (int i = 0; i < kUnit; ++i)
    unit.values[i] = k + i < args.K ? row[k + i] : from_float32<X>(0.0f);
  return unit;
}

// The consumers' warps that find and round one token: all of them, or as many for each.
struct Team {
  int warps, token, thread;

  __device__ __forceinline__ explicit Team(int tokens)
      : warps(decode_team_warps(tokens)),
        token(threadIdx.x / kWarpSize / warps),
        thread(threadIdx.x % (warps * kWarpSize)) {}

  // Calls f(k) with the first of each unit of this thread, of those before `end`.
  template <typename F>
  __device__ __forceinline__ void for_units(int end, F f) const {
#pragma unroll 4  // so many loads are under way
    for (int k = thread * kUnit; k < end; k += warps * kWarpSize * kUnit) f(k);
  }
};

// The largest magnitude of a row, as each warp of the team finds it.
template <typename X>
__device__ __forceinline__ void find_maximum(const Arguments& args, const Team& team, const X* row,
                                             uint32_t* maxima) {
  uint32_t largest = 0;
  team.for_units(int(args.K), [&](int k) {
    const auto unit = load_unit(row, k, args);
#pragma unroll
    for (int i = 0; i < kUnit; ++i) largest = max(largest, magnitude(to_float32(unit.values[i])));
  });
  largest = __reduce_max_sync(0xffffffff, largest);
  if (threadIdx.x % kWarpSize == 0) maxima[threadIdx.x / kWarpSize] = largest;
}

// The same of all warps of the team.
__device__ __forceinline__ uint32_t team_max(const Team& team, const uint32_t* maxima) {
  const int warp = threadIdx.x % kWarpSize % team.warps;
  return __reduce_max_sync(0xffffffff, maxima[team.token * team.warps + warp]);
}

template <typename X>
__device__ __forceinline__ Vector<int8_t, kUnit> round_unit(const Vector<X, kUnit>& unit,
                                                            const RowScale& scale) {
  Vector<int8_t, kUnit> rounded;
#pragma unroll
  for (int i = 0; i < kUnit; ++i) rounded.values[i] = scale.round(to_float32(unit.values[i]));
  return rounded;
}

// A unit of a token, k from the first of the block's share, to where wgmma reads it.
template <int kTile>
__device__ __forceinline__ void store_unit(uint32_t shared, int token, int k,
                                           const Vector<int8_t, kUnit>& unit) {
  constexpr DecodeTile tile = kDecodeTiles[kTile];
  const uint32_t to = shared + decode_x(tile, k / kStageK) + decode_x_byte(token, k % kStageK);
  int32_t words[2];
  memcpy(words, &unit, sizeof(words));
  ptx::store_shared_2(to, words[0], words[1]);
}

// The consumers: what the block needs of x, rounded as quantize_rows does, and its scales.
template <int kTile, typename X>
__device__ __forceinline__ void quantize(const Arguments& args, const Part& part,
                                         uint8_t* storage) {
  constexpr DecodeTile tile = kDecodeTiles[kTile];
  uint32_t* const maxima = reinterpret_cast<uint32_t*>(storage + decode_maxima(tile));
  float* const scales = reinterpret_cast<float*>(storage + decode_scales(tile));
  const uint32_t shared = ptx::shared_address(storage);
  const int first = part.steps.first * kStageK, count = part.steps.count * kStageK;
  const Team team(part.tokens);
  const bool exists = team.token < part.tokens;
  const X* const row = static_cast<const X*>(args.x) + (part.m + team.token) * args.K;

  if (exists) find_maximum(args, team, row, maxima);
  consumers_sync();
  if (exists) {
    const RowScale scale(team_max(team, maxima));
    if (team.thread == 0) scales[team.token] = scale.scale;
    team.for_units(count, [&](int k) {
      store_unit<kTile>(shared, team.token, k, round_unit(load_unit(row, first + k, args), scale));
    });
  }
  // wgmma takes eight tokens; those that do not exist are zeros.
  const int teams = kDecodeConsumingWarps / team.warps;
  for (int token = exists ? team.token + teams : team.token; token < tile.tokens; token += teams)
    team.for_units(count, [&](int k) { store_unit<kTile>(shared, token, k, {}); });
  ptx::fence_proxy_async_shared();  // this thread's stores, for wgmma of any thread
  consumers_sync();
}

// A consumer's sums, (64, tokens) of them. While the products of a step are computed, those of the
// next are started; so a stage is released one step later.
template <int kTile, int kSums>
__device__ __forceinline__ void multiply(const Part& part, uint32_t shared,
                                         const Ring<kDecodeTiles[kTile].stages>& ring,
                                         int32_t (&sums)[kSums]) {
  constexpr DecodeTile tile = kDecodeTiles[kTile];
  constexpr int rows_bytes = kWgmmaM * kStageK;
  const int consumer = threadIdx.x / kWarpgroup;
  const bool releases = threadIdx.x % kWarpgroup == 0;
  Turn<tile.stages> turn;
  int before = 0;
  for (int step = 0; step < part.steps.count; ++step, turn.next()) {
    const uint32_t w = shared + decode_w(turn.stage) + consumer * rows_bytes;
    const uint32_t x = shared + decode_x(tile, tile.quantizes ? step : turn.stage);
    ring.wait_until_full(turn);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kStageK; k += kWgmmaK)
      ptx::wgmma(sums, ptx::swizzled_128b_descriptor(w + k), ptx::swizzled_128b_descriptor(x + k),
                 true);
    ptx::wgmma_commit_group();
    ptx::wgmma_wait_group<1>();
    if (step > 0 && releases) ptx::mbarrier_arrive(ring.empty(before));
    before = turn.stage;
  }
  ptx::wgmma_wait_group<0>();
  ptx::keep_until_here(sums);
}

// A thread's sums, to where other threads and blocks read them.
template <int kSums>
__device__ __forceinline__ void stage_sums(uint32_t shared, const int32_t (&sums)[kSums]) {
  int32_t* const words = static_cast<int32_t*>(__cvta_shared_to_generic(shared));
#pragma unroll
  for (int i = 0; i < kSums; ++i) {
    const Place at = decode_sum(threadIdx.x, i);
    words[decode_sum_word(at.column, at.row)] = sums[i];
  }
}

// Four words at one place of each block's shared memory, added up.
template <int kSplits>
__device__ __forceinline__ int4 add_up(uint32_t shared) {
  int4 parts[kSplits];
#pragma unroll
  for (int rank = 0; rank < kSplits; ++rank)  // all are under way before the first is needed
    parts[rank] = ptx::load_cluster(ptx::map_to_block(shared, rank));
  int4 total = parts[0];
#pragma unroll
  for (int rank = 1; rank < kSplits; ++rank) {
    total.x += parts[rank].x, total.y += parts[rank].y;
    total.z += parts[rank].z, total.w += parts[rank].w;
  }
  return total;
}

__device__ __forceinline__ int4 add_up(uint32_t shared, int splits) {
  switch (splits) {
    case 8:
      return add_up<8>(shared);
    case 4:
      return add_up<4>(shared);
    case 2:
      return add_up<2>(shared);
    default:
      return add_up<1>(shared);
  }
}

// The block's share of the cluster's tokens, a warp a row of y, each lane four columns.
template <int kTile>
__device__ __forceinline__ void write_result(const Arguments& args, const Part& part,
                                             const Columns& columns, const uint8_t* storage) {
  constexpr DecodeTile tile = kDecodeTiles[kTile];
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const float* const scales = tile.quantizes
                                  ? reinterpret_cast<const float*>(storage + decode_scales(tile))
                                  : args.x_scale + part.m;
  const uint32_t shared = ptx::shared_address(storage);
#pragma unroll 1
  for (int turn = 0;; ++turn) {
    const int token = decode_added_token(args.splits, part.rank, warp, turn);
    if (token >= part.tokens) break;
    if (columns.count == 0) continue;
    float y[4];
    scale_sums(add_up(shared + decode_sum_word(token, lane * 4) * 4, args.splits), scales[token],
               y);
    write_row(args, part.m + token, columns, y);
  }
}

constexpr int blocks_per_sm(const DecodeTile& tile) { return tile.tokens <= 64 ? 2 : 1; }

// X is the type of x where the block rounds it, and of x_q where it does not.
template <int kTile, typename X>
__global__ void __launch_bounds__(kDecodeThreads, blocks_per_sm(kDecodeTiles[kTile]))
    int8_matmul_decode_kernel(const __grid_constant__ CUtensorMap w_map,
                              const __grid_constant__ CUtensorMap x_map,
                              const __grid_constant__ Arguments args) {
  constexpr DecodeTile tile = kDecodeTiles[kTile];
  extern __shared__ __align__(1024) uint8_t storage[];
  const uint32_t shared = ptx::shared_address(storage);
  const Ring<tile.stages> ring{shared + decode_mbarriers(tile)};
  const Part part(args, tile);
  // The same in all lanes, and by the shuffle the compiler knows.
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / kWarpSize, 0);
  const int lane = threadIdx.x % kWarpSize;

  if (threadIdx.x == 0) ring.initialise(kConsumers);
  __syncthreads();
  if (warp == kDecodeConsumingWarps) {
    if (lane == 0) produce<kTile>(part, shared, ring, &w_map, &x_map);
    return;
  }

  const Columns columns(args, part.n + lane * 4, args.wide_y);  // read while w is on its way
  if constexpr (tile.quantizes) quantize<kTile, X>(args, part, storage);
  int32_t sums[kDecodeRows * tile.tokens / kDecodeConsumingThreads] = {};
  multiply<kTile>(part, shared, ring, sums);
  consumers_sync();  // the sums come to lie over w
  stage_sums(shared, sums);
  if constexpr (!tile.quantizes) ptx::wait_for_kernel_before();  // for x_scale
  if (args.splits > 1)
    ptx::cluster_sync();
  else
    consumers_sync();
  write_result<kTile>(args, part, columns, storage);
  if (args.splits > 1) ptx::cluster_sync();  // until no other block reads this one's sums any more
}

using Function = void (*)(CUtensorMap, CUtensorMap, Arguments);

template <int kTile>
Function kernel_for(Float x_dtype) {
  if constexpr (!kDecodeTiles[kTile].quantizes)
    return int8_matmul_decode_kernel<kTile, int8_t>;
  else if (x_dtype == Float::kFloat32)
    return int8_matmul_decode_kernel<kTile, float>;
  else if (x_dtype == Float::kFloat16)
    return int8_matmul_decode_kernel<kTile, __half>;
  else
    return int8_matmul_decode_kernel<kTile, __nv_bfloat16>;
}

template <int... kTile>
Function kernel_of(int tile, Float x_dtype, std::integer_sequence<int, kTile...>) {
  static constexpr Function (*kernels[])(Float) = {kernel_for<kTile>...};
  return kernels[tile](x_dtype);
}

}  // namespace

cudaError_t launch_decode(const Int8Matmul& args, const Launch& launch) {
  const DecodeTile tile = kDecodeTiles[launch.plan.tile];
  const int splits = launch.plan.splits;
  CUtensorMap w_map{}, x_map{};
  cudaError_t error = encode_stages(args.w_q, args.N, args.K, args.w_q_stride, kDecodeRows, w_map);
  if (error == cudaSuccess && !tile.quantizes)
    error = encode_stages(args.x_q, args.M, args.K, args.x_q_stride, tile.tokens, x_map);
  if (error != cudaSuccess) return error;

  const bool wide_x = is_aligned(args.x, 16) && args.K % kUnit == 0;
  return start(kernel_of(launch.plan.tile, args.x_dtype,
                         std::make_integer_sequence<int, kDecodeTileCount>()),
               parts_of_y(launch.plan, args.M, args.N) * splits, kDecodeThreads,
               decode_shared_bytes(tile, args.K, splits), splits, launch, w_map, x_map,
               Arguments{args, splits, rows_are_wide(args), wide_x});
}

}  // namespace green_kernels
