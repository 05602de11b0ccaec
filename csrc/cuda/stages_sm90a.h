// What the kernels for sm_90a have in common: how deep a stage of their ring is, and who multiplies
// it. No CUDA and no torch.
#pragma once

#include "../types.h"

namespace green_kernels {

constexpr int kStageK = 128;  // bytes, the widest swizzle of TMA and wgmma
constexpr int kWgmmaM = 64, kWgmmaK = 32;
constexpr int kConsumers = 2;  // warpgroups

// Of a ring's mbarriers, two for each stage (ring.cuh).
constexpr int kMbarrierBytes = 8;
HOST_DEVICE constexpr int ring_bytes(int stages) { return 2 * stages * kMbarrierBytes; }

}  // namespace green_kernels
