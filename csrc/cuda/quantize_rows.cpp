// quantize_rows, CUDA: the torch side.
#include "quantize_rows.h"

#include <tuple>

#include "../common.h"
#include "stream.h"

namespace green_kernels {
namespace {

std::tuple<Tensor, Tensor> quantize_rows(const Tensor& x_in) {
  check_quantize_rows(x_in);
  const Tensor x = dense(x_in);
  const int64_t K = x.size(-1);
  const DeviceGuard guard(x.get_device_index());
  Tensor x_q = torch::stable::new_empty(x, sizes_with_last(x, K), ScalarType::Char);
  Tensor scale = torch::stable::new_empty(x, sizes_without_last(x), ScalarType::Float);
  const char* error =
      quantize_rows_cuda(x.const_data_ptr(), to_float(x, "x"), x_q.mutable_data_ptr<int8_t>(), K,
                         scale.mutable_data_ptr<float>(), rows(x), K, current_stream(x));
  CHECK(error == nullptr, "quantize_rows: ", error);
  return {x_q, scale};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(green_kernels, CUDA, m) {
  m.impl("quantize_rows", TORCH_BOX(&quantize_rows));
}

}  // namespace green_kernels
