// The kernels of int8_matmul, a file each: their launchers, and what these share.
#pragma once

#include <cuda_runtime.h>

#include "int8_matmul.h"

namespace green_kernels {

// M and N are at least 1. The first for every GPU, the others for sm_90a alone.
cudaError_t launch_mma(const Int8Matmul& args, const Launch& launch);
cudaError_t launch_wgmma(const Int8Matmul& args, const Launch& launch);
cudaError_t launch_decode(const Int8Matmul& args, const Launch& launch);

// Lets a kernel have `bytes` of dynamic shared memory on the current device.
cudaError_t allow_shared_memory(const void* kernel, int bytes);

}  // namespace green_kernels
