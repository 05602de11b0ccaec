// A CUDA runtime without a GPU: the functions that our host code and nvcc 13.0's stubs call, so
// that launchers run as they are. Signatures that no header of the toolkit declares for a C++
// compiler are those of crt/host_runtime.h and crt/device_functions.h.
//
// A launch checks its arguments and copies them, as CUDA does, and is queued; it runs when somebody
// waits for its stream. What a kernel does wrong becomes cudaErrorLaunchFailure there, which stays
// until reset(), as it would for the rest of a process. One thread uses all this at a time: Python
// holds its lock.
#include "cudart.h"

#include <cuda.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <utility>

#include "tensor_map.h"

namespace emulator {
namespace {

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

// Likewise, and calls `use` with a kernel's program for the current device, and its limits there.
template <typename Use>
cudaError_t with_kernel(const void* function, Use use) {
  return call([&](Runtime& r) {
    const auto kernel = r.kernels.find(function);
    if (kernel == r.kernels.end()) return cudaErrorInvalidDeviceFunction;
    const int capability = 10 * r.attribute(cudaDevAttrComputeCapabilityMajor) +
                           r.attribute(cudaDevAttrComputeCapabilityMinor);
    const auto program = kernel->second.binary->program(kernel->second.name, capability);
    if (!program) return cudaErrorNoKernelImageForDevice;
    return use(r, program, kernel->second.limits[r.device]);
  });
}

std::array<uint32_t, 3> sizes(dim3 from) { return {from.x, from.y, from.z}; }

// Reads a launch's attributes; false where there is one that the emulator does not know.
bool read_attributes(const cudaLaunchConfig_t& config, Launch& launch) {
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const cudaLaunchAttribute& attribute = config.attrs[i];
    const auto& size = attribute.val.clusterDim;
    if (attribute.id == cudaLaunchAttributeClusterDimension)
      launch.cluster = {size.x, size.y, size.z};
    else if (attribute.id == cudaLaunchAttributeProgrammaticStreamSerialization)
      launch.overlaps = attribute.val.programmaticStreamSerializationAllowed != 0;
    else if (attribute.id != cudaLaunchAttributeIgnore)
      return false;
  }
  return true;
}

// `in_flight` is what the grids of its stream access that may be at work when it begins: the one
// before it and, where that is a programmatic launch too, those before that.
void run_next(Runtime& r, const Launch& launch, bool is_overlapped, GlobalAccesses& in_flight) {
  if (!launch.overlaps) in_flight = {};
  GlobalAccesses accesses;
  Options options = r.options;
  const uint64_t index = r.started++;
  options.seed += index * 0x9e3779b97f4a7c15;  // so that launch 1 of a seed is not 0 of the next
  try {
    r.run(launch, options, launch.overlaps ? &in_flight : nullptr,
          is_overlapped ? &accesses : nullptr);
  } catch (const std::exception& failure) {
    fail("launch " + std::to_string(index) + " of seed " + std::to_string(r.options.seed) + ": " +
         failure.what());
  }
  in_flight.reads.add(accesses.reads);
  in_flight.writes.add(accesses.writes);
}

// Runs the first `ordered` of the launches that are queued, and of the others those of `stream`.
cudaError_t synchronise(Runtime& r, size_t ordered, cudaStream_t stream) {
  auto launches = std::exchange(r.launches, {});
  std::map<cudaStream_t, GlobalAccesses> in_flight;
  const auto is_overlapped = [&](size_t i) {
    const auto next =
        std::find_if(launches.begin() + i + 1, launches.end(),
                     [&](const auto& later) { return later.first == launches[i].first; });
    return next != launches.end() && next->second.overlaps;
  };
  try {
    for (size_t i = 0; i < launches.size(); ++i)
      if (i < ordered || launches[i].first == stream)
        run_next(r, launches[i].second, is_overlapped(i), in_flight[launches[i].first]);
      else
        r.launches.push_back(std::move(launches[i]));
  } catch (const std::exception& failure) {
    r.failure = failure.what();
    r.launches.clear();
    return r.broken = cudaErrorLaunchFailure;
  }
  return cudaSuccess;
}

struct Words {
  cudaError_t error;
  const char *name, *text;
};

// Of the errors that are returned here.
Words words(cudaError_t error) {
#define NAMED(error) error, #error
  constexpr Words all[] = {
      {NAMED(cudaSuccess), "no error"},
      {NAMED(cudaErrorInvalidValue), "invalid argument"},
      {NAMED(cudaErrorInvalidConfiguration), "invalid configuration argument"},
      {NAMED(cudaErrorInvalidDeviceFunction), "invalid device function"},
      {NAMED(cudaErrorMissingConfiguration), "__global__ function call is not configured"},
      {NAMED(cudaErrorNoDevice), "no CUDA-capable device is detected"},
      {NAMED(cudaErrorInvalidDevice), "invalid device ordinal"},
      {NAMED(cudaErrorNoKernelImageForDevice),
       "no kernel image is available for execution on the device"},
      {NAMED(cudaErrorInvalidPtx), "a PTX JIT compilation failed"},
      {NAMED(cudaErrorInvalidResourceHandle), "invalid resource handle"},
      {NAMED(cudaErrorLaunchFailure), "unspecified launch failure"},
      {NAMED(cudaErrorNotSupported), "operation not supported"},
      {NAMED(cudaErrorInvalidClusterSize),
       "a kernel launch error has occurred due to cluster misconfiguration"},
  };
#undef NAMED
  for (const Words& words : all)
    if (words.error == error) return words;
  return {error, "unrecognized error code", "unrecognized error code"};
}

}  // namespace

