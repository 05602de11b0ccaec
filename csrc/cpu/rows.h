// What is done to one row, compiled for several instruction sets and chosen when the library loads.
#pragma once

#include "../types.h"

namespace green_kernels {

// What oneDNN multiplies: x_q + 128 as uint8, because every CPU with int8 dot products has the
// unsigned-by-signed one, and only those with AMX the signed-by-signed one.
constexpr int kUnsignedZero = 128;

// n values of any float dtype as float32, and back with one rounding each.
void widen(const void* from, Float dtype, int64_t n, float* to);
void narrow(const float* from, int64_t n, Float dtype, void* to);

// x_q[k] = zero + round(x[k] * 127 / amax), x of that dtype; returns amax / 127.  A row that holds
// NaN or infinity gives x_q = zero and NaN.
float quantize_row(const void* x, Float dtype, int64_t K, int zero, uint8_t* x_q);

// Signed values as what oneDNN multiplies.
void offset_row(const int8_t* x_q, int64_t K, uint8_t* to);

// acc[n] = sum over k of (x[k] - 128) * w_q[n, k], exact; w_q is (N, K).
void dot_rows(const uint8_t* x, const int8_t* w_q, int64_t N, int64_t K, float* acc);

// y[n] = act(acc[n] * x_scale * w_scale[n] + bias[n]) + residual[n], each operation rounded; bias
// and residual may be null, and y may be acc.
void epilogue_row(const float* acc, float x_scale, const float* w_scale, const float* bias, Act act,
                  const float* residual, int64_t N, float* y);

}  // namespace green_kernels
