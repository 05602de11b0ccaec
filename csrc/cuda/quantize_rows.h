// quantize_rows, CUDA: what the bindings call.
#pragma once

#include <cstdint>

#include "../types.h"

namespace green_kernels {

struct QuantizeRows {
  const void* x;  // (M, K), dense
  Float dtype;
  int8_t* x_q;  // (M, K), rows x_q_stride >= K apart, which become zero from K on
  int64_t x_q_stride;
  float* scale;  // (M,)
  int64_t M, K;
  uint32_t* zeroed;  // words that become zero as well, for the kernel after this one to count in
  int64_t zeros;     // how many
};

// Rounds the rows of x to int8 by their scales, on `stream` (a cudaStream_t of the current device).
// Returns null, or CUDA's words for what went wrong.
const char* quantize_rows_cuda(const QuantizeRows& rows, void* stream);

}  // namespace green_kernels