// Never destroyed: modules unregister their kernels when the process exits, in whatever order.
Runtime& runtime() {
  static Runtime& runtime = *new Runtime;
  return runtime;
}

void Runtime::set_device(const Device& wanted) {
  const auto known = std::find(devices.begin(), devices.end(), wanted);
  device = int(known - devices.begin());
  if (known == devices.end()) devices.push_back(wanted);
}

void Runtime::run(const Launch& launch, const Options& options, const GlobalAccesses* before,
                  GlobalAccesses* accesses) {
  Machine machine(options);
  machine.before = before, machine.accesses = accesses;
  machine.traffic.swap(traffic);  // which it adds to
  machine.run(launch);
  machine.traffic.swap(traffic);
}

size_t parameter_bytes(const Program& program, size_t index) {
  const Variable& parameter = program.parameters[index];
  return size_t(bytes_of(parameter.type)) * parameter.vector * parameter.elements;
}

void Runtime::reset() {
  launches.clear();
  last = broken = cudaSuccess;
  failure.clear();
  traffic.clear();
  started = 0;
}

}  // namespace emulator

using namespace emulator;

#pragma GCC visibility push(default)
extern "C" {

// What nvcc's host code calls by itself.

void** __cudaRegisterFatBinary(void* wrapper) {
  return reinterpret_cast<void**>(&runtime().binaries.emplace_back(wrapper));
}

void __cudaRegisterFatBinaryEnd(void**) {}

// Comes when the process exits: Python unloads no library before.
void __cudaUnregisterFatBinary(void**) {}

void __cudaRegisterFunction(void** binary, const char* stub, char*, const char* name, int, uint3*,
                            uint3*, dim3*, dim3*, int*) {
  runtime().kernels[stub] = Kernel{reinterpret_cast<FatBinary*>(binary), name, {}};
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  runtime().configurations.push_back({grid, block, shared, stream, nullptr, 0});
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  auto& configurations = runtime().configurations;
  if (configurations.empty()) return cudaErrorMissingConfiguration;
  const cudaLaunchConfig_t& top = configurations.back();
  *grid = top.gridDim, *block = top.blockDim, *shared = top.dynamicSmemBytes;
  *static_cast<cudaStream_t*>(stream) = top.stream;
  configurations.pop_back();
  return cudaSuccess;
}

// A kernel's handle is its stub: programs differ by device, and are found at each launch.
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = static_cast<cudaKernel_t>(const_cast<void*>(function));
  return runtime().kernels.count(function) ? cudaSuccess : cudaErrorInvalidDeviceFunction;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments,
                               size_t shared, cudaStream_t stream) {
  return cudaLaunchKernel(kernel, grid, block, arguments, shared, stream);
}

