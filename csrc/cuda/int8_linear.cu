// int8_linear, CUDA: quantize_rows, then int8_matmul on the same stream. x_q goes through memory in
// between, once each way; one byte a value where x has two or four. Of very few rows, a plan may
// have each block of the product round what it needs: one launch.
#include "int8_linear.h"
#include "quantize_rows.h"

namespace green_kernels {

const char* int8_linear_cuda(Int8Matmul matmul, int8_t* x_q, float* x_scale, Launch launch) {
  if (matmul.M == 0 || matmul.N == 0) return nullptr;
  if (quantizes(launch.plan)) return int8_matmul_cuda(matmul, launch);
  QuantizeRows rows{};
  rows.x = matmul.x, rows.dtype = matmul.x_dtype;
  rows.x_q = x_q, rows.x_q_stride = matmul.x_q_stride;
  rows.scale = x_scale;
  rows.M = matmul.M, rows.K = matmul.K;
  rows.zeroed = static_cast<uint32_t*>(launch.workspace);
  rows.zeros = counters(launch.plan, matmul.M, matmul.N);
  const char* error = quantize_rows_cuda(rows, launch.stream);
  if (error != nullptr) return error;
  matmul.x_q = x_q;
  matmul.x_scale = x_scale;
  launch.follows_quantizer = true;
  return int8_matmul_cuda(matmul, launch);
}

}  // namespace green_kernels
