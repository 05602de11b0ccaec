// From sums to y, four columns of a row at a time: what all products of the CUDA kernels share.
#pragma once

#include "../epilogue.h"
#include "epilogue.h"
#include "floats.cuh"

namespace green_kernels {

// The four columns of y that a thread writes, of which `count` exist, and what it needs of them.
struct Columns {
  int64_t n;
  int count;
  bool whole;  // all four, and aligned, so that they are read and written at once
  float w_scale[4] = {}, bias[4] = {};

  __device__ __forceinline__ Columns(const Epilogue& args, int64_t first, bool wide)
      : n(first), count(int(min(max(args.N - first, int64_t(0)), int64_t(4)))) {
    whole = wide && count == 4;
    load4(args.w_scale, Float::kFloat32, n, count, false, w_scale);
    if (args.bias) load4(args.bias, args.bias_dtype, n, count, false, bias);
  }
};

// Whether rows of y and residual are aligned for four values at once.
inline bool rows_are_wide(const Epilogue& args) {
  return args.N % 4 == 0 && is_aligned(args.y, 16) && is_aligned(args.residual, 16);
}

// The values take turns at the front, so that the activations, long in float64, stand here once; an
// index that is not known when compiling would send y to local memory.
__device__ __forceinline__ void activate_all(float (&y)[4], Act act, bool in_float64) {
#pragma unroll 1
  for (int i = 0; i < 4; ++i) {
    const float z = in_float64 ? float(activate(double(y[0]), act)) : activate(y[0], act);
    y[0] = y[1], y[1] = y[2], y[2] = y[3], y[3] = z;
  }
}

// Four sums of a row, with its scale.
__device__ __forceinline__ void scale_sums(int4 acc, float x_scale, float (&y)[4]) {
  const int32_t acc_of[4] = {acc.x, acc.y, acc.z, acc.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) y[i] = product(__int2float_rn(acc_of[i]), x_scale);
}

// Four sums of a row that are float32, as they were stored.
__device__ __forceinline__ void as_floats(int4 acc, float (&y)[4]) { memcpy(y, &acc, sizeof(y)); }

// Four values of the residual in row m, as they lie in memory.
__device__ __forceinline__ Raw4 read_residual(const Epilogue& args, int64_t m,
                                              const Columns& columns) {
  return load_raw4(args.residual, args.residual_dtype, m * args.N + columns.n, columns.count,
                   columns.whole);
}

// Four sums of a row, times its scale if it has one, through the rest of the epilogue, in float32.
__device__ __forceinline__ void finish(const Epilogue& args, const Columns& columns,
                                       const Raw4& residual, float (&y)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    y[i] = product(y[i], columns.w_scale[i]);
    if (args.bias) y[i] = sum(y[i], columns.bias[i]);
  }
  if (args.act != Act::kNone) activate_all(y, args.act, args.y_dtype == Float::kFloat32);
  if (args.residual) {
    float added[4];
    to_float32(residual, args.residual_dtype, added);
#pragma unroll
    for (int i = 0; i < 4; ++i) y[i] = sum(y[i], added[i]);
  }
}

// The same of row m.
__device__ __forceinline__ void finish(const Epilogue& args, int64_t m, const Columns& columns,
                                       float (&y)[4]) {
  const Raw4 residual = args.residual ? read_residual(args, m, columns) : Raw4{};
  finish(args, columns, residual, y);
}

// The same, to y.
__device__ __forceinline__ void write_row(const Epilogue& args, int64_t m, const Columns& columns,
                                          float (&y)[4]) {
  finish(args, m, columns, y);
  store4(args.y, args.y_dtype, m * args.N + columns.n, columns.count, columns.whole, y);
}

}  // namespace green_kernels
