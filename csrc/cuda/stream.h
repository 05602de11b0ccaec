// Where the kernels of a CUDA tensor run.
#pragma once

#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

#include "../common.h"

namespace green_kernels {

using torch::stable::accelerator::DeviceGuard;

// torch's current stream on the device of x. A direct reference to torch's function would keep this
// library from loading beside a CPU torch; whoever holds a CUDA tensor has libtorch_cuda loaded.
inline void* current_stream(const torch::stable::Tensor& x) {
  using Getter = AOTITorchError (*)(int32_t, void**);
  static const Getter getter = [] {
    void* const library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    void* const symbol = library ? dlsym(library, "aoti_torch_get_current_cuda_stream") : nullptr;
    return reinterpret_cast<Getter>(symbol);
  }();
  CHECK(getter != nullptr, "libtorch_cuda is not loaded");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(getter(x.get_device_index(), &stream));
  return stream;
}

}  // namespace green_kernels