// Launches.

cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments,
                             size_t shared, cudaStream_t stream) {
  const cudaLaunchConfig_t config{grid, block, shared, stream, nullptr, 0};
  return cudaLaunchKernelExC(&config, function, arguments);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function,
                                void** arguments) {
  return with_kernel(function, [&](Runtime& r, const auto& program, const KernelLimits& limits) {
    Launch launch;
    launch.program = program;
    launch.grid = sizes(config->gridDim), launch.block = sizes(config->blockDim);
    const std::vector<int>& required = program->required_cluster;
    std::copy(required.begin(), required.end(), launch.cluster.begin());
    if (!read_attributes(*config, launch)) return cudaErrorNotSupported;
    launch.dynamic_shared = uint32_t(std::min<size_t>(config->dynamicSmemBytes, UINT32_MAX));
    const cudaError_t error = check_launch(r.devices[r.device], limits, launch);
    if (error != cudaSuccess) return error;
    if (!r.streams.count(config->stream)) return cudaErrorInvalidResourceHandle;
    launch.parameters.resize(program->parameter_bytes);
    for (size_t i = 0; i < program->parameters.size(); ++i)
      std::memcpy(&launch.parameters[program->parameter_offsets[i]], arguments[i],
                  parameter_bytes(*program, i));
    r.launches.push_back({config->stream, std::move(launch)});
    return cudaSuccess;
  });
}

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  return with_kernel(function, [&](Runtime& r, const auto& program, KernelLimits& limits) {
    return set_limit(r.devices[r.device], *program, limits, attribute, value);
  });
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
    if (size_t(device) >= r.devices.size()) return cudaErrorInvalidDevice;
    r.device = device;
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int device) {
  return call([&](Runtime& r) {
    if (size_t(device) >= r.devices.size()) return cudaErrorInvalidDevice;
    const auto found = r.devices[device].find(which);
    if (found == r.devices[device].end()) return cudaErrorInvalidValue;
    *value = found->second;
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceSynchronize() {
  return call([](Runtime& r) { return synchronise(r, r.launches.size(), nullptr); });
}

// Errors.

cudaError_t cudaGetLastError() { return std::exchange(runtime().last, runtime().broken); }
cudaError_t cudaPeekAtLastError() { return runtime().last; }
const char* cudaGetErrorString(cudaError_t error) { return words(error).text; }
const char* cudaGetErrorName(cudaError_t error) { return words(error).name; }

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
    return stream && r.streams.erase(stream) ? cudaSuccess : cudaErrorInvalidResourceHandle;
  });
}

// The default stream waits for all that was queued before, and whatever was queued after waits for
// it. (CUDA Runtime API, "Stream synchronization behavior".)
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return call([&](Runtime& r) {
    if (!r.streams.count(stream)) return cudaErrorInvalidResourceHandle;
    size_t ordered = r.launches.size();
    while (ordered && r.launches[ordered - 1].first) --ordered;
    return synchronise(r, ordered, stream);
  });
}

// The driver.

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
  return call([&](Runtime&) {
    const bool is_known = std::strcmp(symbol, "cuTensorMapEncodeTiled") == 0;
    *function = is_known ? reinterpret_cast<void*>(&cuTensorMapEncodeTiled) : nullptr;
    if (found) *found = is_known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
  });
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
  std::string broken =
      encode_tiled(map, data_type, rank, reinterpret_cast<uintptr_t>(address), sizes, strides, box,
                   element_strides, interleave, swizzle, l2_promotion, oob_fill);
  if (reinterpret_cast<uintptr_t>(to) % 64) broken = "the tensor map is not aligned to 64 bytes";
  if (r.devices.empty() || r.attribute(cudaDevAttrComputeCapabilityMajor) < 9)
    broken = "tensor maps need compute capability 9.0";
  if (!broken.empty()) {
    r.failure = "cuTensorMapEncodeTiled: " + broken;
    return CUDA_ERROR_INVALID_VALUE;
  }
  std::memcpy(to, &map, sizeof(map));
  return CUDA_SUCCESS;
}

}  // extern "C"
#pragma GCC visibility pop
