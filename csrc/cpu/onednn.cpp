// The exact product of int8 matrices by oneDNN, through torch's dispatcher:
// onednn::qlinear_pointwise with all scales one, whose float32 output is then the int32 sum.
#include "onednn.h"

#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

#include "rows.h"

namespace green_kernels {
namespace {

using torch::stable::detail::from;
using torch::stable::detail::to;

// A scale of one (float32) and a zero point of zero (int32), for the whole matrix; made once.
const Tensor& one() {
  static const Tensor one = [] {
    Tensor x = torch::stable::empty({1}, ScalarType::Float);
    *x.mutable_data_ptr<float>() = 1;
    return x;
  }();
  return one;
}

const Tensor& zero() {
  static const Tensor zero = [] {
    Tensor x = torch::stable::empty({1}, ScalarType::Int);
    *x.mutable_data_ptr<int32_t>() = 0;
    return x;
  }();
  return zero;
}

// Whether oneDNN multiplies by AMX. The environment may hold it back; then its signed product,
// tried on a CPU without AMX, took a thousand times as long as it should.
bool uses_amx() {
#if defined(__x86_64__) && defined(__GNUC__)
  for (const char* variable : {"ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"}) {
    const char* isa = std::getenv(variable);
    if (isa == nullptr || *isa == 0) continue;
    const std::string_view most = isa;
    if (most != "DEFAULT" && most != "ALL" && most.find("AMX") == most.npos) return false;
  }
  return __builtin_cpu_supports("amx-int8");
#else
  return false;
#endif
}

// Whether products of M rows of K values are exact, for values so large and of one sign that sums
// pass what 16 bits hold, what float32 holds, and, unsigned, what 32 bits hold.
bool product_is_exact(Left left, int64_t M, int64_t K) {
  constexpr int64_t N = 16;
  std::vector<int8_t> x_q(M * K);
  Tensor w_q = torch::stable::empty({N, K}, ScalarType::Char);
  auto* w = w_q.mutable_data_ptr<int8_t>();
  for (int64_t i = 0; i < M * K; ++i) x_q[i] = int8_t(kInt8Max - i % 5);
  for (int64_t i = 0; i < N * K; ++i) w[i] = int8_t(kInt8Max - i % 3);

  Tensor x = onednn_rows(left, M, K);
  offset_row(x_q.data(), M * K, zero_point(left), static_cast<uint8_t*>(x.mutable_data_ptr()));
  const Tensor y = onednn_product(left, x, onednn_pack(w_q));
  std::vector<float> expected(N);
  for (int64_t m = 0; m < M; ++m) {
    dot_rows(x_q.data() + m * K, w, N, K, expected.data());
    if (std::memcmp(expected.data(), y.const_data_ptr<float>() + m * N, N * sizeof(float)))
      return false;
  }
  return true;
}

}  // namespace

Left onednn_left() {
  static const Left left = [] {
    const Left candidate = uses_amx() ? Left::kSigned : Left::kUnsigned;
    for (const int64_t M : {1, 20})
      for (const int64_t K : {int64_t(64), int64_t(4099), kMaxK})
        if (!product_is_exact(candidate, M, K)) return Left::kNone;
    return candidate;
  }();
  return left;
}

Tensor onednn_rows(Left left, int64_t M, int64_t K) {
  return torch::stable::empty({M, K},
                              left == Left::kUnsigned ? ScalarType::Byte : ScalarType::Char);
}

Tensor onednn_pack(const Tensor& w_q) {
  StableIValue stack[] = {from(w_q), from(std::optional<std::vector<int64_t>>())};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("onednn::qlinear_prepack", "", stack, TORCH_ABI_VERSION));
  return to<Tensor>(stack[0]);
}

Tensor onednn_product(Left left, const Tensor& x, const Tensor& w_packed) {
  StableIValue stack[] = {
      from(x),
      from(1.0),                        // x_scale
      from(int64_t(zero_point(left))),  // x_zero_point
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
