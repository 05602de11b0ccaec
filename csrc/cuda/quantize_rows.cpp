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
  QuantizeRows args{};
  args.x = x.const_data_ptr();
  args.dtype = to_float(x, "x");
  args.x_q = x_q.mutable_data_ptr<int8_t>();
  args.x_q_stride = args.K = K;
  args.scale = scale.mutable_data_ptr<float>();
  args.M = rows(x);
  const char* error = quantize_rows_cuda(args, current_stream(x));
  CHECK(error == nullptr, "quantize_rows: ", error);
  return {x_q, scale};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(green_kernels, CUDA, m) {
  m.impl("quantize_rows", TORCH_BOX(&quantize_rows));
}

}  // namespace green_kernels
