// int8_weight_linear, CUDA: the torch side.
#include "int8_weight_linear.h"

#include "../common.h"
#include "operands.h"

namespace green_kernels {
namespace {

Tensor int8_weight_linear(const Tensor& x_in, const Tensor& w_q_in, const Tensor& w_scale_in,
                          const OptTensor& bias_in, Act act, const OptTensor& residual_in,
                          const OptScalarType& out_dtype, const OptTensor& w_packed) {
  check_on_cuda(x_in, "x");
  check_int8_weight_linear(x_in, w_q_in, w_scale_in, bias_in, residual_in, w_packed);
  const DeviceGuard guard(x_in.get_device_index());
  const Tensor x = dense(x_in);
  const int64_t M = rows(x), N = w_q_in.size(0), K = w_q_in.size(1);
  const ScalarType dtype = out_dtype.value_or(x.scalar_type());
  to_float(dtype, "out_dtype");
  Tensor y = torch::stable::new_empty(x, sizes_with_last(x, N), dtype);

  const Tensor w_q = with_aligned_rows(w_q_in, w_packed), w_scale = dense(w_scale_in);
  const OptTensor bias = dense(bias_in), residual = dense(residual_in);
  auto linear = product_arguments<Int8WeightLinear>(w_q, w_scale, bias, residual, act, y, M, N, K);
  linear.x = x.const_data_ptr();
  linear.x_dtype = to_float(x, "x");
  const char* error = int8_weight_linear_cuda(linear, current_stream(x));
  CHECK(error == nullptr, "int8_weight_linear: ", error);
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(green_kernels, CUDA, m) {
  m.impl("int8_weight_linear", TORCH_BOX(&int8_weight_linear));
}

}  // namespace green_kernels
