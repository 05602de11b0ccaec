// A CUDA runtime without a GPU: the functions that host code compiled by nvcc 13.0 calls, so that
// launchers run as they are. Signatures that no header of the toolkit declares for a C++ compiler
// are those of crt/host_runtime.h and crt/device_functions.h.
//
// A launch checks its arguments and copies them, as CUDA does, and is queued; it runs when somebody
// waits for its stream. What a kernel does wrong becomes cudaErrorLaunchFailure there, which stays
// until reset(), as it would for the rest of a process. One thread uses all this at a time: Python
// holds its lock.
#include "cudart.h"

#include <cuda.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "fat_binary.h"
#include "memory.h"
#include "tensor_map.h"

namespace emulator {
namespace {

struct Kernel {
  FatBinary* binary;
  std::string name;                    // of the .entry
  std::map<int, KernelLimits> limits;  // by device
};

struct Work {
  cudaStream_t stream;
  std::function<void()> run;
};

struct CallConfiguration {  // of <<<..>>>
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};

struct Runtime {
  std::vector<Device> devices;
  int device = 0;                                         // the current one
  std::map<void**, std::unique_ptr<FatBinary>> binaries;  // by handle
  std::map<const void*, Kernel> kernels;  // by the stub that stands for it on the host
  std::vector<CallConfiguration> configurations;

  std::set<cudaStream_t> streams;
  uintptr_t last_stream = 0xff;  // small numbers are CUDA's own streams
  std::deque<Work> queue;        // of all streams, in the order of the calls
  std::set<void*> allocations;

  cudaError_t last = cudaSuccess;    // what cudaGetLastError returns
  cudaError_t broken = cudaSuccess;  // what every call returns, once a kernel has failed
  std::string failure;

