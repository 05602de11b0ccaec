// Rounding a row of x to int8: what every kernel that makes int8 of floats does alike.
#pragma once

#include "../epilogue.h"

namespace green_kernels {

constexpr int kUnit = 8;  // values that a thread takes at a time: 16 bytes of float16

// The bits of |x|. As integers, magnitudes keep their order, infinity comes after them and NaN
// last; so the largest of a row is the same in whatever order it is sought.
__device__ __forceinline__ uint32_t magnitude(float x) { return __float_as_uint(fabsf(x)); }

// How a row is rounded, given the largest magnitude in it.
struct RowScale {
  static constexpr uint32_t kInfinity = 0x7f800000, kNaN = 0x7fc00000;  // as bits

  bool is_finite;
  float scale, inverse;

  __device__ __forceinline__ explicit RowScale(uint32_t largest) : is_finite(largest < kInfinity) {
    const float amax = fmaxf(is_finite ? __uint_as_float(largest) : 0.0f, kMinAmax);
    scale = is_finite ? __fdiv_rn(amax, float(kInt8Max)) : __uint_as_float(kNaN);
    inverse = __fdiv_rn(float(kInt8Max), amax);
  }

  __device__ __forceinline__ int8_t round(float x) const {
    const int q = __float2int_rn(product(x, inverse));
    return is_finite ? int8_t(min(max(q, -kInt8Max), kInt8Max)) : int8_t(0);
  }
};

}  // namespace green_kernels
