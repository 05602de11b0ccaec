// int8_linear, CUDA: quantize_rows, then int8_matmul on the same stream. x_q goes through memory in
// between, once each way; one byte a value where x has two or four.
#include "int8_linear.h"
#include "quantize_rows.h"

namespace green_kernels {

const char* int8_linear_cuda(const void* x, Float x_dtype, int8_t* x_q, float* x_scale,
                             Int8Matmul matmul, void* stream) {
  if (matmul.M == 0 || matmul.N == 0) return nullptr;
  const char* error =
      quantize_rows_cuda(x, x_dtype, x_q, matmul.x_q_stride, x_scale, matmul.M, matmul.K, stream);
  if (error != nullptr) return error;
  matmul.x_q = x_q;
  matmul.x_scale = x_scale;
  return int8_matmul_cuda(matmul, stream);
}

}  // namespace green_kernels
