// A GPU as launches see it: its limits, and what they refuse.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>

#include "machine.h"

namespace emulator {

struct Device {
  std::string name;
  int major, minor;  // compute capability
  int sm_count;
  int shared_optin, shared_per_sm;  // bytes of shared memory that a block and an SM may have
};

inline bool operator==(const Device& a, const Device& b) {
  return a.name == b.name && a.major == b.major && a.minor == b.minor && a.sm_count == b.sm_count &&
         a.shared_optin == b.shared_optin && a.shared_per_sm == b.shared_per_sm;
}

constexpr int kSharedWithoutOptin = 48 * 1024;

// False where the emulator does not know the attribute.
bool attribute(const Device& device, cudaDeviceAttr attribute, int* value);

// What was said of a kernel by cudaFuncSetAttribute; negative where nothing was.
struct KernelLimits {
  int dynamic_shared = -1;
  bool allows_large_clusters = false;
};

int static_shared(const Program& program);  // bytes
int max_dynamic_shared(const Program& program, const KernelLimits& limits);
int max_threads(const Program& program);

// What CUDA returns from a launch of launch.program, of which grid, block and cluster are set.
cudaError_t check_launch(const Device& device, const KernelLimits& limits, const Launch& launch,
                         size_t dynamic_shared);

// How many blocks an SM holds, as far as threads and shared memory limit them. PTX does not say how
// many registers a thread takes, which on a real GPU may leave room for fewer.
int blocks_per_sm(const Device& device, const Program& program, int threads, size_t dynamic_shared);

// The bytes of the `index`-th parameter.
size_t parameter_bytes(const Program& program, size_t index);

}  // namespace emulator
