// green_kernels._C.plans: which CUDA kernel computes a product, for Python and the tests. It needs
// no CUDA, so it is there in every build.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "cuda/int8_matmul_plan.h"

namespace green_kernels {

void bind_plans(pybind11::module_& m) {
  using namespace pybind11::literals;
  pybind11::module_ plans = m.def_submodule("plans", "Which CUDA kernel computes a product.");

  pybind11::class_<Gpu>(plans, "Gpu", "A GPU, as plans are made for it.")
      .def(pybind11::init([](int arch, int sm_count, int shared_limit, bool has_sm90a) {
             return Gpu{arch, sm_count, shared_limit, has_sm90a, arch >= 90};
           }),
           "arch"_a, "sm_count"_a, "shared_limit"_a, "has_sm90a"_a)
      .def_readonly("arch", &Gpu::arch)
      .def_readonly("sm_count", &Gpu::sm_count)
      .def_readonly("shared_limit", &Gpu::shared_limit)
      .def_readonly("has_sm90a", &Gpu::has_sm90a)
      .def_readonly("overlaps", &Gpu::overlaps);

  pybind11::enum_<Kernel>(plans, "Kernel", "Of int8_matmul.")
      .value("mma", Kernel::kMma)
      .value("wgmma", Kernel::kWgmma)
      .value("decode", Kernel::kDecode);

  pybind11::class_<Plan>(plans, "Plan", "A kernel, an index of its tiles, and parts of K.")
      .def(pybind11::init<Kernel, int, int>(), "kernel"_a, "tile"_a, "splits"_a)
      .def_readonly("kernel", &Plan::kernel)
      .def_readonly("tile", &Plan::tile)
      .def_readonly("splits", &Plan::splits)
      .def_property_readonly("quantizes", [](const Plan& plan) { return quantizes(plan); })
      .def("workspace_bytes",
           [](const Plan& plan, int64_t M, int64_t N) { return workspace_bytes(plan, M, N); });

  pybind11::class_<WgmmaTile>(plans, "WgmmaTile", "What a block computes for many rows.")
      .def_readonly("m", &WgmmaTile::m)
      .def_readonly("n", &WgmmaTile::n)
      .def_readonly("stages", &WgmmaTile::stages)
      .def_readonly("cluster", &WgmmaTile::cluster);
  plans.attr("WGMMA_TILES") =
      pybind11::cast(std::vector<WgmmaTile>(kWgmmaTiles, kWgmmaTiles + kWgmmaTileCount));

  pybind11::class_<DecodeTile>(plans, "DecodeTile", "What a block computes for few rows.")
      .def_readonly("tokens", &DecodeTile::tokens)
      .def_readonly("stages", &DecodeTile::stages)
      .def_readonly("quantizes", &DecodeTile::quantizes);
  plans.attr("DECODE_TILES") =
      pybind11::cast(std::vector<DecodeTile>(kDecodeTiles, kDecodeTiles + kDecodeTileCount));
  plans.attr("DECODE_SPLITS") =
      pybind11::cast(std::vector<int>(std::begin(kDecodeSplits), std::end(kDecodeSplits)));

  plans.def("choose", &choose_plan, "M"_a, "N"_a, "K"_a, "gpu"_a, "from_float"_a,
            "The plan of least predicted time; from_float of int8_linear.");
}

}  // namespace green_kernels
