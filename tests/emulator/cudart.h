// The stand-in CUDA runtime's state, and what tests ask of it beside CUDA's own functions.
#pragma once

#include <cuda_runtime_api.h>

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "machine.h"

namespace emulator {

// A GPU as launches see it: its limits, and what they refuse. (device.cpp)
using Device = std::map<cudaDeviceAttr, int>;

// `shared_optin` and `shared_per_sm` are bytes of shared memory that a block and an SM may have.
Device make_device(int major, int minor, int sm_count, int shared_optin, int shared_per_sm);

// What was said of a kernel by cudaFuncSetAttribute; negative where nothing was.
struct KernelLimits {
  int dynamic_shared = -1;
  bool allows_large_clusters = false;
};

// What CUDA returns from cudaFuncSetAttribute, and from a launch.
cudaError_t set_limit(const Device& device, const Program& program, KernelLimits& limits,
                      cudaFuncAttribute attribute, int value);
cudaError_t check_launch(const Device& device, const KernelLimits& limits, const Launch& launch);

// The PTX that nvcc puts into an object file, and the programs built from it. (fat_binary.cpp)
class FatBinary {
 public:
  // `wrapper` is what nvcc's host code hands to __cudaRegisterFatBinary; it stays where it is.
  explicit FatBinary(const void* wrapper) : wrapper_(wrapper) {}

  // The kernel as the newest PTX that runs on a compute capability (90 of 9.0) has it; null where
  // there is no such PTX. Parsing and building wait until a kernel is asked for.
  std::shared_ptr<const Program> program(const std::string& kernel, int capability);

 private:
  const void* wrapper_;
  std::map<const char*, Module> modules_;  // by the text that they were parsed from
  std::map<std::pair<const char*, std::string>, std::shared_ptr<const Program>> programs_;
};

struct Kernel {
  FatBinary* binary;
  std::string name;                    // of the .entry
  std::map<int, KernelLimits> limits;  // by device
};

struct Runtime {
  // Makes it the current device. Devices that differ have numbers of their own, so that whatever a
  // launcher remembers of one is not taken for another's.
  void set_device(const Device& wanted);
  int attribute(cudaDeviceAttr which) const { return devices[device].at(which); }

  // Runs a kernel at once, on no stream, with these very options, and counts its traffic. (If it
  // fails, what was counted is lost.)
  // before, accesses: as a Machine has them.
  void run(const Launch& launch, const Options& options, const GlobalAccesses* before = nullptr,
           GlobalAccesses* accesses = nullptr);

  // Forgets what is queued, failed and counted. What was said of devices and kernels stays, since
  // launchers remember having said it.
  void reset();

  std::vector<Device> devices;
  int device = 0;                                  // the current one
  std::deque<FatBinary> binaries;                  // whose addresses are their handles
  std::map<const void*, Kernel> kernels;           // by the stub that stands for it on the host
  std::vector<cudaLaunchConfig_t> configurations;  // of <<<..>>>, on their way to the stub

  std::set<cudaStream_t> streams{nullptr};
  uintptr_t last_stream = 0xff;                          // small numbers are CUDA's own streams
  std::deque<std::pair<cudaStream_t, Launch>> launches;  // of all streams, in the order of calls

  cudaError_t last = cudaSuccess;    // what cudaGetLastError returns
  cudaError_t broken = cudaSuccess;  // what every call returns, once a kernel has failed
  std::string failure;               // what went wrong last, in words

  Options options;  // of launches on streams; each gets a seed of its own, derived from that here
  uint64_t started = 0;
  decltype(Machine::traffic) traffic;  // since the last reset
};

Runtime& runtime();

// The bytes of a program's `index`-th parameter.
size_t parameter_bytes(const Program& program, size_t index);

}  // namespace emulator
