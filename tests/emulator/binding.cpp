// The Python module _emulator: PTX launched by hand, and the stand-in CUDA runtime's controls. Its
// shared library is also where the launchers of _kernels find CUDA's functions. Memory is given by
// address; whoever calls keeps it alive.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "cudart.h"
#include "memory.h"

namespace py = pybind11;

namespace emulator {
namespace {

using Sizes = std::array<uint32_t, 3>;

// An argument is bytes, or a pair of a kind and a value. `name` is for messages.
std::string bytes_of_argument(const py::handle& argument, const std::string& name) {
  // As Python's module `struct` has them.
  static const std::map<std::string, const char*> formats = {
      {"ptr", "Q"}, {"u64", "Q"}, {"i64", "q"}, {"u32", "I"}, {"i32", "i"}, {"u16", "H"},
      {"i16", "h"}, {"u8", "B"},  {"i8", "b"},  {"f32", "f"}, {"f64", "d"}};
  if (py::isinstance<py::bytes>(argument)) return argument.cast<std::string>();
  const auto got = [&] { return ", got " + py::repr(argument).cast<std::string>(); };
  if (!py::isinstance<py::tuple>(argument) || py::len(argument) != 2)
    fail(name + " must be bytes or a tuple (kind, value)" + got());
  const auto [kind, value] = argument.cast<std::pair<py::object, py::object>>();
  const auto format = formats.find(py::str(kind).cast<std::string>());
  if (format == formats.end()) {
    std::string kinds;
    for (const auto& known : formats) kinds += " " + known.first;
    fail(name + " must be of one of the kinds" + kinds + got());
  }
  try {
    return py::module_::import("struct").attr("pack")(format->second, value).cast<std::string>();
  } catch (const py::error_already_set& error) {
    fail(name + " must have a value that its kind can hold" + got() + ": " + error.what());
  }
}

std::vector<uint8_t> laid_out(const Program& program, const py::list& arguments) {
  const size_t count = program.parameters.size();
  if (arguments.size() != count)
    fail("arguments must be " + std::to_string(count) + " for " + program.name + ", got " +
         std::to_string(arguments.size()));
  std::vector<uint8_t> bytes(program.parameter_bytes);
  for (size_t i = 0; i < count; ++i) {
    const std::string name = "arguments[" + std::to_string(i) + "]";
    const std::string argument = bytes_of_argument(arguments[i], name);
    if (argument.size() != parameter_bytes(program, i))
      fail(name + " must have " + std::to_string(parameter_bytes(program, i)) + " bytes, got " +
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

Launch launch_of(const std::string& ptx, const std::string& kernel, Sizes grid, Sizes block,
                 Sizes cluster, uint32_t shared, const py::list& arguments) {
  Launch launch;
  launch.program = std::make_shared<const Program>(build(parse(ptx), kernel));
  launch.grid = grid, launch.block = block, launch.cluster = cluster;
  launch.dynamic_shared = shared;
  launch.parameters = laid_out(*launch.program, arguments);
  return launch;
}

void launch_ptx(const std::string& ptx, const std::string& kernel, Sizes grid, Sizes block,
                Sizes cluster, uint32_t shared, const py::list& arguments, uint64_t seed,
                const std::string& trace, uint64_t max_instructions) {
  runtime().run(launch_of(ptx, kernel, grid, block, cluster, shared, arguments),
                options_of(seed, trace, max_instructions));
}

void enqueue_ptx(const std::string& ptx, const std::string& kernel, Sizes grid, Sizes block,
                 const py::list& arguments, bool overlaps) {
  Launch launch = launch_of(ptx, kernel, grid, block, {1, 1, 1}, 0, arguments);
  launch.overlaps = overlaps;
  runtime().launches.push_back({nullptr, std::move(launch)});
}

py::list traffic_dicts() {
  using py::literals::operator""_a;
  py::list all;
  for (const auto& [place, t] : runtime().traffic) {
    const auto& [file, line, kind] = place;
    all.append(py::dict("file"_a = file, "line"_a = line, "kind"_a = kind,
                        "requests"_a = t.requests, "bytes"_a = t.bytes,
                        "wavefronts"_a = t.wavefronts, "least"_a = t.least,
                        "sectors"_a = t.sectors));
  }
  return all;
}

// Runs all that is queued.
void synchronize() {
  const cudaError_t error = cudaDeviceSynchronize();
  if (error == cudaSuccess) return;
  fail(error == cudaErrorLaunchFailure ? runtime().failure : cudaGetErrorString(error));
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

  m.def(
      "enqueue", &enqueue_ptx,
      "Launches it on the default stream; `overlaps` where it may begin before the last has ended.",
      "ptx"_a, "kernel"_a, "grid"_a, "block"_a, "arguments"_a = py::list(), "overlaps"_a = false);

  m.def("register_buffer", [](uintptr_t address, uint64_t nbytes, bool writable) {
    register_buffer(pointer(address), nbytes, writable);
  });
  m.def("unregister_buffer", [](uintptr_t address) { unregister_buffer(pointer(address)); });

  // The first parameter is the device's name, for people.
  m.def("set_device", [](const std::string&, int major, int minor, int sm_count, int shared_optin,
                         int shared_per_sm) {
    runtime().set_device(make_device(major, minor, sm_count, shared_optin, shared_per_sm));
  });
  m.def("set_options", [](uint64_t seed, const std::string& trace, uint64_t max_instructions) {
    runtime().options = options_of(seed, trace, max_instructions);
  });
  m.def("synchronize", &synchronize);
  m.def("traffic", &traffic_dicts, "What each source line moved since the last reset.");
  m.def("last_failure", [] { return runtime().failure; });
  m.def("reset", [] { runtime().reset(); });
}
