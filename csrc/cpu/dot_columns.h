// Rows of floats times columns of int8, compiled for several instruction sets.
#pragma once

#include <cstdint>

#include "../types.h"

namespace green_kernels {

constexpr int64_t kLanes = 16;  // floats: rows of x end in zeros, at a multiple of them

// Floats from one row of x to the next: an odd number of cache lines, lest rows fall into a few
// sets of a cache.
constexpr int64_t row_stride(int64_t K) { return (ceil_div(K, kLanes) | 1) * kLanes; }

// acc[m * N + n] = sum over k of x[m * row_stride(K) + k] * w_q[n * K + k], in float32 in an order
// of its own.  x is aligned to 64 bytes, and zero between K and the next multiple of kLanes.
void dot_columns(const float* x, int64_t M, const int8_t* w_q, int64_t N, int64_t K, float* acc);

}  // namespace green_kernels