  Options options;
  uint64_t started = 0, launches = 0;
  decltype(Machine::traffic) traffic;
};

// Never destroyed: modules unregister their kernels when the process exits, in whatever order.
Runtime& runtime() {
  static Runtime& runtime = *new Runtime;
  return runtime;
}

// Runs the body of a function of CUDA and keeps the error that it returns.
template <typename Body>
cudaError_t call(Body body) {
  Runtime& r = runtime();
  if (r.broken != cudaSuccess) return r.broken;
  cudaError_t error = cudaErrorNoDevice;
  try {
    if (!r.devices.empty()) error = body(r);
  } catch (const std::exception& failure) {  // PTX that does not parse or build
    r.failure = failure.what();
    error = cudaErrorInvalidPtx;
  }
  if (error != cudaSuccess) r.last = error;
  return error;
}

const Device& current_device(const Runtime& r) { return r.devices[r.device]; }

bool is_device(const Runtime& r, int device) {
  return device >= 0 && size_t(device) < r.devices.size();
}

// The default stream has two handles.
cudaStream_t plain(cudaStream_t stream) { return stream == cudaStreamLegacy ? nullptr : stream; }

bool is_stream(const Runtime& r, cudaStream_t stream) {
  return !stream || stream == cudaStreamPerThread || r.streams.count(stream);
}

cudaError_t enqueue(Runtime& r, cudaStream_t stream, std::function<void()> work) {
  if (!is_stream(r, plain(stream))) return cudaErrorInvalidResourceHandle;
  r.queue.push_back({plain(stream), std::move(work)});
  return cudaSuccess;
}

// Takes out of the queue what must be done for a stream's work to be done. The default stream waits
// for all that was queued before, and whatever was queued after waits for it.
std::deque<Work> take_work(Runtime& r, cudaStream_t stream) {
  std::deque<Work> taken, left;
  bool waits_for_default = !stream, waits_for_all = false;
  for (; !r.queue.empty(); r.queue.pop_back()) {
    Work& work = r.queue.back();
    const bool is_taken =
        waits_for_all || work.stream == stream || (waits_for_default && !work.stream);
    if (is_taken) {
      waits_for_default = true;
      waits_for_all |= !work.stream;
    }
    (is_taken ? taken : left).push_front(std::move(work));
  }
  r.queue = std::move(left);
  return taken;
}

cudaError_t finish(Runtime& r, std::deque<Work> queue) {
  try {
    for (const Work& work : queue) work.run();
  } catch (const std::exception& failure) {
    r.failure = failure.what();
    r.queue.clear();
    return r.broken = cudaErrorLaunchFailure;
  }
  return cudaSuccess;
}

cudaError_t finish_all(Runtime& r) { return finish(r, std::exchange(r.queue, {})); }

cudaError_t finish_stream(Runtime& r, cudaStream_t stream) {
  if (!is_stream(r, plain(stream))) return cudaErrorInvalidResourceHandle;
  return finish(r, take_work(r, plain(stream)));
}

Kernel* find_kernel(Runtime& r, const void* function) {
  const auto found = r.kernels.find(function);
  return found == r.kernels.end() ? nullptr : &found->second;
}

// Calls `use` with a kernel, its program for the current device, and its limits there.
template <typename Use>
cudaError_t with_kernel(Runtime& r, const void* function, Use use) {
  Kernel* const kernel = find_kernel(r, function);
  if (!kernel) return cudaErrorInvalidDeviceFunction;
  const Device& device = current_device(r);
  const auto program = kernel->binary->program(kernel->name, device.major, device.minor);
  if (!program) return cudaErrorNoKernelImageForDevice;
  return use(program, kernel->limits[r.device]);
}

std::array<uint32_t, 3> sizes(dim3 from) { return {from.x, from.y, from.z}; }

std::vector<uint8_t> copy_arguments(const Program& program, void** arguments) {
  std::vector<uint8_t> bytes(program.parameter_bytes);
  for (size_t i = 0; i < program.parameters.size(); ++i)
    std::memcpy(bytes.data() + program.parameter_offsets[i], arguments[i],
                parameter_bytes(program, i));
  return bytes;
}

void run_next(Runtime& r, const Launch& launch) {
  Options options = r.options;
  const uint64_t index = r.started++;
  options.seed += index * 0x9e3779b97f4a7c15;  // so that launch 1 of a seed is not 0 of the next
  try {
    run(launch, options);
  } catch (const std::exception& failure) {
    fail("launch " + std::to_string(index) + " of seed " + std::to_string(r.options.seed) + ": " +
         failure.what());
  }
}

cudaError_t launch(Runtime& r, const void* function, const CallConfiguration& how, void** arguments,
                   const dim3* cluster = nullptr) {
  return with_kernel(r, function, [&](const auto& program, const KernelLimits& limits) {
    Launch launch;
    launch.program = program;
    launch.grid = sizes(how.grid);
    launch.block = sizes(how.block);
    const std::vector<int>& required = program->required_cluster;
    if (cluster) launch.cluster = sizes(*cluster);
    for (size_t i = 0; !cluster && i < required.size(); ++i) launch.cluster[i] = required[i];
    const cudaError_t error = check_launch(current_device(r), limits, launch, how.shared);
    if (error != cudaSuccess) return error;
    launch.dynamic_shared = uint32_t(how.shared);
    launch.parameters = copy_arguments(*program, arguments);
    return enqueue(r, how.stream, [&r, launch = std::move(launch)] { run_next(r, launch); });
  });
}

cudaError_t set_limit(const Device& device, const Program& program, KernelLimits& limits,
                      cudaFuncAttribute attribute, int value) {
  switch (attribute) {
    case cudaFuncAttributeMaxDynamicSharedMemorySize:
      if (value < 0 || value > device.shared_optin - static_shared(program))
        return cudaErrorInvalidValue;
      limits.dynamic_shared = value;
      return cudaSuccess;
    case cudaFuncAttributeNonPortableClusterSizeAllowed:
      limits.allows_large_clusters = value != 0;
      return cudaSuccess;
    case cudaFuncAttributePreferredSharedMemoryCarveout:  // a hint
      return cudaSuccess;
    default:
      return cudaErrorNotSupported;
  }
}

// Which sides of a copy are a device's memory, and so must be registered.
bool is_copy_allowed(const void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  return bytes == 0 || ((!to_device || is_registered(to, bytes, true)) &&
                        (!from_device || is_registered(from, bytes, false)));
}

cudaError_t copy(Runtime& r, void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                 cudaStream_t stream) {
  if (!is_copy_allowed(to, from, bytes, kind)) return cudaErrorInvalidValue;
  return enqueue(r, stream, [=] { std::memcpy(to, from, bytes); });
}

cudaError_t fill(Runtime& r, void* to, int value, size_t bytes, cudaStream_t stream) {
  if (bytes != 0 && !is_registered(to, bytes, true)) return cudaErrorInvalidValue;
  return enqueue(r, stream, [=] { std::memset(to, value, bytes); });
}

struct Words {
  const char *name, *text;
};

Words words(cudaError_t error) {
  static const std::map<cudaError_t, Words> all = {
      {cudaSuccess, {"cudaSuccess", "no error"}},
      {cudaErrorInvalidValue, {"cudaErrorInvalidValue", "invalid argument"}},
      {cudaErrorMemoryAllocation, {"cudaErrorMemoryAllocation", "out of memory"}},
      {cudaErrorInvalidConfiguration,
       {"cudaErrorInvalidConfiguration", "invalid configuration argument"}},
      {cudaErrorInvalidDeviceFunction,
       {"cudaErrorInvalidDeviceFunction", "invalid device function"}},
      {cudaErrorMissingConfiguration,
       {"cudaErrorMissingConfiguration", "__global__ function call is not configured"}},
      {cudaErrorNoDevice, {"cudaErrorNoDevice", "no CUDA-capable device is detected"}},
      {cudaErrorInvalidDevice, {"cudaErrorInvalidDevice", "invalid device ordinal"}},
      {cudaErrorNoKernelImageForDevice,
       {"cudaErrorNoKernelImageForDevice",
        "no kernel image is available for execution on the device"}},
      {cudaErrorInvalidPtx, {"cudaErrorInvalidPtx", "a PTX JIT compilation failed"}},
      {cudaErrorInvalidResourceHandle,
       {"cudaErrorInvalidResourceHandle", "invalid resource handle"}},
      {cudaErrorNotReady, {"cudaErrorNotReady", "device not ready"}},
      {cudaErrorLaunchFailure, {"cudaErrorLaunchFailure", "unspecified launch failure"}},
      {cudaErrorNotSupported, {"cudaErrorNotSupported", "operation not supported"}},
      {cudaErrorInvalidClusterSize,
       {"cudaErrorInvalidClusterSize",
        "a kernel launch error has occurred due to cluster misconfiguration"}},
  };
  const auto found = all.find(error);
  return found == all.end() ? Words{"unrecognized error code", "unrecognized error code"}
                            : found->second;
}

cudaError_t driver_function(const char* name, void** function,
                            cudaDriverEntryPointQueryResult* status) {
  const bool is_known = std::strcmp(name, "cuTensorMapEncodeTiled") == 0;
  *function = is_known ? reinterpret_cast<void*>(&cuTensorMapEncodeTiled) : nullptr;
  if (status) *status = is_known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

}  // namespace

void set_device(const Device& device) {
  Runtime& r = runtime();
  r.device = 0;
  while (is_device(r, r.device) && !(current_device(r) == device)) ++r.device;
  if (!is_device(r, r.device)) r.devices.push_back(device);
}

void set_options(const Options& options) { runtime().options = options; }

void run(const Launch& launch, const Options& options) {
  Runtime& r = runtime();
  Machine machine(options);
  machine.run(launch);
  ++r.launches;
  for (const auto& [place, traffic] : machine.traffic) {
    Traffic& sum = r.traffic[place];
    sum.requests += traffic.requests;
    sum.bytes += traffic.bytes;
    sum.wavefronts += traffic.wavefronts;
    sum.least += traffic.least;
    sum.sectors += traffic.sectors;
  }
}

const decltype(Machine::traffic)& traffic() { return runtime().traffic; }
uint64_t launches() { return runtime().launches; }
std::string last_failure() { return runtime().failure; }

void reset() {
  Runtime& r = runtime();
  r.queue.clear();
  r.last = r.broken = cudaSuccess;
  r.failure.clear();
  r.traffic.clear();
  r.started = r.launches = 0;
}

}  // namespace emulator

using namespace emulator;

#pragma GCC visibility push(default)
extern "C" {

// What nvcc's host code calls by itself.

void** __cudaRegisterFatBinary(void* wrapper) {
  auto binary = std::make_unique<FatBinary>(wrapper);
  void** const handle = reinterpret_cast<void**>(binary.get());
  runtime().binaries[handle] = std::move(binary);
  return handle;
}

void __cudaRegisterFatBinaryEnd(void**) {}

void __cudaUnregisterFatBinary(void** handle) {
  Runtime& r = runtime();
  for (auto kernel = r.kernels.begin(); kernel != r.kernels.end();) {
    const auto here = kernel++;
    if (here->second.binary == r.binaries[handle].get()) r.kernels.erase(here);
  }
  r.binaries.erase(handle);
}

void __cudaRegisterFunction(void** handle, const char* stub, char*, const char* name, int, uint3*,
                            uint3*, dim3*, dim3*, int*) {
  runtime().kernels[stub] = Kernel{reinterpret_cast<FatBinary*>(handle), name, {}};
}

// A kernel finds its variables by itself; the host asks for none of them.
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  runtime().configurations.push_back({grid, block, shared, stream});
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  auto& configurations = runtime().configurations;
  if (configurations.empty()) return cudaErrorMissingConfiguration;
  const CallConfiguration& top = configurations.back();
  *grid = top.grid, *block = top.block, *shared = top.shared;
  *static_cast<cudaStream_t*>(stream) = top.stream;
  configurations.pop_back();
  return cudaSuccess;
}

// A kernel's handle is its stub: programs differ by device, and are found at each launch.
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = static_cast<cudaKernel_t>(const_cast<void*>(function));
  return find_kernel(runtime(), function) ? cudaSuccess : cudaErrorInvalidDeviceFunction;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments,
                               size_t shared, cudaStream_t stream) {
  return cudaLaunchKernel(kernel, grid, block, arguments, shared, stream);
}

