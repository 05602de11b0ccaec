// int8_matmul, CUDA: the torch side.
#include "int8_matmul.h"

#include "../common.h"
#include "operands.h"

namespace green_kernels {
namespace {

Tensor int8_matmul(const Tensor& x_q_in, const Tensor& x_scale_in, const Tensor& w_q_in,
                   const Tensor& w_scale_in, const OptTensor& bias_in, const OptTensor& residual_in,
                   Act act, const OptScalarType& out_dtype, const OptTensor& w_packed) {
  check_on_cuda(x_q_in, "x_q");
  check_int8_matmul(x_q_in, x_scale_in, w_q_in, w_scale_in, bias_in, residual_in);
  const DeviceGuard guard(x_q_in.get_device_index());
  const int64_t M = rows(x_q_in), N = w_q_in.size(0), K = w_q_in.size(1);
  const ScalarType dtype = out_dtype.value_or(ScalarType::Float);
  to_float(dtype, "out_dtype");
  Tensor y = torch::stable::new_empty(x_q_in, sizes_with_last(x_q_in, N), dtype);

  const Tensor x_q = with_aligned_rows(x_q_in), w_q = with_aligned_rows(w_q_in, w_packed);
  const Tensor x_scale = dense(x_scale_in), w_scale = dense(w_scale_in);
  const OptTensor bias = dense(bias_in), residual = dense(residual_in);
  Int8Matmul matmul = int8_matmul_arguments(w_q, w_scale, bias, residual, act, y, M, N, K);
  matmul.x_q = x_q.const_data_ptr<int8_t>();
  matmul.x_scale = x_scale.const_data_ptr<float>();
  OptTensor workspace;
  const Launch launch = planned_launch(matmul, false, y, workspace);
  const char* error = int8_matmul_cuda(matmul, launch);
  CHECK(error == nullptr, "int8_matmul: ", error);
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(green_kernels, CUDA, m) {
  m.impl("int8_matmul", TORCH_BOX(&int8_matmul));
}

}  // namespace green_kernels
