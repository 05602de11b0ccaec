// int8_weight_linear, CUDA: what the binding calls.
#pragma once

#include "epilogue.h"

namespace green_kernels {

struct Int8WeightLinear : Epilogue {
  const void* x;  // (M, K), dense
  Float x_dtype;
  const int8_t* w_q;   // (N, K), rows w_q_stride apart
  int64_t w_q_stride;  // a multiple of 16, as the pointer is
  int64_t K;
};

// Writes y, on `stream` (a cudaStream_t of the current device). Returns null, or CUDA's words for
// what went wrong.
const char* int8_weight_linear_cuda(const Int8WeightLinear& linear, void* stream);

}  // namespace green_kernels
