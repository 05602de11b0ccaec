// Placeholder written by the lead until the CUDA helper writes the real one.
#include <pybind11/pybind11.h>
namespace green_kernels {
void bind_schedule(pybind11::module_& m) { m.def_submodule("schedule"); }
}  // namespace green_kernels
