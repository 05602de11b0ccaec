// Numbers are those of the CUDA C++ Programming Guide, "Compute Capabilities"; errors are those
// that CUDA returns, as far as its documentation and reports of them say.
#include "device.h"

#include <algorithm>
#include <cstdint>

namespace emulator {
namespace {

using Sizes = std::array<uint32_t, 3>;

constexpr int kMaxThreads = 1024;
constexpr Sizes kMaxBlock{1024, 1024, 64}, kMaxGrid{0x7fffffff, 65535, 65535};
constexpr uint64_t kPortableCluster = 8, kLargestCluster = 16;

uint64_t volume(const Sizes& sizes) { return uint64_t(sizes[0]) * sizes[1] * sizes[2]; }

bool is_within(const Sizes& sizes, const Sizes& limits) {
  for (int i = 0; i < 3; ++i)
    if (sizes[i] == 0 || sizes[i] > limits[i]) return false;
  return true;
}

bool is_consumer(const Device& device) {
  return (device.major == 8 && device.minor != 0) || device.major == 12;
}
int threads_per_sm(const Device& device) { return is_consumer(device) ? 1536 : 2048; }
int most_blocks_per_sm(const Device& device) {
  if (!is_consumer(device)) return 32;
  return device.major == 8 && device.minor < 9 ? 16 : 24;
}

bool names(const std::vector<int>& directive, const Sizes& sizes) {
  for (size_t i = 0; i < 3; ++i)
    if (sizes[i] != (i < directive.size() ? uint32_t(directive[i]) : 1)) return false;
  return true;
}

cudaError_t check_cluster(const Device& device, const KernelLimits& limits, const Launch& launch) {
  const std::vector<int>& required = launch.program->required_cluster;
  if (!required.empty() && !names(required, launch.cluster)) return cudaErrorInvalidClusterSize;
  const uint64_t blocks = volume(launch.cluster);
  if (blocks == 1) return cudaSuccess;
  if (device.major < 9) return cudaErrorNotSupported;
  const uint64_t most = limits.allows_large_clusters ? kLargestCluster : kPortableCluster;
  if (blocks == 0 || blocks > most) return cudaErrorInvalidClusterSize;
  for (int i = 0; i < 3; ++i)
    if (launch.grid[i] % launch.cluster[i] != 0) return cudaErrorInvalidClusterSize;
  return cudaSuccess;
}

}  // namespace

bool attribute(const Device& device, cudaDeviceAttr attribute, int* value) {
  const std::map<cudaDeviceAttr, int> values = {
      {cudaDevAttrComputeCapabilityMajor, device.major},
      {cudaDevAttrComputeCapabilityMinor, device.minor},
      {cudaDevAttrMultiProcessorCount, device.sm_count},
      {cudaDevAttrMaxSharedMemoryPerBlock, kSharedWithoutOptin},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, device.shared_optin},
      {cudaDevAttrMaxSharedMemoryPerMultiprocessor, device.shared_per_sm},
      {cudaDevAttrReservedSharedMemoryPerBlock, kSharedBase},
      {cudaDevAttrMaxThreadsPerMultiProcessor, threads_per_sm(device)},
      {cudaDevAttrMaxBlocksPerMultiprocessor, most_blocks_per_sm(device)},
      {cudaDevAttrMaxThreadsPerBlock, kMaxThreads},
      {cudaDevAttrWarpSize, kLanes},
      {cudaDevAttrMaxBlockDimX, kMaxBlock[0]},
      {cudaDevAttrMaxBlockDimY, kMaxBlock[1]},
      {cudaDevAttrMaxBlockDimZ, kMaxBlock[2]},
      {cudaDevAttrMaxGridDimX, kMaxGrid[0]},
      {cudaDevAttrMaxGridDimY, kMaxGrid[1]},
      {cudaDevAttrMaxGridDimZ, kMaxGrid[2]},
      {cudaDevAttrClusterLaunch, device.major >= 9},
  };
  const auto found = values.find(attribute);
  if (found != values.end()) *value = found->second;
  return found != values.end();
}

int static_shared(const Program& program) { return int(program.static_shared_end - kSharedBase); }

int max_dynamic_shared(const Program& program, const KernelLimits& limits) {
  const int otherwise = std::max(kSharedWithoutOptin - static_shared(program), 0);
  return limits.dynamic_shared < 0 ? otherwise : limits.dynamic_shared;
}

int max_threads(const Program& program) {
  int threads = kMaxThreads;
  for (const auto& directive : {program.max_threads, program.required_threads}) {
    int product = 1;
    for (int size : directive) product *= size;
    if (!directive.empty()) threads = std::min(threads, product);
  }
  return threads;
}

cudaError_t check_launch(const Device& device, const KernelLimits& limits, const Launch& launch,
                         size_t dynamic_shared) {
  const Program& program = *launch.program;
  if (!is_within(launch.grid, kMaxGrid) || !is_within(launch.block, kMaxBlock) ||
      volume(launch.block) > kMaxThreads)
    return cudaErrorInvalidConfiguration;
  if (volume(launch.block) > uint64_t(max_threads(program))) return cudaErrorInvalidValue;
  if (!program.required_threads.empty() && !names(program.required_threads, launch.block))
    return cudaErrorInvalidValue;
  if (dynamic_shared > size_t(max_dynamic_shared(program, limits))) return cudaErrorInvalidValue;
  return check_cluster(device, limits, launch);
}

int blocks_per_sm(const Device& device, const Program& program, int threads,
                  size_t dynamic_shared) {
  const int warps = (threads + kLanes - 1) / kLanes;
  const size_t shared = program.static_shared_end + dynamic_shared;
  const int by_shared = int(device.shared_per_sm / shared);
  return std::min(
      {threads_per_sm(device) / (warps * kLanes), by_shared, most_blocks_per_sm(device)});
}

size_t parameter_bytes(const Program& program, size_t index) {
  const Variable& parameter = program.parameters[index];
  return size_t(bytes_of(parameter.type)) * parameter.vector * parameter.elements;
}

}  // namespace emulator