// Launches.

cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments,
                             size_t shared, cudaStream_t stream) {
  return call(
      [&](Runtime& r) { return launch(r, function, {grid, block, shared, stream}, arguments); });
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function,
                                void** arguments) {
  return call([&](Runtime& r) {
    const CallConfiguration how{config->gridDim, config->blockDim, config->dynamicSmemBytes,
                                config->stream};
    dim3 cluster;
    bool has_cluster = false;
    for (unsigned i = 0; i < config->numAttrs; ++i) {
      const cudaLaunchAttribute& attribute = config->attrs[i];
      if (attribute.id == cudaLaunchAttributeClusterDimension) {
        const auto& size = attribute.val.clusterDim;
        cluster = dim3(size.x, size.y, size.z);
        has_cluster = true;
      } else if (attribute.id != cudaLaunchAttributeProgrammaticStreamSerialization &&
                 attribute.id != cudaLaunchAttributeIgnore) {
        return cudaErrorNotSupported;
      }
    }
    return launch(r, function, how, arguments, has_cluster ? &cluster : nullptr);
  });
}

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  return call([&](Runtime& r) {
    return with_kernel(r, function, [&](const auto& program, KernelLimits& limits) {
      return set_limit(current_device(r), *program, limits, attribute, value);
    });
  });
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
  return call([&](Runtime& r) {
    return with_kernel(r, function, [&](const auto& program, const KernelLimits& limits) {
      const Device& device = current_device(r);
      *attributes = {};
      attributes->sharedSizeBytes = static_shared(*program);
      attributes->localSizeBytes = program->local_bytes;
      attributes->maxThreadsPerBlock = max_threads(*program);
      attributes->maxDynamicSharedSizeBytes = max_dynamic_shared(*program, limits);
      attributes->binaryVersion = device.major * 10 + device.minor;
      return cudaSuccess;
    });
  });
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int* blocks, const void* function, int threads, size_t dynamic_shared, unsigned) {
  return call([&](Runtime& r) {
    if (threads <= 0) return cudaErrorInvalidValue;
    return with_kernel(r, function, [&](const auto& program, const KernelLimits&) {
      *blocks = blocks_per_sm(current_device(r), *program, threads, dynamic_shared);
      return cudaSuccess;
    });
  });
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* function,
                                                          int threads, size_t dynamic_shared) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads,
                                                                dynamic_shared, 0);
}

