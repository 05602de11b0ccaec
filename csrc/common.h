// What the kernels' torch side shares: how arguments arrive, what is asked of them, and the words
// for what is wrong.  The checks of green_kernels/ops say the same; these also guard direct calls
// of torch.ops.green_kernels.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "types.h"

// Raise RuntimeError in Python, with these words alone (STD_TORCH_CHECK puts file and line first).
#define CHECK(condition, ...)                                                     \
  do {                                                                            \
    if (!(condition)) throw std::runtime_error(green_kernels::text(__VA_ARGS__)); \
  } while (false)

namespace green_kernels {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptTensor = std::optional<Tensor>;
using OptScalarType = std::optional<ScalarType>;

template <typename... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

// The words for what an argument is: `torch.int8`, `(2, 3)`.
std::string name(ScalarType dtype);
std::string shape(const Tensor& x);

// The Float of a dtype; an error that names the argument where it is none of the three.
Float to_float(ScalarType dtype, const char* argument);
inline Float to_float(const Tensor& x, const char* argument) {
  return to_float(x.scalar_type(), argument);
}

// An error unless the arguments are what the op takes.
void check_quantize_rows(const Tensor& x);
void check_int8_matmul(const Tensor& x_q, const Tensor& x_scale, const Tensor& w_q,
                       const Tensor& w_scale, const OptTensor& bias, const OptTensor& residual);
void check_int8_linear(const Tensor& x, const Tensor& w_q, const Tensor& w_scale,
                       const OptTensor& bias, const OptTensor& residual);
void check_int8_weight_linear(const Tensor& x, const Tensor& w_q, const Tensor& w_scale,
                              const OptTensor& bias, const OptTensor& residual,
                              const OptTensor& w_packed);

// An error unless x, of that name, is where a kernel runs.  An opaque w_packed, or a CUDA one,
// brings a call to its kernel whatever x is.
inline void check_on_cpu(const Tensor& x, const char* argument) {
  CHECK(x.is_cpu(), argument, " must be on the device of w_packed");
}
inline void check_on_cuda(const Tensor& x, const char* argument) {
  CHECK(x.is_cuda(), argument, " must be on the device of w_packed");
}

// The sizes of x, its last one replaced by n, or left out.
std::vector<int64_t> sizes_with_last(const Tensor& x, int64_t n);
std::vector<int64_t> sizes_without_last(const Tensor& x);

// The number of rows in x, all its dimensions but the last taken together.
int64_t rows(const Tensor& x);

// x, or a dense copy of it; nothing where there is nothing.
inline Tensor dense(const Tensor& x) {
  return x.is_contiguous() ? x : torch::stable::contiguous(x);
}
inline OptTensor dense(const OptTensor& x) { return x ? OptTensor(dense(*x)) : std::nullopt; }

// The data of a float tensor of any of the three dtypes.
inline const void* data_or_null(const OptTensor& x) { return x ? x->const_data_ptr() : nullptr; }
inline Float float_or_any(const OptTensor& x, const char* argument) {
  return x ? to_float(*x, argument) : Float::kFloat32;
}

}  // namespace green_kernels

// An op's `act` is a string in its schema and an Act in its kernels.  (The conversion to
// std::string in the headers of torch before 2.14 leaks the string.)
template <>
struct torch::stable::detail::ToImpl<green_kernels::Act> {
  static green_kernels::Act call(StableIValue value, uint64_t extension_build_version,
                                 bool is_internal);
};
