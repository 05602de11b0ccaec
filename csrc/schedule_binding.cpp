// green_kernels._C.schedule: the index arithmetic of the CUDA kernels, for the tests. It needs no
// CUDA, so it is there in every build.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <utility>
#include <vector>

#include "cuda/int8_matmul_schedule.h"
#include "cuda/int8_weight_linear_schedule.h"

namespace green_kernels {
namespace {

using Pair = std::pair<int, int>;

Pair pair(Place place) { return {place.row, place.column}; }

void bind_int8_weight_linear(pybind11::module_& schedule) {
  schedule.attr("WEIGHT_TILES") =
      pybind11::cast(std::vector<Tile>(kWeightTiles, kWeightTiles + kWeightTileCount));
  schedule.def("weight_shared_bytes", [](const Tile& t) { return weight_shared_bytes(t); });
  schedule.def("weight_tiles_of_y",
               [](const Tile& t, int64_t M, int64_t N) { return weight_tiles_of_y(t, M, N); });
  schedule.def("choose_weight_tile", [](int64_t M, int64_t N, int sm_count) {
    return choose_weight_tile(M, N, sm_count);
  });
  schedule.def("mma_values", [](int mma, int pair) { return mma_values(mma, pair); });
  schedule.def("held_chunk", [](int lane, int chunks) { return pair(held_chunk(lane, chunks)); });
  schedule.def("partial_word", [](int row, int column) { return partial_word(row, column); });
  schedule.def("skinny_written", [](int thread) { return pair(skinny_written(thread)); });
}

}  // namespace

void bind_schedule(pybind11::module_& m) {
  pybind11::module_ schedule =
      m.def_submodule("schedule", "Where everything of the CUDA kernels goes. Places are pairs.");

  pybind11::class_<Tile>(schedule, "Tile", "What a block computes, and how.")
      .def_readonly("m", &Tile::m)
      .def_readonly("n", &Tile::n)
      .def_readonly("k", &Tile::k)
      .def_readonly("warps_m", &Tile::warps_m)
      .def_readonly("warps_n", &Tile::warps_n)
      .def_readonly("stages", &Tile::stages)
      .def_property_readonly("threads", [](const Tile& t) { return threads(t); })
      .def_property_readonly("warp_m", [](const Tile& t) { return warp_m(t); })
      .def_property_readonly("warp_n", [](const Tile& t) { return warp_n(t); })
      .def_property_readonly("chunks_per_row", [](const Tile& t) { return chunks_per_row(t); })
      .def_property_readonly("stage_bytes", [](const Tile& t) { return stage_bytes(t); })
      .def_property_readonly("shared_bytes", [](const Tile& t) { return shared_bytes(t); })
      .def_property_readonly("staging_words", [](const Tile& t) { return staging_words(t); })
      .def_property_readonly("may_split", [](const Tile& t) { return may_split(t); })
      .def_property_readonly("write_passes", [](const Tile& t) { return write_passes(t); })
      .def("warp_corner", [](const Tile& t, int warp) { return pair(warp_corner(t, warp)); })
      .def("staged_word",
           [](const Tile& t, int row, int column) { return staged_word(t, row, column); })
      .def("written",
           [](const Tile& t, int lane, int pass) { return pair(written(t, lane, pass)); });
  schedule.attr("TILES") = pybind11::cast(std::vector<Tile>(kTiles, kTiles + kTileCount));

  schedule.def("swizzle",
               [](int row, int chunk, int chunks) { return swizzle(row, chunk, chunks); });
  schedule.def("copied_chunk",
               [](int index, int chunks) { return pair(copied_chunk(index, chunks)); });
  schedule.def("x_fragment_chunk", [](int lane) { return pair(x_fragment_chunk(lane)); });
  schedule.def("w_fragment_chunk", [](int lane) { return pair(w_fragment_chunk(lane)); });
  schedule.def("mma_a", [](int lane, int reg, int byte) { return pair(mma_a(lane, reg, byte)); });
  schedule.def("mma_b", [](int lane, int reg, int byte) { return pair(mma_b(lane, reg, byte)); });
  schedule.def("mma_c", [](int lane, int reg) { return pair(mma_c(lane, reg)); });
  schedule.def("tile_place", [](int index, int tiles_m, int tiles_n) {
    return pair(tile_place(index, tiles_m, tiles_n));
  });
  bind_int8_weight_linear(schedule);
}

}  // namespace green_kernels
