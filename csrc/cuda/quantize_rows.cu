// quantize_rows, CUDA: bound by memory, so each row is read from it once. A team of threads, a warp
// for short rows and a block for long ones, holds its row in registers, finds the largest magnitude
// and rounds. Only what of a row exceeds the registers is read a second time, from the cache:
// beyond 65,536 values, or 32,768 of float32; and of rows that are not aligned, for which there are
// not enough registers, nearly all.
#include "floats.cuh"
#include "ptx.cuh"
#include "quantize_row.cuh"
#include "quantize_rows.h"

namespace green_kernels {
namespace {

constexpr int kWarp = 32;
constexpr int64_t kMaxBlocks = 1 << 20;  // more rows than these have at once wait for their turn

// Eight values of x as they came, in whole registers: kept as values of 16 bits, which take one
// each, or as float32 from one use to the next, they would not fit.
template <typename T>
struct Unit {
  static constexpr int kWords = kUnit * sizeof(T) / sizeof(uint32_t);
  uint32_t words[kWords] = {};

  // unit[0 .. 7], of which `left` are in the row; zeros past them.
  template <bool kWide>
  static __device__ __forceinline__ Unit load(const T* from, int left) {
    Unit unit;
    if constexpr (kWide) {
      if (left > 0) memcpy(unit.words, __builtin_assume_aligned(from, 16), sizeof(unit));
    } else {
      T values[kUnit];
#pragma unroll
      for (int i = 0; i < kUnit; ++i) values[i] = i < left ? from[i] : from_float32<T>(0.0f);
      memcpy(unit.words, values, sizeof(unit));
    }
    return unit;
  }

  // As float32, made anew at each call.
  __device__ __forceinline__ void widen(float (&values)[kUnit]) {
#pragma unroll
    for (int i = 0; i < kWords; ++i) ptx::forget(words[i]);
    T narrow[kUnit];
    memcpy(narrow, words, sizeof(narrow));
#pragma unroll
    for (int i = 0; i < kUnit; ++i) values[i] = to_float32(narrow[i]);
  }

  __device__ __forceinline__ uint32_t largest() {
    float values[kUnit];
    widen(values);
    uint32_t largest = 0;
#pragma unroll
    for (int i = 0; i < kUnit; ++i) largest = max(largest, magnitude(values[i]));
    return largest;
  }

