// int8_matmul, CUDA: what the bindings call. Plain types, so that the kernels' files need no torch
// header and the bindings no CUDA header.
#pragma once

#include <cstdint>

#include "epilogue.h"
#include "int8_matmul_plan.h"

namespace green_kernels {

struct Int8Matmul : Epilogue {
  const int8_t* x_q;     // (M, K), rows x_q_stride apart
  int64_t x_q_stride;    // a multiple of 16, as the pointer is
  const float* x_scale;  // (M,)
  const int8_t* w_q;     // (N, K), rows w_q_stride apart
  int64_t w_q_stride;    // a multiple of 16, as the pointer is
  int64_t K;
  // In the place of x_q and x_scale where the plan rounds the rows itself: (M, K), dense.
  const void* x;
  Float x_dtype;
};

// Where and how to launch.
struct Launch {
  Plan plan;
  void* workspace;  // workspace_bytes(plan, M, N) of them, aligned to 16; null where there are none
  Gpu gpu;          // the current device
  void* stream;     // a cudaStream_t of it
  // The kernel before it on the stream is quantize_rows, which has made x_q and x_scale and set the
  // workspace's counters to zero.
  bool follows_quantizer;
};

// The current device, as plans are made for it. Returns null, or CUDA's words for what went wrong.
const char* current_gpu(Gpu& gpu);

// Writes y as `launch` says. Returns null, or CUDA's words for what went wrong.
const char* int8_matmul_cuda(const Int8Matmul& matmul, const Launch& launch);

}  // namespace green_kernels
