// int8_matmul, CUDA: the kernel that the plan names, on the current device.
#include <map>
#include <mutex>
#include <utility>

#include "int8_matmul.h"
#include "int8_matmul_kernels.h"

namespace green_kernels {
namespace {

// Whether a GPU runs what was compiled for one of its generation, not PTX of an older one.
constexpr bool is_built_for(int arch) {
  for (const int built : {__CUDA_ARCH_LIST__})  // as 800, 900: 90a is the only kind of 90 there is
    if (built / 100 == arch / 10 && built / 10 <= arch) return true;
  return false;
}

cudaError_t describe(int device, Gpu& gpu) {
  int major = 0, minor = 0, kilohertz = 0, bits = 0;
  const std::pair<cudaDeviceAttr, int*> attributes[] = {
      {cudaDevAttrComputeCapabilityMajor, &major},
      {cudaDevAttrComputeCapabilityMinor, &minor},
      {cudaDevAttrMultiProcessorCount, &gpu.sm_count},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, &gpu.shared_limit},
      {cudaDevAttrMemoryClockRate, &kilohertz},
      {cudaDevAttrGlobalMemoryBusWidth, &bits}};
  for (const auto& [attribute, value] : attributes) {
    const cudaError_t error = cudaDeviceGetAttribute(value, attribute, device);
    if (error != cudaSuccess) return error;
  }
  gpu.arch = major * 10 + minor;
  gpu.has_sm90a = gpu.arch == 90 && is_built_for(90);
  gpu.overlaps = gpu.arch >= 90 && is_built_for(gpu.arch);
  gpu.memory = memory_rate(kilohertz, bits);
  return cudaSuccess;
}

std::mutex mutex;  // of what is remembered here of devices

}  // namespace

cudaError_t allow_shared_memory(const void* kernel, int bytes) {
  static std::map<std::pair<int, const void*>, int> allowed;
  int device = 0;
  const cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  const std::lock_guard<std::mutex> lock(mutex);
  int& most = allowed[{device, kernel}];
  if (bytes <= most) return cudaSuccess;
  const cudaError_t set =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (set == cudaSuccess) most = bytes;
  return set;
}

const char* current_gpu(Gpu& gpu) {
  static std::map<int, Gpu> known;
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return words(error);
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = known.find(device);
  if (found == known.end()) {
    error = describe(device, gpu);
    if (error == cudaSuccess) known[device] = gpu;
  } else {
    gpu = found->second;
  }
  return words(error);
}

const char* int8_matmul_cuda(const Int8Matmul& args, const Launch& launch) {
  if (args.M == 0 || args.N == 0) return nullptr;
  if (parts_of_y(launch.plan, args.M, args.N) * launch.plan.splits > INT32_MAX)
    return "M * N is too large for one launch";
  if constexpr (is_built_for(90)) {  // or else their files are not compiled
    if (launch.plan.kernel == Kernel::kWgmma) return words(launch_wgmma(args, launch));
    if (launch.plan.kernel == Kernel::kDecode) return words(launch_decode(args, launch));
  }
  if (launch.plan.kernel != Kernel::kMma) return "the plan's kernel is not in this build";
  return words(launch_mma(args, launch));
}

}  // namespace green_kernels
