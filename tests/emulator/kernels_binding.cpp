// The Python module _kernels: the launchers of csrc/cuda/*.cu as their torch sides call them, but
// with addresses for tensors. A mutant of a kernel is another copy of this module, so it defines no
// Python class, of which there could be only one.
#include <pybind11/pybind11.h>

#include <string>

#include "../../csrc/cuda/int8_linear.h"
#include "../../csrc/cuda/int8_matmul.h"
#include "../../csrc/cuda/quantize_rows.h"

namespace py = pybind11;

namespace green_kernels {
namespace {

template <typename T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// Takes fields out of a call's keyword arguments, until none is left.
class Fields {
 public:
  explicit Fields(py::kwargs fields) : fields_(std::move(fields)) {}

  int64_t integer(const char* name) {
    if (!fields_.contains(name)) throw py::type_error(std::string(name) + " is missing");
    return fields_.attr("pop")(name).cast<int64_t>();
  }
  template <typename T>
  T* address(const char* name) {
    return pointer<T>(uintptr_t(integer(name)));
  }
  Float dtype(const char* name) { return Float(integer(name)); }
  void expect_end() const {
    if (!fields_.empty())
      throw py::type_error("unknown arguments: " + std::string(py::str(fields_)));
  }

 private:
  py::kwargs fields_;
};

// All but x_q and x_scale.
Int8Matmul take_matmul(Fields& fields) {
  Int8Matmul matmul{};
  matmul.x_q_stride = fields.integer("x_q_stride");
  matmul.w_q = fields.address<const int8_t>("w_q");
  matmul.w_q_stride = fields.integer("w_q_stride");
  matmul.w_scale = fields.address<const float>("w_scale");
  matmul.bias = fields.address<const void>("bias");
  matmul.bias_dtype = fields.dtype("bias_dtype");
  matmul.residual = fields.address<const void>("residual");
  matmul.residual_dtype = fields.dtype("residual_dtype");
  matmul.y = fields.address<void>("y");
  matmul.y_dtype = fields.dtype("y_dtype");
  matmul.act = Act(fields.integer("act"));
  matmul.M = fields.integer("M");
  matmul.N = fields.integer("N");
  matmul.K = fields.integer("K");
  return matmul;
}

const char* matmul_of_fields(uintptr_t stream, py::kwargs kwargs) {
  Fields fields(std::move(kwargs));
  Int8Matmul matmul = take_matmul(fields);
  matmul.x_q = fields.address<const int8_t>("x_q");
  matmul.x_scale = fields.address<const float>("x_scale");
  fields.expect_end();
  return int8_matmul_cuda(matmul, pointer<void>(stream));
}

const char* linear_of_fields(uintptr_t stream, py::kwargs kwargs) {
  Fields fields(std::move(kwargs));
  const Int8Matmul matmul = take_matmul(fields);
  const void* const x = fields.address<const void>("x");
  const Float x_dtype = fields.dtype("x_dtype");
  int8_t* const x_q = fields.address<int8_t>("x_q");
  float* const x_scale = fields.address<float>("x_scale");
  fields.expect_end();
  return int8_linear_cuda(x, x_dtype, x_q, x_scale, matmul, pointer<void>(stream));
}

const char* quantize_of_fields(uintptr_t stream, py::kwargs kwargs) {
  Fields fields(std::move(kwargs));
  const void* const x = fields.address<const void>("x");
  const Float dtype = fields.dtype("dtype");
  int8_t* const x_q = fields.address<int8_t>("x_q");
  const int64_t x_q_stride = fields.integer("x_q_stride");
  float* const scale = fields.address<float>("scale");
  const int64_t M = fields.integer("M"), K = fields.integer("K");
  fields.expect_end();
  return quantize_rows_cuda(x, dtype, x_q, x_q_stride, scale, M, K, pointer<void>(stream));
}

}  // namespace
}  // namespace green_kernels

PYBIND11_MODULE(_kernels, m) {
  using py::literals::operator""_a;
  m.doc() = "Launchers, queued on a stream. They return None, or CUDA's words for what went wrong.";
  m.def("quantize_rows_cuda", &green_kernels::quantize_of_fields, "stream"_a = 0);
  m.def("int8_matmul_cuda", &green_kernels::matmul_of_fields, "stream"_a = 0);
  m.def("int8_linear_cuda", &green_kernels::linear_of_fields, "stream"_a = 0);
}
