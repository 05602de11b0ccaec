// The Python module _emulator: PTX launched by hand, and the stand-in CUDA runtime's controls. Its
// shared library is also where the launchers of _kernels find CUDA's functions. Memory is given by
// address; whoever calls keeps it alive.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "cudart.h"
#include "memory.h"

namespace py = pybind11;

namespace emulator {
namespace {

using Sizes = std::array<uint32_t, 3>;

template <typename T>
std::string packed(const py::handle& value) {
  const T number = value.cast<T>();
  return {reinterpret_cast<const char*>(&number), sizeof(T)};
}

// An argument is bytes, or a pair of a kind and a value.
std::string bytes_of_argument(const py::handle& argument) {
  if (py::isinstance<py::bytes>(argument)) return argument.cast<std::string>();
  const auto [kind, value] = argument.cast<std::pair<std::string, py::object>>();
  if (kind == "ptr" || kind == "u64") return packed<uint64_t>(value);
  if (kind == "i64") return packed<int64_t>(value);
  if (kind == "u32") return packed<uint32_t>(value);
  if (kind == "i32") return packed<int32_t>(value);
  if (kind == "u16") return packed<uint16_t>(value);
  if (kind == "i16") return packed<int16_t>(value);
  if (kind == "u8") return packed<uint8_t>(value);
  if (kind == "i8") return packed<int8_t>(value);
  if (kind == "f32") return packed<float>(value);
  if (kind == "f64") return packed<double>(value);
  fail("arguments has an unknown kind '" + kind + "'");
}

std::vector<uint8_t> laid_out(const Program& program, const py::list& arguments) {
  const size_t count = program.parameters.size();
  if (arguments.size() != count)
    fail("arguments must be " + std::to_string(count) + " for " + program.name + ", got " +
         std::to_string(arguments.size()));
  std::vector<uint8_t> bytes(program.parameter_bytes);
  for (size_t i = 0; i < count; ++i) {
    const std::string argument = bytes_of_argument(arguments[i]);
    if (argument.size() != parameter_bytes(program, i))
      fail("arguments[" + std::to_string(i) + "] must have " +
           std::to_string(parameter_bytes(program, i)) + " bytes, got " +
           std::to_string(argument.size()));
    std::copy(argument.begin(), argument.end(), bytes.begin() + program.parameter_offsets[i]);
  }
  return bytes;
}

Options options_of(uint64_t seed, const std::string& trace, uint64_t max_instructions) {
  Options options;
  options.seed = seed;
  options.trace = trace;
  if (max_instructions) options.max_instructions = max_instructions;
  return options;
}

void launch_ptx(const std::string& ptx, const std::string& kernel, Sizes grid, Sizes block,
                Sizes cluster, uint32_t shared, const py::list& arguments, uint64_t seed,
                const std::string& trace, uint64_t max_instructions) {
  Launch launch;
  launch.program = std::make_shared<const Program>(build(parse(ptx), kernel));
  launch.grid = grid, launch.block = block, launch.cluster = cluster;
  launch.dynamic_shared = shared;
  launch.parameters = laid_out(*launch.program, arguments);
  run(launch, options_of(seed, trace, max_instructions));
}

std::vector<std::string> entries(const std::string& ptx) {
  std::vector<std::string> names;
  for (const auto& [name, function] : parse(ptx).functions)
    if (function.is_entry) names.push_back(name);
  return names;
}

py::list traffic_dicts() {
  using py::literals::operator""_a;
  py::list all;
  for (const auto& [place, t] : traffic()) {
    const auto& [file, line, kind] = place;
    all.append(py::dict("file"_a = file, "line"_a = line, "kind"_a = kind,
                        "requests"_a = t.requests, "bytes"_a = t.bytes,
                        "wavefronts"_a = t.wavefronts, "least"_a = t.least,
                        "sectors"_a = t.sectors));
  }
  return all;
}

void expect(cudaError_t error) {
  if (error == cudaSuccess) return;
  fail(error == cudaErrorLaunchFailure ? last_failure() : cudaGetErrorString(error));
}

cudaStream_t stream_of(uintptr_t handle) { return reinterpret_cast<cudaStream_t>(handle); }

uintptr_t create_stream() {
  cudaStream_t stream = nullptr;
  expect(cudaStreamCreate(&stream));
  return reinterpret_cast<uintptr_t>(stream);
}

const void* pointer(uintptr_t address) { return reinterpret_cast<const void*>(address); }

}  // namespace
}  // namespace emulator

PYBIND11_MODULE(_emulator, m) {
  using namespace emulator;
  using py::literals::operator""_a;
  m.doc() = "Runs PTX, by itself or as the CUDA runtime of launchers that were compiled by nvcc.";
  py::register_exception<Error>(m, "EmulatorError", PyExc_RuntimeError);

  m.def("launch", &launch_ptx, "Runs a kernel of PTX text to its end.", "ptx"_a, "kernel"_a,
        "grid"_a, "block"_a, "cluster"_a = Sizes{1, 1, 1}, "shared"_a = 0,
        "arguments"_a = py::list(), "seed"_a = 0, "trace"_a = "", "max_instructions"_a = 0);
  m.def("entries", &entries, "The names of a PTX text's kernels.", "ptx"_a);

  m.def(
      "register_buffer",
      [](uintptr_t address, uint64_t nbytes, bool writable) {
        register_buffer(pointer(address), nbytes, writable);
      },
      "Lets kernels touch a piece of memory.", "address"_a, "nbytes"_a, "writable"_a);
  m.def(
      "unregister_buffer", [](uintptr_t address) { unregister_buffer(pointer(address)); },
      "address"_a);

  m.def(
      "set_device",
      [](const std::string& name, int major, int minor, int sm_count, int shared_optin,
         int shared_per_sm) {
        set_device({name, major, minor, sm_count, shared_optin, shared_per_sm});
      },
      "Makes it the current device.", "name"_a, "major"_a, "minor"_a, "sm_count"_a,
      "shared_optin"_a, "shared_per_sm"_a);
  m.def(
      "set_options",
      [](uint64_t seed, const std::string& trace, uint64_t max_instructions) {
        set_options(options_of(seed, trace, max_instructions));
      },
      "Of launches on streams.", "seed"_a, "trace"_a = "", "max_instructions"_a = 0);

  m.def("create_stream", &create_stream, "A stream's handle.");
  m.def(
      "destroy_stream", [](uintptr_t stream) { expect(cudaStreamDestroy(stream_of(stream))); },
      "stream"_a);
  m.def(
      "synchronize_stream",
      [](uintptr_t stream) { expect(cudaStreamSynchronize(stream_of(stream))); },
      "Runs what is queued on a stream. 0 is the default stream.", "stream"_a);
  m.def("synchronize", [] { expect(cudaDeviceSynchronize()); }, "Runs all that is queued.");

  m.def("traffic", &traffic_dicts, "What each source line moved since the last reset.");
  m.def("launches", &launches, "How many launches have run since the last reset.");
  m.def("last_failure", &last_failure, "Why a launch failed, or PTX could not be built; or empty.");
  m.def("reset", &reset, "Forgets what is queued, failed and counted.");
}
