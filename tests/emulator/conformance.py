"""Compare the emulator and the models with a real GPU, one instruction at a time.

    python tests/emulator/conformance.py --json OUT/conformance.jsonl

Every snippet runs on the GPU through the CUDA driver, on the inputs that the tests draw, and its
outputs must be the emulator's and the model's: bit for bit, NaNs being alike, or within the error
that the manual gives for an approximation (twice that between the GPU and the emulator, as each may
err). One JSON line a snippet; the exit status is 1 after a difference or an error, 2 without a GPU.
It needs Python, NumPy, libcuda.so.1, and, for the emulator's part, what builds the emulator.
"""

import argparse
import ctypes
import json
import sys
from collections import Counter
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from pathlib import Path

import numpy as np

if __package__ in (None, ""):  # run as a program: the emulator is a package of tests/
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import emulator  # noqa: E402
from emulator import snippets  # noqa: E402

LIBRARY = "libcuda.so.1"
# From cuda.h.
COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR = 75, 76  # of CUdevice_attribute
JIT_ERROR_LOG_BUFFER, JIT_ERROR_LOG_BUFFER_SIZE = 5, 6  # of CUjit_option
LOG_BYTES = 8192


class DriverError(RuntimeError):
    """A call of the driver that failed."""


class Driver:
    """The first GPU, through the driver's C functions; each must return CUDA_SUCCESS."""

    def __init__(self, library):
        self.library = library
        self.call("cuInit", c_uint(0))
        count, version, name = c_int(), c_int(), ctypes.create_string_buffer(256)
        self.call("cuDeviceGetCount", byref(count))
        if not count.value:
            raise DriverError("cuDeviceGetCount: there is no device")
        self.call("cuDriverGetVersion", byref(version))
        self.device = c_int()
        self.call("cuDeviceGet", byref(self.device), c_int(0))
        self.call("cuDeviceGetName", name, c_int(len(name)), self.device)
        self.name = name.value.decode()
        self.version = f"{version.value // 1000}.{version.value % 1000 // 10}"
        major, minor = (
            self.attribute(a) for a in (COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR)
        )
        self.capability = 10 * major + minor
        self.open()

    def call(self, function, *arguments):
        code = getattr(self.library, function)(*arguments)
        if code:
            text = c_char_p()
            self.library.cuGetErrorName(c_int(code), byref(text))
            raise DriverError(f"{function}: {(text.value or b'unknown').decode()} ({code})")

    def attribute(self, which):
        value = c_int()
        self.call("cuDeviceGetAttribute", byref(value), c_int(which), self.device)
        return value.value

    def open(self):
        """A context, current in this thread."""
        self.context = c_void_p()
        self.call("cuDevicePrimaryCtxRetain", byref(self.context), self.device)
        self.call("cuCtxSetCurrent", self.context)

    def reopen(self):
        """A new context: after a fault in a kernel, every call in the old one fails."""
        self.library.cuDevicePrimaryCtxRelease_v2(self.device)
        self.call("cuDevicePrimaryCtxReset_v2", self.device)
        self.open()

    def close(self):
        self.call("cuDevicePrimaryCtxRelease_v2", self.device)

    def runs(self, arch):
        """Whether code for sm_80, sm_90a, … runs on this GPU: an `a` is for one generation."""
        number = int(arch.removeprefix("sm_").rstrip("a"))
        return self.capability == number if arch.endswith("a") else self.capability >= number

    def load(self, ptx):
        """The module that the driver's compiler makes of PTX text."""
        module, log = c_void_p(), ctypes.create_string_buffer(LOG_BYTES)
        options = (c_int * 2)(JIT_ERROR_LOG_BUFFER, JIT_ERROR_LOG_BUFFER_SIZE)
        values = (c_void_p * 2)(ctypes.addressof(log), LOG_BYTES)
        image = ctypes.create_string_buffer(ptx.encode())  # ends in the NUL that the driver needs
        try:
            self.call("cuModuleLoadDataEx", byref(module), image, c_uint(2), options, values)
        except DriverError as error:
            raise DriverError(f"{error}: {log.value.decode(errors='replace').strip()}") from None
        return module

    def run(self, snippet, batches):
        """The outputs of a snippet for each of these inputs."""
        module, function = self.load(snippets.ptx_of(snippet)), c_void_p()
        try:
            name = snippets.kernel_of(snippet).encode()
            self.call("cuModuleGetFunction", byref(function), module, c_char_p(name))
            outputs = [self.launch(function, snippet, inputs) for inputs in batches]
        except DriverError:
            self.reopen()  # frees all of it
            raise
        self.call("cuModuleUnload", module)
        return outputs

    def launch(self, function, snippet, inputs):
        outputs, pointers = snippets.poisoned(snippet), []
        for array in (inputs, outputs):
            pointers.append(c_uint64())
            self.call("cuMemAlloc_v2", byref(pointers[-1]), c_size_t(max(array.nbytes, 8)))
            self.call("cuMemcpyHtoD_v2", pointers[-1], address(array), c_size_t(array.nbytes))
        parameters = (c_void_p * 2)(*(ctypes.addressof(p) for p in pointers))
        sizes = (snippet.blocks, 1, 1, snippet.threads, 1, 1)
        arguments = (*map(c_uint, sizes), c_uint(0), c_void_p(), parameters, c_void_p())
        self.call("cuLaunchKernel", function, *arguments)
        self.call("cuCtxSynchronize")
        self.call("cuMemcpyDtoH_v2", address(outputs), pointers[1], c_size_t(outputs.nbytes))
        for pointer in pointers:
            self.call("cuMemFree_v2", pointer)
        return outputs


