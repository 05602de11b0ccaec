// Rows of floats times columns of int8, compiled for several instruction sets.
#pragma once

#include <cstdint>

#include "../types.h"

namespace green_kernels {

constexpr int64_t kCacheLine = 64;  // bytes

// What dot_columns wants M rows of this dtype as: bfloat16 where it is that and the CPU multiplies
// it, else float32; and of one row, whose time is that of widening the weights, float32.
Float dot_dtype(Float dtype, int64_t M);

// Bytes from one row of x to the next: an odd number of cache lines, lest rows fall into a few sets
// of a cache.
inline int64_t row_stride(Float dtype, int64_t K) {
  return (ceil_div(K * bytes(dtype), kCacheLine) | 1) * kCacheLine;
}

// acc[m * N + n] = sum over k of x[m, k] * w_q[n * K + k], in float32 in an order of its own; to
// the instructions for bfloat16 a subnormal x is zero.  x is of a dtype that dot_dtype gave, its
// rows row_stride bytes apart from a multiple of kCacheLine on, and zero between K and the next
// such multiple.
void dot_columns(const void* x, Float dtype, int64_t M, const int8_t* w_q, int64_t N, int64_t K,
                 float* acc);

}  // namespace green_kernels
