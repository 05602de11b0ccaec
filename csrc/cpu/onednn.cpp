// The exact product of int8 matrices by oneDNN, through torch's dispatcher:
// onednn::qlinear_pointwise with all scales one, whose float32 output is then the int32 sum.
#include "onednn.h"

#include <cstring>

#include "rows.h"

namespace green_kernels {
namespace {

using torch::stable::detail::from;
using torch::stable::detail::to;

Tensor filled(std::vector<int64_t> sizes, ScalarType dtype, int value) {
  Tensor x = torch::stable::empty(sizes, dtype);
  std::memset(x.mutable_data_ptr(), value, x.numel() * x.element_size());
  return x;
}

// Ones (float32) and zeros (int32): per tensor, not per channel, so that they are made once.
const Tensor& one() {
  static const Tensor one = [] {
    Tensor x = torch::stable::empty({1}, ScalarType::Float);
    *x.mutable_data_ptr<float>() = 1;
    return x;
  }();
  return one;
}

const Tensor& zero() {
  static const Tensor zero = filled({1}, ScalarType::Int, 0);
  return zero;
}

// The product of the largest values there are, which is where 16 bits are too few.
bool product_is_exact(int64_t M) {
  constexpr int64_t K = 64, N = 32;
  const Tensor x = filled({M, K}, ScalarType::Byte, 255);  // 127 for each
  const Tensor w_packed = onednn_pack(filled({N, K}, ScalarType::Char, kInt8Max));
  const Tensor y = onednn_product(x, w_packed);
  const float* sums = y.const_data_ptr<float>();
  for (int64_t i = 0; i < M * N; ++i)
    if (sums[i] != float(K * kInt8Max * kInt8Max)) return false;
  return true;
}

}  // namespace

bool onednn_is_exact() {
  static const bool exact = product_is_exact(1) && product_is_exact(32);
  return exact;
}

Tensor onednn_pack(const Tensor& w_q) {
  StableIValue stack[] = {from(w_q), from(std::optional<std::vector<int64_t>>())};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("onednn::qlinear_prepack", "", stack, TORCH_ABI_VERSION));
  return to<Tensor>(stack[0]);
}

Tensor onednn_product(const Tensor& x, const Tensor& w_packed) {
  StableIValue stack[] = {
      from(x),
      from(1.0),                     // x_scale
      from(int64_t(kUnsignedZero)),  // x_zero_point
      from(w_packed),
      from(one()),   // w_scale
      from(zero()),  // w_zero_point
      from(OptTensor()),
      from(1.0),         // output_scale
      from(int64_t(0)),  // output_zero_point
      from(OptScalarType(ScalarType::Float)),
      from(std::string("none")),  // post_op_name
      from(std::vector<double>()),
      from(std::string()),  // post_op_algorithm
  };
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("onednn::qlinear_pointwise", "", stack, TORCH_ABI_VERSION));
  return to<Tensor>(stack[0]);
}

}  // namespace green_kernels
