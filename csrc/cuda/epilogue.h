// What every product does with its sums: the launchers' part. (epilogue.cuh is the kernels'.)
#pragma once

#include <cstdint>

#include "../types.h"

namespace green_kernels {

// y (M, N) = act(sums * w_scale + bias) + residual
struct Epilogue {
  const float* w_scale;  // (N,)
  const void* bias;      // (N,) or null
  Float bias_dtype;
  const void* residual;  // (M, N), dense, or null
  Float residual_dtype;
  void* y;  // (M, N), dense
  Float y_dtype;
  Act act;
  int64_t M, N;
};

}  // namespace green_kernels
