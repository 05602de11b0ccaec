// Numbers are those of the CUDA C++ Programming Guide, "Compute Capabilities"; errors are those
// that CUDA returns, as far as its documentation and reports of them say.
#include <algorithm>

#include "cudart.h"

namespace emulator {
namespace {

using Sizes = std::array<uint32_t, 3>;

constexpr uint64_t kPortableCluster = 8, kLargestCluster = 16;

uint64_t volume(const Sizes& sizes) { return uint64_t(sizes[0]) * sizes[1] * sizes[2]; }

// A directive's sizes, of which the last may be left out.
Sizes sizes_of(const std::vector<int>& directive) {
  Sizes sizes{1, 1, 1};
  std::copy_n(directive.begin(), std::min(directive.size(), sizes.size()), sizes.begin());
  return sizes;
}

// `first` is the attribute that limits x; those of y and z follow it.
bool is_within(const Sizes& sizes, const Device& device, cudaDeviceAttr first) {
  for (int i = 0; i < 3; ++i)
    if (sizes[i] == 0 || sizes[i] > uint32_t(device.at(cudaDeviceAttr(first + i)))) return false;
  return true;
}

int static_shared(const Program& program) { return int(program.static_shared_end - kSharedBase); }

cudaError_t check_cluster(const Device& device, const KernelLimits& limits, const Launch& launch) {
  const std::vector<int>& required = launch.program->required_cluster;
  if (!required.empty() && sizes_of(required) != launch.cluster) return cudaErrorInvalidClusterSize;
  const uint64_t blocks = volume(launch.cluster);
  if (blocks == 1) return cudaSuccess;
  if (!device.at(cudaDevAttrClusterLaunch)) return cudaErrorNotSupported;
  const uint64_t most = limits.allows_large_clusters ? kLargestCluster : kPortableCluster;
  if (blocks == 0 || blocks > most) return cudaErrorInvalidClusterSize;
  for (int i = 0; i < 3; ++i)
    if (launch.grid[i] % launch.cluster[i] != 0) return cudaErrorInvalidClusterSize;
  return cudaSuccess;
}

}  // namespace

Device make_device(int major, int minor, int sm_count, int shared_optin, int shared_per_sm) {
  return {
      {cudaDevAttrComputeCapabilityMajor, major},
      {cudaDevAttrComputeCapabilityMinor, minor},
      {cudaDevAttrMultiProcessorCount, sm_count},
      {cudaDevAttrMaxSharedMemoryPerBlock, 48 * 1024},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, shared_optin},
      {cudaDevAttrMaxSharedMemoryPerMultiprocessor, shared_per_sm},
      {cudaDevAttrReservedSharedMemoryPerBlock, kSharedBase},
      {cudaDevAttrMaxThreadsPerBlock, 1024},
      {cudaDevAttrWarpSize, kLanes},
      {cudaDevAttrMemoryClockRate, 0},  // which memory it has, it does not say
      {cudaDevAttrGlobalMemoryBusWidth, 0},
      {cudaDevAttrMaxBlockDimX, 1024},
      {cudaDevAttrMaxBlockDimY, 1024},
      {cudaDevAttrMaxBlockDimZ, 64},
      {cudaDevAttrMaxGridDimX, 0x7fffffff},
      {cudaDevAttrMaxGridDimY, 65535},
      {cudaDevAttrMaxGridDimZ, 65535},
      {cudaDevAttrClusterLaunch, major >= 9},
  };
}

cudaError_t set_limit(const Device& device, const Program& program, KernelLimits& limits,
                      cudaFuncAttribute attribute, int value) {
  switch (attribute) {
    case cudaFuncAttributeMaxDynamicSharedMemorySize: {
      const int most = device.at(cudaDevAttrMaxSharedMemoryPerBlockOptin) - static_shared(program);
      if (value < 0 || value > most) return cudaErrorInvalidValue;
      limits.dynamic_shared = value;
      return cudaSuccess;
    }
    case cudaFuncAttributeNonPortableClusterSizeAllowed:
      limits.allows_large_clusters = value != 0;
      return cudaSuccess;
    case cudaFuncAttributePreferredSharedMemoryCarveout:  // a hint
      return cudaSuccess;
    default:
      return cudaErrorNotSupported;
  }
}

cudaError_t check_launch(const Device& device, const KernelLimits& limits, const Launch& launch) {
  const Program& program = *launch.program;
  const uint64_t threads = volume(launch.block);
  if (!is_within(launch.grid, device, cudaDevAttrMaxGridDimX) ||
      !is_within(launch.block, device, cudaDevAttrMaxBlockDimX) ||
      threads > uint64_t(device.at(cudaDevAttrMaxThreadsPerBlock)))
    return cudaErrorInvalidConfiguration;
  if (!program.max_threads.empty() && threads > volume(sizes_of(program.max_threads)))
    return cudaErrorInvalidValue;
  if (!program.required_threads.empty() && sizes_of(program.required_threads) != launch.block)
    return cudaErrorInvalidValue;
  int most_shared = limits.dynamic_shared;
  if (most_shared < 0)
    most_shared = device.at(cudaDevAttrMaxSharedMemoryPerBlock) - static_shared(program);
  if (launch.dynamic_shared > uint32_t(std::max(most_shared, 0))) return cudaErrorInvalidValue;
  return check_cluster(device, limits, launch);
}

}  // namespace emulator
