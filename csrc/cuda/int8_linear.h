// int8_linear, CUDA: what the binding calls.
#pragma once

#include "int8_matmul.h"

namespace green_kernels {

// Rounds the rows of x (M, K), dense, into x_q and x_scale, which the caller allocates as `matmul`
// describes them, and multiplies, on `stream`. Returns null, or CUDA's words for what went wrong.
const char* int8_linear_cuda(const void* x, Float x_dtype, int8_t* x_q, float* x_scale,
                             Int8Matmul matmul, void* stream);

}  // namespace green_kernels
