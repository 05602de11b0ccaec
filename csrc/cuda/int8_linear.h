// int8_linear, CUDA: what the binding calls.
#pragma once

#include "int8_matmul.h"

namespace green_kernels {

// Rounds the rows of matmul.x into x_q and x_scale, which the caller allocates as `matmul`
// describes them, and multiplies. Where the plan rounds by itself they are not used. Returns null,
// or CUDA's words for what went wrong.
const char* int8_linear_cuda(Int8Matmul matmul, int8_t* x_q, float* x_scale, Launch launch);

}  // namespace green_kernels
