// quantize_rows, CUDA: what the bindings call.
#pragma once

#include <cstdint>

#include "../types.h"

namespace green_kernels {

// Rounds the rows of x (M, K), dense, to int8 by their scales (M,), on `stream` (a cudaStream_t of
// the current device). Rows of x_q begin x_q_stride >= K apart, and are zero from K on. Returns
// null, or CUDA's words for what went wrong.
const char* quantize_rows_cuda(const void* x, Float dtype, int8_t* x_q, int64_t x_q_stride,
                               float* scale, int64_t M, int64_t K, void* stream);

}  // namespace green_kernels
