// green_kernels._C.plans: which CUDA kernel computes a product, for Python and the tests. It needs
// no CUDA, so it is there in every build.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <iterator>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "cuda/int8_matmul.h"
#include "cuda/int8_matmul_cost.h"
#include "plans.h"

namespace green_kernels {
namespace {

// A plan that there is a kernel for; std::invalid_argument for others, whose tile is in no table.
Plan make_plan(Kernel kernel, int tile, int splits) {
  if (const int count = kTileCounts[int(kernel)]; tile < 0 || tile >= count)
    throw std::invalid_argument("tile must be from 0 to " + std::to_string(count - 1) + ", got " +
                                std::to_string(tile));
  const Plan plan{kernel, tile, splits};
  const bool known = std::find(std::begin(kSplits), std::end(kSplits), splits) != std::end(kSplits);
  if (!known || !is_compiled(plan))
    throw std::invalid_argument("there is no kernel for splits = " + std::to_string(splits));
  return plan;
}

Gpu make_gpu(int arch, int sm_count, int shared_limit, bool has_sm90a, int memory) {
  if (sm_count < 1)
    throw std::invalid_argument("sm_count must be at least 1, got " + std::to_string(sm_count));
  return {arch, sm_count, shared_limit, has_sm90a, arch >= 90, memory};
}

// Where everything of the kernel for few rows goes. Places are pairs.
void bind_decode(pybind11::module_& plans) {
  const auto pair = [](Place place) { return std::pair(place.row, place.column); };
  plans.def("decode_steps", [](int64_t K) { return decode_steps(K); });
  plans.def("decode_share", [](int steps, int splits, int rank) {
    const Steps share = decode_share(steps, splits, rank);
    return std::pair(share.first, share.count);
  });
  plans.def("decode_place", [pair](int cluster, int tiles_of_x) {
    return pair(decode_place(cluster, tiles_of_x));
  });
  plans.def("decode_x_byte", [](int token, int k) { return decode_x_byte(token, k); });
  plans.def("decode_team_warps", [](int tokens) { return decode_team_warps(tokens); });
  plans.def("decode_sum",
            [pair](int thread, int index) { return pair(decode_sum(thread, index)); });
  plans.def("decode_sum_word", [](int token, int row) { return decode_sum_word(token, row); });
  plans.def("decode_added_token", [](int splits, int rank, int warp, int turn) {
    return decode_added_token(splits, rank, warp, turn);
  });
}

// Where everything of the kernel for many rows goes.
void bind_wgmma(pybind11::module_& plans) {
  const auto pair = [](Place place) { return std::pair(place.row, place.column); };
  plans.def("wgmma_pieces", [](const WgmmaTile& tile) { return pieces(tile); });
  plans.def("wgmma_piece_corner", [pair](const WgmmaTile& tile, int warp, int piece) {
    return pair(piece_corner(tile, warp, piece));
  });
  plans.def("wgmma_piece_element",
            [pair](int lane, int reg) { return pair(piece_element(lane, reg)); });
  plans.def("wgmma_piece_word", [](int row, int column) { return piece_word(row, column); });
  plans.def("wgmma_finished", [pair](int lane, int pass) { return pair(finished(lane, pass)); });
  plans.def("wgmma_packed_byte", [](int row, int column, int element_bytes) {
    return packed_byte({row, column}, element_bytes);
  });
  // First byte and size of each part of a block's shared memory.
  plans.def("wgmma_shared", [](const WgmmaTile& tile) {
    std::vector<std::pair<int, int>> parts;
    for (int stage = 0; stage < tile.stages; ++stage) {
      parts.emplace_back(x_offset(tile, stage), x_bytes(tile));
      parts.emplace_back(w_offset(tile, stage), stage_bytes(tile) - x_bytes(tile));
    }
    for (int warp = 0; warp < kConsumers * 4; ++warp)
      parts.emplace_back(piece_offset(tile, warp), kPieceBytes);
    parts.emplace_back(ring_offset(tile), ring_bytes(tile.stages));
    return std::pair(parts, shared_bytes(tile));
  });
  // The corners of the tiles that the blocks of a launch compute, block by block.
  plans.def("wgmma_corners", [pair](const WgmmaTile& tile, int64_t M, int64_t N, int sm_count) {
    const Place tiles = cluster_tiles(tile, M, N);
    const int clusters = cluster_count(tile, tiles, sm_count);
    std::vector<std::vector<std::pair<int, int>>> corners(clusters * tile.cluster);
    for (int block = 0; block < clusters * tile.cluster; ++block)
      for (int i = block / tile.cluster; i < tiles.row * tiles.column; i += clusters)
        corners[block].push_back(pair(tile_corner(tile, i, block % tile.cluster, tiles)));
    return corners;
  });
}

}  // namespace

void bind_plans(pybind11::module_& m) {
  using namespace pybind11::literals;
  pybind11::module_ plans = m.def_submodule("plans", "Which CUDA kernel computes a product.");

  pybind11::class_<Gpu>(plans, "Gpu",
                        "A GPU, as plans are made for it: arch as 90, its SMs, bytes of shared "
                        "memory that a block may have, and bytes in a nanosecond from memory.")
      .def(pybind11::init(&make_gpu), "arch"_a, "sm_count"_a, "shared_limit"_a, "has_sm90a"_a,
           "memory"_a = 0)
      .def_readonly("arch", &Gpu::arch)
      .def_readonly("sm_count", &Gpu::sm_count)
      .def_readonly("shared_limit", &Gpu::shared_limit)
      .def_readonly("has_sm90a", &Gpu::has_sm90a)
      .def_readonly("overlaps", &Gpu::overlaps)
      .def_readonly("memory", &Gpu::memory);

  pybind11::enum_<Kernel>(plans, "Kernel", "Of int8_matmul.")
      .value("mma", Kernel::kMma)
      .value("wgmma", Kernel::kWgmma)
      .value("decode", Kernel::kDecode);

  pybind11::class_<Plan>(plans, "Plan", "A kernel, an index of its tiles, and parts of K.")
      .def(pybind11::init(&make_plan), "kernel"_a, "tile"_a, "splits"_a)
      .def_readonly("kernel", &Plan::kernel)
      .def_readonly("tile", &Plan::tile)
      .def_readonly("splits", &Plan::splits)
      .def_property_readonly("name", &name)
      .def("__repr__", &name)
      .def("__eq__", [](const Plan& a, const Plan& b) { return a == b; })
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
      .def_readonly("quantizes", &DecodeTile::quantizes)
      .def("fits", &decode_fits, "K"_a, "splits"_a)
      .def("shared_bytes", &decode_shared_bytes, "K"_a, "splits"_a);
  plans.attr("DECODE_TILES") =
      pybind11::cast(std::vector<DecodeTile>(kDecodeTiles, kDecodeTiles + kDecodeTileCount));
  plans.attr("SPLITS") = pybind11::cast(std::vector<int>(std::begin(kSplits), std::end(kSplits)));

  std::vector<Plan> all;
  for (const Kernel kernel : {Kernel::kMma, Kernel::kWgmma, Kernel::kDecode})
    for (int tile = 0; tile < kTileCounts[int(kernel)]; ++tile)
      for (const int splits : kSplits)
        if (is_compiled({kernel, tile, splits})) all.push_back({kernel, tile, splits});
  plans.attr("ALL") = pybind11::cast(all);

  bind_decode(plans);
  bind_wgmma(plans);

  plans.attr("TILE_COUNTS") =
      pybind11::cast(std::vector<int>(std::begin(kTileCounts), std::end(kTileCounts)));
  plans.def("choose", &choose_plan, "M"_a, "N"_a, "K"_a, "gpu"_a, "from_float"_a,
            "The plan of least predicted time; from_float of int8_linear.");
  plans.def("planned", &planned, "M"_a, "N"_a, "K"_a, "gpu"_a, "from_float"_a,
            "The plan that was asked for, else one that was measured, else the chooser's.");
  plans.def(
      "possible",
      [](int64_t M, int64_t N, int64_t K, const Gpu& gpu, bool from_float) {
        std::vector<Plan> possible;
        for_plans(M, N, K, gpu, from_float, [&](const Plan& plan) { possible.push_back(plan); });
        return possible;
      },
      "M"_a, "N"_a, "K"_a, "gpu"_a, "from_float"_a, "Every plan that the chooser looks at.");
  plans.def("time", &plan_time, "M"_a, "N"_a, "K"_a, "gpu"_a, "plan"_a, "from_float"_a,
            "Predicted nanoseconds of a plan.");
  plans.def("float_time", &float_time, "M"_a, "N"_a, "K"_a, "gpu"_a, "bytes"_a,
            "Predicted nanoseconds of the float layer, of values of 2 or 4 bytes.");
  plans.def("ask_for", &ask_for_plan, "plan"_a,
            "A plan for every product; None for the chooser's.");
  plans.def("asked_for", &plan_asked_for, "That plan, or None.");
#if GREEN_KERNELS_HAS_CUDA
  plans.def(
      "current_gpu",
      [] {
        Gpu gpu{};
        if (const char* error = current_gpu(gpu)) throw std::runtime_error(error);
        return gpu;
      },
      "The current CUDA device.");
#endif
  plans.def(
      "set_measured",
      [](const std::vector<
          std::tuple<int, int, int, int64_t, int64_t, int64_t, int64_t, bool, Plan>>& rows) {
        std::vector<MeasuredPlan> measured;
        for (const auto& row : rows)
          measured.push_back(std::apply([](auto... of) { return MeasuredPlan{of...}; }, row));
        set_measured_plans(std::move(measured));
      },
      "rows"_a,
      "Plans that measured faster than the chooser's: arch, sm_count, memory, first and last M, N, "
      "K, from_float, plan.");
}

}  // namespace green_kernels
