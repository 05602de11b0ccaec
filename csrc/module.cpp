// The Python module green_kernels._C.  Loading it runs the registrations at the foot of every op's
// files; what it exports itself is facts of the build and host functions that Python calls.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "cpu/onednn.h"

namespace green_kernels {

void bind_schedule(pybind11::module_& m);  // schedule_binding.cpp
void bind_plans(pybind11::module_& m);     // plan_binding.cpp

namespace {

std::vector<std::string> cpu_features() {
  std::vector<std::string> seen;
#if defined(__x86_64__) && defined(__GNUC__)
#define GREEN_KERNELS_FEATURE(feature) \
  if (__builtin_cpu_supports(feature)) seen.push_back(feature);
  GREEN_KERNELS_FEATURE("avx2")
  GREEN_KERNELS_FEATURE("f16c")
  GREEN_KERNELS_FEATURE("avx512f")
  GREEN_KERNELS_FEATURE("avx512bw")
  GREEN_KERNELS_FEATURE("avx512vnni")
  GREEN_KERNELS_FEATURE("avx512bf16")
  GREEN_KERNELS_FEATURE("avxvnni")
  GREEN_KERNELS_FEATURE("amx-int8")
#undef GREEN_KERNELS_FEATURE
#endif
  return seen;
}

std::string compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#else
  return "unknown";
#endif
}

const char* onednn_left_name() {
  switch (onednn_left()) {
    case Left::kSigned:
      return "signed";
    case Left::kUnsigned:
      return "unsigned";
    default:
      return "not exact";
  }
}

pybind11::dict build_info() {
  using pybind11::literals::operator""_a;
  return pybind11::dict("version"_a = GREEN_KERNELS_VERSION, "compiler"_a = compiler(),
                        "cuda"_a = GREEN_KERNELS_CUDA_VERSION,
                        "cuda_architectures"_a = GREEN_KERNELS_CUDA_ARCHITECTURES,
                        "debug"_a = bool(GREEN_KERNELS_DEBUG), "cpu_features"_a = cpu_features(),
                        "onednn_int8"_a = onednn_left_name());
}

}  // namespace
}  // namespace green_kernels

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of green_kernels, registered with torch when this is imported.";
  m.def("build_info", &green_kernels::build_info, "Facts of this build and of the CPU it runs on.");
  m.def(
      "onednn_is_exact", [] { return green_kernels::onednn_left() != green_kernels::Left::kNone; },
      "Whether oneDNN multiplies int8 exactly and fast here, and so is worth packing for.");
  green_kernels::bind_schedule(m);
  green_kernels::bind_plans(m);
}