def address(array):
    return c_void_p(array.ctypes.data)


def on_emulator(snippet, inputs, seed=0):
    """The outputs of a snippet on the emulator, for these inputs."""
    outputs, registered = snippets.poisoned(snippet), []
    try:
        for array, writable in ((inputs, False), (outputs, True)):
            if array.nbytes:
                emulator.runtime().register_buffer(array.ctypes.data, array.nbytes, writable)
                registered.append(array.ctypes.data)
        emulator.launch(
            snippets.ptx_of(snippet),
            snippets.kernel_of(snippet),
            grid=(snippet.blocks, 1, 1),
            block=(snippet.threads, 1, 1),
            arguments=[("ptr", array.ctypes.data) for array in (inputs, outputs)],
            seed=seed,
        )
    finally:
        for start in registered:
            emulator.runtime().unregister_buffer(start)
    return outputs


def compare(snippet, driver, seeds, emulate):
    """What a snippet did on the GPU, as a dict. `emulate` is `on_emulator`, or None."""
    record = {
        "name": snippet.name,
        "section": snippet.section,
        "arch": snippet.arch,
        "device": driver.name,
        "driver": driver.version,
        "seeds": list(seeds),
        "vectors": 0,
    }
    if not driver.runs(snippet.arch):
        reason = f"{snippet.arch} code does not run on compute capability {driver.capability / 10}"
        return record | {"status": "skipped", "reason": reason}
    batches = [snippets.inputs_of(snippet, seed) for seed in seeds]
    try:
        outputs = driver.run(snippet, batches)
    except DriverError as error:
        return record | {"status": "error", "reason": str(error)}
    failure = ""
    for seed, inputs, got in zip(seeds, batches, outputs, strict=True):
        references = {"model": (snippets.expected_of(snippet, inputs), 1)}
        if emulate and not failure:
            try:
                references["emulator"] = emulate(snippet, inputs, seed), 2
            except Exception as error:  # whatever it is, the model is to be compared
                failure = f"seed {seed}, emulator: {error}"
        for name, (expected, slack) in references.items():
            found = snippets.first_difference(snippet, inputs, got, expected, slack)
            if found:
                found = f"seed {seed}, the GPU against the {name}: {found}"
                reason = "; ".join(filter(None, (found, failure)))
                return record | {"status": "different", "reason": reason}
        record["vectors"] += len(inputs)
        record["identical"] = record.get("identical", True) and all(
            np.array_equal(got, expected) for expected, _ in references.values()
        )
    if failure:
        return record | {"status": "error", "reason": failure}
    return record | {"status": "equal", "emulator": bool(emulate)}


def build_emulator():
    """Build the emulator; why that is impossible, or None."""
    if emulator.MISSING:
        return emulator.MISSING
    try:
        emulator.runtime()
    except Exception as error:  # of a compiler, a library, a package
        return str(error)
    return None


def main(arguments=None, library=None, emulate=on_emulator):
    """Compare, print and write; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, required=True, help="the file of records")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(snippets.SEEDS))
    parser.add_argument("--only", default="", help="snippets with this in their names")
    options = parser.parse_args(arguments)
    try:
        driver = Driver(library or ctypes.CDLL(LIBRARY))
    except (OSError, DriverError) as error:
        print(f"conformance: no GPU to compare with: {error}", file=sys.stderr)
        return 2
    if emulate and (reason := build_emulator()):
        print(f"conformance: with the models alone: {reason}", file=sys.stderr)
        emulate = None
    options.json.parent.mkdir(parents=True, exist_ok=True)
    count = Counter()
    with options.json.open("w") as file:
        for snippet in snippets.SNIPPETS:
            if options.only in snippet.name:
                record = compare(snippet, driver, options.seeds, emulate)
                print(json.dumps(record), file=file, flush=True)
                count[record["status"]] += 1
                if record["status"] in ("different", "error"):
                    print(f"{record['status']}: {snippet.name}: {record['reason']}")
    driver.close()
    print(
        f"{driver.name}, driver {driver.version}:", ", ".join(f"{n} {s}" for s, n in count.items())
    )
    return int(bool(count["different"] or count["error"]))


if __name__ == "__main__":
    sys.exit(main())
