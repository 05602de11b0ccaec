// int8_matmul, CUDA: what the bindings call. Plain types, so that the kernel's file needs no torch
// header and the bindings no CUDA header.
#pragma once

#include <cstdint>

#include "../types.h"

namespace green_kernels {

struct Int8Matmul {
  const int8_t* x_q;     // (M, K), rows x_q_stride apart
  int64_t x_q_stride;    // a multiple of 16, as the pointer is
  const float* x_scale;  // (M,)
  const int8_t* w_q;     // (N, K), rows w_q_stride apart
  int64_t w_q_stride;    // a multiple of 16, as the pointer is
  const float* w_scale;  // (N,)
  const void* bias;      // (N,) or null
  Float bias_dtype;
  const void* residual;  // (M, N), dense, or null
  Float residual_dtype;
  void* y;  // (M, N), dense
  Float y_dtype;
  Act act;
  int64_t M, N, K;
};

// Writes y on `stream` (a cudaStream_t of the current device). Returns null, or CUDA's words for
// what went wrong.
const char* int8_matmul_cuda(const Int8Matmul& matmul, void* stream);

}  // namespace green_kernels
