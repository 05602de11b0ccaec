// The kernels of int8_matmul, a file each: their launchers, and what these share.
#pragma once

#include <cuda_runtime.h>

#include "int8_matmul.h"

namespace green_kernels {

// M and N are at least 1. The first for every GPU, the others for sm_90a alone.
cudaError_t launch_mma(const Int8Matmul& args, const Launch& launch);
cudaError_t launch_wgmma(const Int8Matmul& args, const Launch& launch);
cudaError_t launch_decode(const Int8Matmul& args, const Launch& launch);

// What launchers return: null, or CUDA's words for what went wrong.
inline const char* words(cudaError_t error) {
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

// Lets a kernel have `bytes` of dynamic shared memory on the current device.
cudaError_t allow_shared_memory(const void* kernel, int bytes);

// Starts `blocks` blocks of `threads` threads, in clusters of `cluster`, with `shared` bytes of
// dynamic shared memory. Where the quantizer comes before it, the kernel may begin while that ends:
// it calls ptx::wait_for_kernel_before() before it reads what that writes.
template <typename... Parameters>
cudaError_t start(void (*kernel)(Parameters...), int64_t blocks, int threads, int shared,
                  int cluster, const Launch& launch, const Parameters&... arguments) {
  const cudaError_t error = allow_shared_memory(reinterpret_cast<const void*>(kernel), shared);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(unsigned(blocks));
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = static_cast<cudaStream_t>(launch.stream);
  config.attrs = attributes;
  if (cluster > 1) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {unsigned(cluster), 1, 1};
  }
  if (launch.gpu.overlaps && launch.follows_quantizer) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
  }
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace green_kernels
