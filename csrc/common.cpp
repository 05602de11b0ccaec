// What the kernels' torch side shares.
#include "common.h"

#include <cctype>

namespace green_kernels {
namespace {

constexpr const char* kActs[] = {"none", "relu", "gelu", "gelu_tanh", "silu"};

bool is_floating(ScalarType dtype) { return name(dtype).rfind("torch.float", 0) == 0; }

std::string tuple(const std::vector<int64_t>& sizes) {
  std::string text = "(";
  for (size_t i = 0; i < sizes.size(); ++i) text += (i ? ", " : "") + std::to_string(sizes[i]);
  return text + (sizes.size() == 1 ? ",)" : ")");
}

void check_dense(const Tensor& x, const char* argument) {
  CHECK(x.layout() == torch::headeronly::Layout::Strided, argument, " must be a dense tensor");
}

void check_dtype(const Tensor& x, ScalarType dtype, const char* argument) {
  check_dense(x, argument);
  CHECK(x.scalar_type() == dtype, argument, " must be ", name(dtype).substr(6), ", got ",
        name(x.scalar_type()));
}

void check_shape(const Tensor& x, const std::vector<int64_t>& sizes, const char* argument) {
  const auto got = x.sizes();
  CHECK(std::vector<int64_t>(got.begin(), got.end()) == sizes, argument, " must have shape ",
        tuple(sizes), ", got ", shape(x));
}

void check_device(const Tensor& x, const Tensor& of, const char* argument, const char* whose) {
  CHECK(x.is_cuda() == of.is_cuda() && x.is_cpu() == of.is_cpu() &&
            x.get_device_index() == of.get_device_index(),
        argument, " must be on the device of ", whose);
}

// What the products have in common; `x` is the left matrix and `whose` its name.
void check_matrices(const Tensor& x, const Tensor& w_q, const Tensor& w_scale,
                    const OptTensor& bias, const OptTensor& residual, const char* whose) {
  check_dtype(w_q, ScalarType::Char, "w_q");
  CHECK(w_q.dim() == 2, "w_q must have shape (N, K), got ", shape(w_q));
  const int64_t N = w_q.size(0), K = w_q.size(1);
  CHECK(x.dim() >= 1 && x.size(-1) == K, whose, " must have shape (..., K = ", K, "), got ",
        shape(x));
  CHECK(K <= kMaxK, "K must be at most ", kMaxK,
        ", the most int8 products that an int32 holds, got ", K);
  check_dtype(w_scale, ScalarType::Float, "w_scale");
  check_shape(w_scale, {N}, "w_scale");
  check_device(w_q, x, "w_q", whose);
  check_device(w_scale, x, "w_scale", whose);
  if (bias) {
    check_dense(*bias, "bias");
    to_float(*bias, "bias");
    check_shape(*bias, {N}, "bias");
    check_device(*bias, x, "bias", whose);
  }
  if (residual) {
    check_dense(*residual, "residual");
    to_float(*residual, "residual");
    check_shape(*residual, sizes_with_last(x, N), "residual");
    check_device(*residual, x, "residual", whose);
  }
}

}  // namespace

std::string name(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return "torch.float32";
    case ScalarType::Half:
      return "torch.float16";
    case ScalarType::BFloat16:
      return "torch.bfloat16";
    case ScalarType::Double:
      return "torch.float64";
    case ScalarType::Byte:
      return "torch.uint8";
    case ScalarType::Char:
      return "torch.int8";
    case ScalarType::Short:
      return "torch.int16";
    case ScalarType::Int:
      return "torch.int32";
    case ScalarType::Long:
      return "torch.int64";
    case ScalarType::Bool:
      return "torch.bool";
    case ScalarType::ComplexHalf:
      return "torch.complex32";
    case ScalarType::ComplexFloat:
      return "torch.complex64";
    case ScalarType::ComplexDouble:
      return "torch.complex128";
    default: {
      std::string rare = torch::headeronly::toString(dtype);
      for (char& c : rare) c = char(std::tolower(static_cast<unsigned char>(c)));
      return "torch." + rare;
    }
  }
}

std::string shape(const Tensor& x) {
  const auto sizes = x.sizes();
  return tuple(std::vector<int64_t>(sizes.begin(), sizes.end()));
}

Float to_float(ScalarType dtype, const char* argument) {
  switch (dtype) {
    case ScalarType::Float:
      return Float::kFloat32;
    case ScalarType::Half:
      return Float::kFloat16;
    case ScalarType::BFloat16:
      return Float::kBFloat16;
    default:  // of other floats the words differ; kernels read and write none of them
      CHECK(is_floating(dtype), argument, " must be floating point, got ", name(dtype));
      CHECK(false, argument, " must be float32, float16 or bfloat16, got ", name(dtype));
  }
}

void check_quantize_rows(const Tensor& x) {
  check_dense(x, "x");
  to_float(x, "x");
  CHECK(x.dim() >= 1, "x must have shape (..., K), got ()");
}

void check_int8_matmul(const Tensor& x_q, const Tensor& x_scale, const Tensor& w_q,
                       const Tensor& w_scale, const OptTensor& bias, const OptTensor& residual) {
  check_dtype(x_q, ScalarType::Char, "x_q");
  check_matrices(x_q, w_q, w_scale, bias, residual, "x_q");
  check_dtype(x_scale, ScalarType::Float, "x_scale");
  check_shape(x_scale, sizes_without_last(x_q), "x_scale");
  check_device(x_scale, x_q, "x_scale", "x_q");
}

void check_int8_linear(const Tensor& x, const Tensor& w_q, const Tensor& w_scale,
                       const OptTensor& bias, const OptTensor& residual) {
  check_quantize_rows(x);
  check_matrices(x, w_q, w_scale, bias, residual, "x");
}

void check_int8_weight_linear(const Tensor& x, const Tensor& w_q, const Tensor& w_scale,
                              const OptTensor& bias, const OptTensor& residual,
                              const OptTensor& w_packed) {
  check_int8_linear(x, w_q, w_scale, bias, residual);
  if (!w_packed) return;
  check_device(x, *w_packed, "x", "w_packed");
  check_dtype(*w_packed, ScalarType::Char, "w_packed");
  check_shape(*w_packed, {w_q.size(0), round_up(w_q.size(1), kChunk)}, "w_packed");
}

std::vector<int64_t> sizes_without_last(const Tensor& x) {
  const auto sizes = x.sizes();
  return {sizes.begin(), sizes.end() - 1};
}

std::vector<int64_t> sizes_with_last(const Tensor& x, int64_t n) {
  std::vector<int64_t> sizes = sizes_without_last(x);
  sizes.push_back(n);
  return sizes;
}

int64_t rows(const Tensor& x) {
  int64_t rows = 1;
  for (const int64_t size : sizes_without_last(x)) rows *= size;
  return rows;
}

}  // namespace green_kernels

green_kernels::Act torch::stable::detail::ToImpl<green_kernels::Act>::call(
    StableIValue value, [[maybe_unused]] uint64_t extension_build_version,
    [[maybe_unused]] bool is_internal) {
  using namespace green_kernels;
  const StringHandle handle = torch::stable::detail::to<StringHandle>(value);
  const char* text = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &text));
  const std::string act = text;
  STABLE_TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
  for (int i = 0; i < int(std::size(kActs)); ++i)
    if (act == kActs[i]) return Act(i);
  CHECK(false, "act must be one of none, relu, gelu, gelu_tanh, silu, got '", act, "'");
}
