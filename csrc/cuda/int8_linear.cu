// int8_linear, CUDA: quantize_rows, then int8_matmul on the same stream. x_q goes through memory in
// between, once each way; one byte a value where x has two or four. Of very few rows, a plan may
// have each block of the product round what it needs: one launch.
#include "int8_linear.h"
#include "quantize_rows.h"

namespace green_kernels {

const char* int8_linear_cuda(Int8Matmul matmul, int8_t* x_q, float* x_scale, Launch launch) {
  if (matmul.M == 0 || matmul.N == 0) return nullptr;
  if (quantizes(launch.plan)) return int8_matmul_cuda(matmul, launch);
  const char* error = quantize_rows_cuda(matmul.x, matmul.x_dtype, x_q, matmul.x_q_stride, x_scale,
                                         matmul.M, matmul.K, launch.stream);
  if (error != nullptr) return error;
  matmul.x_q = x_q;
  matmul.x_scale = x_scale;
  launch.begins_early = launch.overlaps;
  return int8_matmul_cuda(matmul, launch);
}

}  // namespace green_kernels
