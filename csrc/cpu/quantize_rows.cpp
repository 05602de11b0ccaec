// quantize_rows, CPU.
#include <tuple>

#include "../common.h"
#include "rows.h"

namespace green_kernels {
namespace {

std::tuple<Tensor, Tensor> quantize_rows(const Tensor& x_in) {
  check_quantize_rows(x_in);
  const Tensor x = dense(x_in);
  const Float dtype = to_float(x, "x");
  const int64_t K = x.size(-1), M = rows(x);
  Tensor x_q = torch::stable::empty(sizes_with_last(x, K), ScalarType::Char);
  Tensor scale = torch::stable::empty(sizes_without_last(x), ScalarType::Float);
  const auto* from = static_cast<const char*>(x.const_data_ptr());
  auto* to = reinterpret_cast<uint8_t*>(x_q.mutable_data_ptr<int8_t>());
  float* scales = scale.mutable_data_ptr<float>();
  torch::stable::parallel_for(0, M, ceil_div(1 << 14, K + 1), [&](int64_t first, int64_t last) {
    for (int64_t m = first; m < last; ++m)
      scales[m] = quantize_row(from + m * K * bytes(dtype), dtype, K, 0, to + m * K);
  });
  return {x_q, scale};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(green_kernels, CPU, m) {
  m.impl("quantize_rows", TORCH_BOX(&quantize_rows));
}

}  // namespace green_kernels