// Devices.

cudaError_t cudaGetDeviceCount(int* count) {
  *count = int(runtime().devices.size());
  return call([](Runtime&) { return cudaSuccess; });
}

cudaError_t cudaGetDevice(int* device) {
  return call([&](Runtime& r) {
    *device = r.device;
    return cudaSuccess;
  });
}

cudaError_t cudaSetDevice(int device) {
  return call([&](Runtime& r) {
    if (!is_device(r, device)) return cudaErrorInvalidDevice;
    r.device = device;
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int device) {
  return call([&](Runtime& r) {
    if (!is_device(r, device)) return cudaErrorInvalidDevice;
    return attribute(r.devices[device], which, value) ? cudaSuccess : cudaErrorInvalidValue;
  });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  return call([&](Runtime& r) {
    if (!is_device(r, device)) return cudaErrorInvalidDevice;
    const auto value = [&](cudaDeviceAttr which) {
      int value = 0;
      attribute(r.devices[device], which, &value);
      return value;
    };
    *properties = {};
    r.devices[device].name.copy(properties->name, sizeof(properties->name) - 1);
    properties->major = value(cudaDevAttrComputeCapabilityMajor);
    properties->minor = value(cudaDevAttrComputeCapabilityMinor);
    properties->multiProcessorCount = value(cudaDevAttrMultiProcessorCount);
    properties->sharedMemPerBlock = value(cudaDevAttrMaxSharedMemoryPerBlock);
    properties->sharedMemPerBlockOptin = value(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    properties->sharedMemPerMultiprocessor = value(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
    properties->reservedSharedMemPerBlock = value(cudaDevAttrReservedSharedMemoryPerBlock);
    properties->maxThreadsPerMultiProcessor = value(cudaDevAttrMaxThreadsPerMultiProcessor);
    properties->maxThreadsPerBlock = value(cudaDevAttrMaxThreadsPerBlock);
    properties->warpSize = value(cudaDevAttrWarpSize);
    for (int i = 0; i < 3; ++i) {
      properties->maxThreadsDim[i] = value(cudaDeviceAttr(cudaDevAttrMaxBlockDimX + i));
      properties->maxGridSize[i] = value(cudaDeviceAttr(cudaDevAttrMaxGridDimX + i));
    }
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceSynchronize() { return call(finish_all); }

// Errors.

cudaError_t cudaGetLastError() { return std::exchange(runtime().last, runtime().broken); }
cudaError_t cudaPeekAtLastError() { return runtime().last; }
const char* cudaGetErrorString(cudaError_t error) { return words(error).text; }
const char* cudaGetErrorName(cudaError_t error) { return words(error).name; }

// Memory.

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  return call([&](Runtime& r) {
    constexpr size_t alignment = 256;  // as CUDA's allocations have
    *pointer = nullptr;
    if (bytes == 0) return cudaSuccess;
    if (bytes > SIZE_MAX - alignment) return cudaErrorMemoryAllocation;
    *pointer = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    if (!*pointer) return cudaErrorMemoryAllocation;
    r.allocations.insert(*pointer);
    register_buffer(*pointer, bytes, true);
    return cudaSuccess;
  });
}

cudaError_t cudaFree(void* pointer) {
  return call([&](Runtime& r) {
    if (!pointer) return cudaSuccess;
    if (!r.allocations.erase(pointer)) return cudaErrorInvalidValue;
    const cudaError_t error = finish_all(r);  // which may use it
    unregister_buffer(pointer);
    std::free(pointer);
    return error;
  });
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return call([&](Runtime& r) { return copy(r, to, from, bytes, kind, stream); });
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return call([&](Runtime& r) {
    const cudaError_t error = copy(r, to, from, bytes, kind, nullptr);
    return error == cudaSuccess ? finish_stream(r, nullptr) : error;
  });
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  return call([&](Runtime& r) { return fill(r, to, value, bytes, stream); });
}

cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  return cudaMemsetAsync(to, value, bytes, nullptr);
}

// Streams.

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return call([&](Runtime& r) {
    *stream = reinterpret_cast<cudaStream_t>(++r.last_stream);
    r.streams.insert(*stream);
    return cudaSuccess;
  });
}

// What is on it is done all the same, when somebody waits for the device.
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return call([&](Runtime& r) {
    return r.streams.erase(stream) ? cudaSuccess : cudaErrorInvalidResourceHandle;
  });
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return call([&](Runtime& r) { return finish_stream(r, stream); });
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  bool is_busy = false;
  const cudaError_t error = call([&](Runtime& r) {
    if (!is_stream(r, plain(stream))) return cudaErrorInvalidResourceHandle;
    for (const Work& work : r.queue) is_busy |= work.stream == plain(stream);
    return cudaSuccess;
  });
  return is_busy ? cudaErrorNotReady : error;  // which is not kept as an error
}

// The driver.

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* status) {
  return call([&](Runtime&) { return driver_function(symbol, function, status); });
}

cudaError_t cudaGetDriverEntryPoint(const char* symbol, void** function, unsigned long long,
                                    cudaDriverEntryPointQueryResult* status) {
  return call([&](Runtime&) { return driver_function(symbol, function, status); });
}

// What is wrong with the arguments is kept in words.
CUresult cuTensorMapEncodeTiled(CUtensorMap* to, CUtensorMapDataType data_type, cuuint32_t rank,
                                void* address, const cuuint64_t* sizes, const cuuint64_t* strides,
                                const cuuint32_t* box, const cuuint32_t* element_strides,
                                CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion l2_promotion,
                                CUtensorMapFloatOOBfill oob_fill) {
  Runtime& r = runtime();
  TensorMap map{};
  std::string broken;
  if (r.devices.empty() || current_device(r).major < 9)
    broken = "tensor maps need compute capability 9.0";
  else if (reinterpret_cast<uintptr_t>(to) % 64 != 0)
    broken = "the tensor map is not aligned to 64 bytes";
  else
    broken =
        encode_tiled(map, data_type, rank, reinterpret_cast<uintptr_t>(address), sizes, strides,
                     box, element_strides, interleave, swizzle, l2_promotion, oob_fill);
  if (!broken.empty()) {
    r.failure = "cuTensorMapEncodeTiled: " + broken;
    return CUDA_ERROR_INVALID_VALUE;
  }
  std::memcpy(to, &map, sizeof(map));
  return CUDA_SUCCESS;
}

}  // extern "C"
#pragma GCC visibility pop