  // Rounded, to the `left` values from `to` on that are in the row.
  template <bool kWide>
  __device__ __forceinline__ void store(int8_t* to, int left, const RowScale& scale) {
    float values[kUnit];
    widen(values);
    Vector<int8_t, kUnit> rounded;
#pragma unroll
    for (int i = 0; i < kUnit; ++i) rounded.values[i] = scale.round(values[i]);
    if constexpr (kWide) {
      if (left > 0) store_vector(to, rounded);
    } else {
#pragma unroll
      for (int i = 0; i < kUnit; ++i)
        if (i < left) to[i] = rounded.values[i];
    }
  }
};

// How many of the values from k on are before `end`; no more than matters.
__device__ __forceinline__ int values_left(int64_t k, int64_t end) {
  return int(min(end - k, int64_t(INT32_MAX)));
}

// The largest `value` of a team, for every thread of it.
template <int kTeam>
__device__ __forceinline__ uint32_t team_max(uint32_t value) {
  value = __reduce_max_sync(0xffffffff, value);
  if (kTeam == kWarp) return value;
  __shared__ uint32_t of_warp[kTeam / kWarp];
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = __reduce_max_sync(0xffffffff, of_warp[threadIdx.x % (kTeam / kWarp)]);
  __syncthreads();  // the next row writes of_warp again
  return value;
}

HOST_DEVICE constexpr int block_size(int team) { return team > 256 ? team : 256; }

// A team of kTeam threads, each of which holds kHeld units. kWide: units of x and x_q are aligned,
// and so move at once. (A thousand threads an SM at the least leave the compiler 64 registers; with
// its own idea of how many there should be, nvcc 13.0 spills.)
template <typename T, int kTeam, int kHeld, bool kWide>
__global__ void __launch_bounds__(block_size(kTeam), 1024 / block_size(kTeam))
    quantize_rows_kernel(const __grid_constant__ QuantizeRows args) {
  ptx::launch_dependents();
  constexpr int block = block_size(kTeam), teams = block / kTeam, step = kTeam * kUnit;
  const int64_t K = args.K, stride = args.x_q_stride;
  const int64_t first = int64_t(threadIdx.x % kTeam) * kUnit;

  for (int64_t i = int64_t(blockIdx.x) * block + threadIdx.x; i < args.zeros;
       i += int64_t(gridDim.x) * block)
    args.zeroed[i] = 0;

  for (int64_t m = int64_t(blockIdx.x) * teams + threadIdx.x / kTeam; m < args.M;
       m += int64_t(gridDim.x) * teams) {
    const T* const units = static_cast<const T*>(args.x) + m * K + first;
    int8_t* const units_q = args.x_q + m * stride + first;
    const int left = values_left(first, K), left_q = values_left(first, stride);
    const auto load = [&](int64_t k, int left) {
      return Unit<T>::template load<kWide>(units + k, left);
    };
    Unit<T> held[kHeld];
    uint32_t largest = 0;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) held[i] = load(i * step, left - i * step);
#pragma unroll
    for (int i = 0; i < kHeld; ++i) largest = max(largest, held[i].largest());
#pragma unroll 1
    for (int64_t k = kHeld * step; k < K - first; k += step)
      largest = max(largest, load(k, values_left(first + k, K)).largest());

    const RowScale scale(team_max<kTeam>(largest));
    if (first == 0) args.scale[m] = scale.scale;
#pragma unroll
    for (int i = 0; i < kHeld; ++i)
      held[i].template store<kWide>(units_q + i * step, left_q - i * step, scale);
#pragma unroll 1
    for (int64_t k = kHeld * step; k < stride - first; k += step)
      load(k, values_left(first + k, K))
          .template store<kWide>(units_q + k, values_left(first + k, stride), scale);
  }
}

template <typename T, int kTeam, int kHeld, bool kWide>
void launch_team(const QuantizeRows& args, cudaStream_t stream) {
  constexpr int block = block_size(kTeam);
  const int64_t wanted = ceil_div(args.M, block / kTeam);
  const unsigned blocks = unsigned(wanted < kMaxBlocks ? wanted : kMaxBlocks);
  quantize_rows_kernel<T, kTeam, kHeld, kWide><<<blocks, block, 0, stream>>>(args);
}

// The smallest team that holds a row; float32 fills the registers with half as many values.
template <typename T>
void launch(const QuantizeRows& args, cudaStream_t stream) {
  constexpr int most = 16 / sizeof(T);  // units that a thread can hold
  const bool is_wide = is_aligned(args.x, 16) && args.K % kUnit == 0 &&
                       is_aligned(args.x_q, kUnit) && args.x_q_stride % kUnit == 0;
  const int64_t units = ceil_div(args.K, kUnit);
  const auto launch_wide = units <= 32 * 4       ? launch_team<T, 32, 4, true>
                           : units <= 256 * 2    ? launch_team<T, 256, 2, true>
                           : units <= 256 * most ? launch_team<T, 256, most, true>
                                                 : launch_team<T, 1024, most, true>;
  const auto launch_narrow =
      units <= 32 * 4 ? launch_team<T, 32, 1, false> : launch_team<T, 256, 1, false>;
  (is_wide ? launch_wide : launch_narrow)(args, stream);
}

}  // namespace

const char* quantize_rows_cuda(const QuantizeRows& args, void* stream) {
  if (args.M == 0) return nullptr;
  const auto launch_for = args.dtype == Float::kFloat32   ? launch<float>
                          : args.dtype == Float::kFloat16 ? launch<__half>
                                                          : launch<__nv_bfloat16>;
  launch_for(args, static_cast<cudaStream_t>(stream));
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace green_kernels
