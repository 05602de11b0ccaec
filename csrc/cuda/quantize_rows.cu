// quantize_rows, CUDA: bound by memory, so each row is read from it once, for its largest
// magnitude, and a second time, to round it, from the cache. A team of threads, a warp for short
// rows and a block for long ones, has a row; the largest magnitude is the same whoever finds it.
#include "../epilogue.h"
#include "floats.cuh"
#include "quantize_rows.h"

namespace green_kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int kTogether = 8;         // values that a thread takes at a time: 16 bytes of float16
constexpr int64_t kShortRow = 1024;  // four turns of a warp; a block would have threads idle
constexpr int64_t kMaxBlocks = 1 << 20;  // more rows than these have at once wait for their turn

constexpr uint32_t kInfinity = 0x7f800000, kNaN = 0x7fc00000;  // as bits

// Reads row[k .. k + 7]; zeros past K.
template <typename T>
__device__ __forceinline__ void load(const T* row, int64_t k, int64_t K, bool wide,
                                     float (&values)[kTogether]) {
  if (wide && k < K) {
    const auto vector = *reinterpret_cast<const Vector<T, kTogether>*>(row + k);
#pragma unroll
    for (int i = 0; i < kTogether; ++i) values[i] = to_float32(vector.values[i]);
  } else {
#pragma unroll
    for (int i = 0; i < kTogether; ++i) values[i] = k + i < K ? to_float32(row[k + i]) : 0.0f;
  }
}

// The largest `value` of a team, for every thread of it.
template <int kTeam>
__device__ __forceinline__ uint32_t team_max(uint32_t value) {
  value = __reduce_max_sync(0xffffffff, value);
  if (kTeam == kWarp) return value;
  __shared__ uint32_t of_warp[kTeam / kWarp];
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = value;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kTeam / kWarp; ++i) value = max(value, of_warp[i]);
  __syncthreads();  // the next row writes of_warp again
  return value;
}

// Four blocks an SM keep enough loads under way, and leave the compiler 64 registers; with its own
// idea of how many blocks there should be, nvcc 13.0 spills for sm_100.
template <typename T, int kTeam>
__global__ void __launch_bounds__(kThreads, 4)
    quantize_rows_kernel(const T* __restrict__ x,                       // (M, K)
                         int8_t* __restrict__ x_q, int64_t x_q_stride,  // (M, K), zero from K on
                         float* __restrict__ scale,                     // (M,)
                         int64_t M, int64_t K, bool wide_x,
                         bool wide_x_q) {  // rows are aligned for 8 values at once
  constexpr int teams = kThreads / kTeam;
  const int64_t first = int64_t(threadIdx.x % kTeam) * kTogether;
  for (int64_t m = int64_t(blockIdx.x) * teams + threadIdx.x / kTeam; m < M;
       m += int64_t(gridDim.x) * teams) {
    const T* const row = x + m * K;
    float values[kTogether];

    // As integers, magnitudes keep their order, infinity comes after them and NaN last.
    uint32_t largest = 0;
    for (int64_t k = first; k < K; k += kTeam * kTogether) {
      load(row, k, K, wide_x, values);
#pragma unroll
      for (int i = 0; i < kTogether; ++i) largest = max(largest, __float_as_uint(fabsf(values[i])));
    }
    largest = team_max<kTeam>(largest);

    const bool finite = largest < kInfinity;
    const float amax = fmaxf(finite ? __uint_as_float(largest) : 0.0f, kMinAmax);
    const float inverse = __fdiv_rn(float(kInt8Max), amax);
    if (first == 0) scale[m] = finite ? __fdiv_rn(amax, float(kInt8Max)) : __uint_as_float(kNaN);

    int8_t* const row_q = x_q + m * x_q_stride;
    for (int64_t k = first; k < x_q_stride; k += kTeam * kTogether) {
      load(row, k, K, wide_x, values);
      Vector<int8_t, kTogether> rounded;
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        const int q = __float2int_rn(product(values[i], inverse));
        rounded.values[i] = finite ? int8_t(min(max(q, -kInt8Max), kInt8Max)) : int8_t(0);
      }
      if (wide_x_q) {
        store_vector(row_q + k, rounded);
      } else {
#pragma unroll
        for (int i = 0; i < kTogether; ++i)
          if (k + i < x_q_stride) row_q[k + i] = rounded.values[i];
      }
    }
  }
}

template <typename T>
void launch(const void* x, int8_t* x_q, int64_t x_q_stride, float* scale, int64_t M, int64_t K,
            cudaStream_t stream) {
  const bool by_warp = K <= kShortRow;
  const int64_t teams = by_warp ? kThreads / kWarp : 1;
  const int64_t wanted = ceil_div(M, teams);
  const unsigned blocks = unsigned(wanted < kMaxBlocks ? wanted : kMaxBlocks);
  const bool wide_x = is_aligned(x, 16) && K % kTogether == 0;
  const bool wide_x_q = is_aligned(x_q, kTogether) && x_q_stride % kTogether == 0;
  const auto kernel = by_warp ? quantize_rows_kernel<T, kWarp> : quantize_rows_kernel<T, kThreads>;
  kernel<<<blocks, kThreads, 0, stream>>>(static_cast<const T*>(x), x_q, x_q_stride, scale, M, K,
                                          wide_x, wide_x_q);
}

}  // namespace

const char* quantize_rows_cuda(const void* x, Float dtype, int8_t* x_q, int64_t x_q_stride,
                               float* scale, int64_t M, int64_t K, void* stream) {
  if (M == 0) return nullptr;
  const auto launch_for = dtype == Float::kFloat32   ? launch<float>
                          : dtype == Float::kFloat16 ? launch<__half>
                                                     : launch<__nv_bfloat16>;
  launch_for(x, x_q, x_q_stride, scale, M, K, static_cast<cudaStream_t>(stream));
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace green_kernels
