// int8_linear, CPU: int8_matmul, whose left matrix is rounded to int8 as each block is needed.
#include "../common.h"
#include "int8_matmul.h"
#include "rows.h"

namespace green_kernels {
namespace {

Tensor int8_linear(const Tensor& x_in, const Tensor& w_q, const Tensor& w_scale,
                   const OptTensor& bias, Act act, const OptTensor& residual,
                   const OptScalarType& out_dtype, const OptTensor& w_packed) {
  check_on_cpu(x_in, "x");
  check_int8_linear(x_in, w_q, w_scale, bias, residual);
  const Tensor x = dense(x_in);
  const Float dtype = to_float(x, "x");
  const int64_t K = w_q.size(1);
  const auto* from = static_cast<const char*>(x.const_data_ptr());
  const FillRows fill = [=](int64_t first, int64_t last, int zero, uint8_t* x_q, float* scale) {
    for (int64_t m = first; m < last; ++m, x_q += K)
      *scale++ = quantize_row(from + m * K * bytes(dtype), dtype, K, zero, x_q);
  };
  return int8_product(rows(x), fill, w_q, w_scale, bias, act, residual,
                      sizes_with_last(x, w_q.size(0)), out_dtype.value_or(x.scalar_type()),
                      w_packed);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(green_kernels, CPU, m) { m.impl("int8_linear", TORCH_BOX(&int8_linear)); }

// An opaque w_packed makes the dispatcher look here.
STABLE_TORCH_LIBRARY_IMPL(green_kernels, MkldnnCPU, m) {
  m.impl("int8_linear", TORCH_BOX(&int8_linear));
}

}  // namespace green_kernels
