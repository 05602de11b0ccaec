// The Python module _kernels: the launchers of csrc/cuda/*.cu as their torch sides call them, but
// with addresses for tensors. A mutant of a kernel is another copy of this module, so it defines no
// Python class, of which there could be only one.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <type_traits>

#include "../../csrc/cuda/int8_linear.h"
#include "../../csrc/cuda/int8_matmul.h"
#include "../../csrc/cuda/int8_weight_linear.h"
#include "../../csrc/cuda/quantize_rows.h"

namespace py = pybind11;

namespace green_kernels {
namespace {

// A keyword argument, as whatever it is needed for.
struct Field {
  template <typename T>
  operator T() const {
    if constexpr (std::is_pointer_v<T>)
      return reinterpret_cast<T>(value);
    else
      return T(value);
  }

  intptr_t value;
};

// KeyError names one that is missing.
struct Fields {
  Field operator()(const char* name) const { return {all[name].cast<intptr_t>()}; }
  Field stream() const { return {all.contains("stream") ? all["stream"].cast<intptr_t>() : 0}; }

  py::kwargs all;
};

// What the products' structs have in common, as a T; the rest of it is zero.
template <typename T>
T product_of(const Fields& field) {
  T product{};
  product.w_q = field("w_q"), product.w_q_stride = field("w_q_stride");
  product.w_scale = field("w_scale");
  product.bias = field("bias"), product.bias_dtype = field("bias_dtype");
  product.residual = field("residual"), product.residual_dtype = field("residual_dtype");
  product.y = field("y"), product.y_dtype = field("y_dtype");
  product.act = field("act");
  product.M = field("M"), product.N = field("N"), product.K = field("K");
  return product;
}

Int8Matmul matmul_of(const Fields& field) {
  Int8Matmul matmul = product_of<Int8Matmul>(field);
  matmul.x_q_stride = field("x_q_stride");
  return matmul;
}

Launch launch_of(const Fields& field) {
  Launch launch{};
  launch.plan = {Kernel(int(field("kernel"))), field("tile"), field("splits")};
  launch.workspace = field("workspace");
  if (const char* error = current_gpu(launch.gpu)) throw std::runtime_error(error);
  launch.stream = field.stream();
  return launch;
}

}  // namespace
}  // namespace green_kernels

PYBIND11_MODULE(_kernels, m) {
  using namespace green_kernels;
  m.doc() = "Launchers, queued on a stream. They return None, or CUDA's words for what went wrong.";
  m.def("quantize_rows_cuda", [](py::kwargs all) {
    const Fields field{all};
    QuantizeRows rows{};
    rows.x = field("x"), rows.dtype = field("dtype");
    rows.x_q = field("x_q"), rows.x_q_stride = field("x_q_stride"), rows.scale = field("scale");
    rows.M = field("M"), rows.K = field("K");
    return quantize_rows_cuda(rows, field.stream());
  });
  m.def("int8_matmul_cuda", [](py::kwargs all) {
    const Fields field{all};
    Int8Matmul matmul = matmul_of(field);
    matmul.x_q = field("x_q"), matmul.x_scale = field("x_scale");
    return int8_matmul_cuda(matmul, launch_of(field));
  });
  m.def("int8_linear_cuda", [](py::kwargs all) {
    const Fields field{all};
    Int8Matmul matmul = matmul_of(field);
    matmul.x = field("x"), matmul.x_dtype = field("x_dtype");
    return int8_linear_cuda(matmul, field("x_q"), field("x_scale"), launch_of(field));
  });
  m.def("int8_weight_linear_cuda", [](py::kwargs all) {
    const Fields field{all};
    Int8WeightLinear linear = product_of<Int8WeightLinear>(field);
    linear.x = field("x"), linear.x_dtype = field("x_dtype");
    return int8_weight_linear_cuda(linear, field.stream());
  });
}
