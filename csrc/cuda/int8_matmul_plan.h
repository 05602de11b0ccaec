// Which kernel computes a product, and how: plans, and what may be planned. No CUDA and no torch,
// so that a machine without a GPU can test it.
#pragma once

#include <cstdint>

#include "int8_matmul_decode.h"
#include "int8_matmul_schedule.h"
#include "int8_matmul_wgmma.h"

namespace green_kernels {

enum class Kernel : int {
  kMma,     // for every GPU
  kWgmma,   // for sm_90a, many rows
  kDecode,  // for sm_90a, few rows
};

constexpr int kSplits[] = {1, 2, 4, 8};

struct Plan {
  Kernel kernel;
  int tile;    // an index in the kernel's tiles
  int splits;  // into how many parts K goes, whose sums are added up exactly
};

constexpr bool operator==(const Plan& a, const Plan& b) {
  return a.kernel == b.kernel && a.tile == b.tile && a.splits == b.splits;
}

constexpr int kTileCounts[] = {kTileCount, kWgmmaTileCount, kDecodeTileCount};  // by kernel

struct Gpu {
  int arch;  // as 80 or 90
  int sm_count;
  int shared_limit;  // bytes of shared memory that a block may have
  bool has_sm90a;    // the kernels for sm_90a run on it, and are in this build
  bool overlaps;     // a kernel may begin while the one before it ends
  int memory;        // bytes in a nanosecond; 0 where it does not say
};

// Whether the plan's kernel rounds the rows of x by itself.
constexpr bool quantizes(const Plan& plan) {
  return plan.kernel == Kernel::kDecode && kDecodeTiles[plan.tile].quantizes;
}

// Bytes in a nanosecond of memory that is clocked at so many kHz, twice a cycle.
constexpr int memory_rate(int64_t kilohertz, int64_t bits) {
  return int(kilohertz * bits / 8 * 2 / 1000000);
}

// Whether there is a kernel for this plan, if its tile is one.
constexpr bool is_compiled(const Plan& plan) {
  return plan.splits == 1 || plan.kernel == Kernel::kDecode ||
         (plan.kernel == Kernel::kMma && may_split(kTiles[plan.tile]));
}

// Whether a plan, of a tile that there is, computes this product on this GPU.
constexpr bool is_possible(const Plan& plan, int64_t M, int64_t N, int64_t K, const Gpu& gpu,
                           bool from_float) {
  if (!is_compiled(plan)) return false;
  switch (plan.kernel) {
    case Kernel::kWgmma:
      return gpu.has_sm90a && is_in_range(kWgmmaTiles[plan.tile], M, N);
    case Kernel::kDecode: {
      const DecodeTile& tile = kDecodeTiles[plan.tile];
      return gpu.has_sm90a && decode_fits(tile, K, plan.splits) &&
             (!tile.quantizes || (from_float && M <= kQuantizingRows));
    }
    default:
      return shared_bytes(kTiles[plan.tile]) <= gpu.shared_limit;
  }
}

// Calls f with every possible plan. No part of K that is split may be left without a step.
template <typename F>
constexpr void for_plans(int64_t M, int64_t N, int64_t K, const Gpu& gpu, bool from_float, F&& f) {
  for (const Kernel kernel : {Kernel::kMma, Kernel::kWgmma, Kernel::kDecode})
    for (int tile = 0; tile < kTileCounts[int(kernel)]; ++tile)
      for (const int splits : kSplits) {
        const int k = kernel == Kernel::kMma ? kTiles[tile].k : kStageK;
        const Plan plan{kernel, tile, splits};
        if ((splits == 1 || ceil_div(K, k) >= splits) &&
            is_possible(plan, M, N, K, gpu, from_float))
          f(plan);
      }
}

// The parts of y that the plan's blocks, or clusters, compute.
constexpr int64_t parts_of_y(const Plan& plan, int64_t M, int64_t N) {
  switch (plan.kernel) {
    case Kernel::kWgmma: {
      const WgmmaTile& tile = kWgmmaTiles[plan.tile];
      return ceil_div(M, tile.m * tile.cluster) * ceil_div(N, tile.n);
    }
    case Kernel::kDecode:
      return ceil_div(M, kDecodeTiles[plan.tile].tokens) * ceil_div(N, kDecodeRows);
    default:
      return ceil_div(M, kTiles[plan.tile].m) * ceil_div(N, kTiles[plan.tile].n);
  }
}

// Where kMma splits K, its blocks hand their sums over in memory, and count who has: a counter,
// zero at first, for each part of y.
constexpr int64_t counters(const Plan& plan, int64_t M, int64_t N) {
  return plan.kernel == Kernel::kMma && plan.splits > 1 ? parts_of_y(plan, M, N) : 0;
}

// Of that memory: the counters, then the sums of each block.
constexpr int64_t counter_bytes(const Plan& plan, int64_t M, int64_t N) {
  return round_up(counters(plan, M, N) * int64_t(sizeof(uint32_t)), 16);
}
constexpr int64_t workspace_bytes(const Plan& plan, int64_t M, int64_t N) {
  const int64_t parts = counters(plan, M, N);
  if (parts == 0) return 0;
  const Tile& tile = kTiles[plan.tile];
  return counter_bytes(plan, M, N) +
         parts * plan.splits * tile.m * tile.n * int64_t(sizeof(int32_t));
}

}  // namespace green_kernels
