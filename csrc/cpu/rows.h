// What is done to one row, compiled for several instruction sets and chosen when the library loads.
#pragma once

#include "../types.h"

namespace green_kernels {

// n values of any float dtype as float32, and back with one rounding each.
void widen(const void* from, Float dtype, int64_t n, float* to);
void narrow(const float* from, int64_t n, Float dtype, void* to);

// x_q[k] = zero + round(x[k] * 127 / amax), x of that dtype; returns amax / 127.  A row that holds
// NaN or infinity gives x_q = zero and NaN.
float quantize_row(const void* x, Float dtype, int64_t K, int zero, uint8_t* x_q);

// to[k] = zero + x_q[k].
void offset_row(const int8_t* x_q, int64_t K, int zero, uint8_t* to);

// acc[n] = float(sum over k of x_q[k] * w_q[n, k]), exact until that last step; w_q is (N, K).
void dot_rows(const int8_t* x_q, const int8_t* w_q, int64_t N, int64_t K, float* acc);

// y[n] = act(acc[n] * x_scale * w_scale[n] + bias[n]) + residual[n], each operation rounded; bias
// and residual may be null, and y may be acc.
void epilogue_row(const float* acc, float x_scale, const float* w_scale, const float* bias, Act act,
                  const float* residual, int64_t N, float* y);

}  // namespace green_kernels
