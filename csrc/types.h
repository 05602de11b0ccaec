// What every kernel file, host or device, torch or not, agrees on.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define HOST_DEVICE __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define HOST_DEVICE inline __attribute__((always_inline))  // into loops compiled for several ISAs
#else
#define HOST_DEVICE inline
#endif

namespace green_kernels {

enum class Float : int { kFloat32, kFloat16, kBFloat16 };

HOST_DEVICE constexpr int64_t bytes(Float dtype) { return dtype == Float::kFloat32 ? 4 : 2; }

// The order of ACTIVATIONS in green_kernels/ops/int8_matmul.py.
enum class Act : int { kNone, kRelu, kGelu, kGeluTanh, kSilu };

constexpr int kInt8Max = 127;

constexpr int kChunk = 16;  // bytes that CUDA kernels move at a time: rows of int8 begin there

// The longest sum of products of two values in [-127, 127] that an int32 holds for certain.
constexpr int64_t kMaxK = 2147483647 / (kInt8Max * kInt8Max);
static_assert(kMaxK == 133144);

// The least amax that a scale is made from: a row of zeros, or of less, divides by this.
constexpr float kMinAmax = 0x1p-100f;

HOST_DEVICE constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
HOST_DEVICE constexpr int64_t round_up(int64_t a, int64_t multiple) {
  return ceil_div(a, multiple) * multiple;
}

}  // namespace green_kernels
