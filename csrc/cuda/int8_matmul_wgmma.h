// Where everything of the kernel for many rows on sm_90a goes: arithmetic that the kernel, its
// launcher, the chooser of plans and the tests share. No CUDA and no torch.
#pragma once

#include <cstdint>

#include "../types.h"

namespace green_kernels {

// A block stays on its SM and computes tile after tile. One warpgroup copies, two multiply, each
// the half of a tile's rows of x, or, where those are 64, all of it in turn.
struct WgmmaTile {
  int m, n;     // of y
  int stages;   // of k = 128 in shared memory at once
  int cluster;  // blocks, one below the other, that share what they read of w
};

constexpr WgmmaTile kWgmmaTiles[] = {
    {256, 128, 4, 2}, {256, 128, 4, 1}, {128, 256, 4, 2}, {128, 256, 4, 1},
    {128, 192, 4, 1}, {128, 128, 6, 2}, {128, 128, 6, 1}, {128, 64, 6, 1},
};
constexpr int kWgmmaTileCount = sizeof(kWgmmaTiles) / sizeof(kWgmmaTiles[0]);

}  // namespace green_kernels
