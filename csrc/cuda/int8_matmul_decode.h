// Where everything of the kernel for few rows on sm_90a goes: arithmetic that the kernel, its
// launcher, the chooser of plans and the tests share. No CUDA and no torch.
#pragma once

#include <cstdint>

#include "../types.h"

namespace green_kernels {

// A block multiplies 128 rows of w, wgmma's A, with a few rows of x, its B, over its share of K.
struct DecodeTile {
  int tokens;      // rows of x
  int stages;      // of k = 128 in shared memory at once
  bool quantizes;  // x is in floating point still, and each block rounds what it needs of it
};

constexpr DecodeTile kDecodeTiles[] = {
    {8, 6, true}, {8, 6, false}, {16, 6, false}, {32, 5, false}, {64, 4, false}, {128, 6, false},
};
constexpr int kDecodeTileCount = sizeof(kDecodeTiles) / sizeof(kDecodeTiles[0]);
constexpr int kDecodeRows = 128;               // of w
constexpr int kDecodeSplits[] = {1, 2, 4, 8};  // a cluster's blocks share K
constexpr int kQuantizingRows = 4;             // of x: with more, rounding them once is cheaper

}  // namespace green_kernels
