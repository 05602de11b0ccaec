// What the kernels for sm_90a have in common: how deep a stage of their ring is, and who multiplies
// it. No CUDA and no torch.
#pragma once

namespace green_kernels {

constexpr int kStageK = 128;  // bytes, the widest swizzle of TMA and wgmma
constexpr int kWgmmaM = 64, kWgmmaK = 32;
constexpr int kConsumers = 2;  // warpgroups

}  // namespace green_kernels
