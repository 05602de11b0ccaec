// The kernels of int8_weight_linear, a file each: their launchers.
#pragma once

#include "int8_matmul_kernels.h"
#include "int8_weight_linear.h"

namespace green_kernels {

// M and N are at least 1, the blocks no more than a grid may have.
cudaError_t launch_skinny(const Int8WeightLinear& args, const Launch& launch);
cudaError_t launch_weight_tiles(const Int8WeightLinear& args, int tile, const Launch& launch);

// Whether rows of x are aligned for 16 bytes at once.
inline bool x_is_wide(const Int8WeightLinear& args) {
  return reinterpret_cast<uintptr_t>(args.x) % kChunk == 0 &&
         args.K * bytes(args.x_dtype) % kChunk == 0;
}

}  // namespace green_kernels
