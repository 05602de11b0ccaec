"""The comparison with a GPU, on a libcuda that is a Python object: each path of it runs here."""

import ctypes
import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parent))  # for the package of the emulator

from emulator import conformance, snippets  # noqa: E402

NAMES = {
    1: b"CUDA_ERROR_INVALID_VALUE",
    218: b"CUDA_ERROR_INVALID_PTX",
    700: b"CUDA_ERROR_ILLEGAL_ADDRESS",
}
KERNELS = {snippets.kernel_of(snippet): snippet for snippet in snippets.SNIPPETS}


class Libcuda:
    """A GPU that computes by the models. `broken` maps a function's name to the code it returns."""

    def __init__(self, capability=(9, 0), count=1, broken=None, flip=0):
        self.capability, self.count, self.broken, self.flip = capability, count, broken or {}, flip
        self.memory, self.loaded, self.contexts, self.calls = {}, [], 0, []

    def __getattribute__(self, name):
        found = object.__getattribute__(self, name)
        if not name.startswith("cu"):
            return found

        def call(*arguments):
            self.calls.append(name)
            return self.broken[name] if name in self.broken else found(*arguments) or 0

        return call

    def cuInit(self, flags):
        assert flags.value == 0

    def cuGetErrorName(self, code, text):
        text._obj.value = NAMES[code.value]

    def cuDriverGetVersion(self, version):
        version._obj.value = 13000

    def cuDeviceGetCount(self, count):
        count._obj.value = self.count

    def cuDeviceGet(self, device, ordinal):
        device._obj.value = ordinal.value

    def cuDeviceGetName(self, name, length, device):
        name.value = b"Fake H100"

    def cuDeviceGetAttribute(self, value, which, device):
        value._obj.value = self.capability[which.value - 75]

    def cuDevicePrimaryCtxRetain(self, context, device):
        self.contexts += 1
        context._obj.value = 0x100 + self.contexts

    def cuCtxSetCurrent(self, context):
        assert context.value == 0x100 + self.contexts

    def cuDevicePrimaryCtxRelease_v2(self, device):
        pass

    def cuDevicePrimaryCtxReset_v2(self, device):
        self.memory.clear()
        self.loaded.clear()

    def cuModuleLoadDataEx(self, module, image, count, options, values):
        assert image.value.startswith(b".version") and list(options) == [5, 6]
        self.loaded.append(image.value.decode())
        module._obj.value = len(self.loaded)

    def cuModuleGetFunction(self, function, module, name):
        assert f".entry {name.value.decode()}(" in self.loaded[module.value - 1]
        self.kernel = name.value.decode()
        function._obj.value = 7

    def cuModuleUnload(self, module):
        assert module.value == len(self.loaded)
        self.loaded.pop()

    def cuMemAlloc_v2(self, pointer, size):
        pointer._obj.value = (len(self.memory) + 1) << 40  # more than 32 bits
        self.memory[pointer._obj.value] = bytearray(size.value)

    def cuMemFree_v2(self, pointer):
        del self.memory[pointer.value]

    def cuMemcpyHtoD_v2(self, target, source, size):
        self.memory[target.value][: size.value] = ctypes.string_at(source.value, size.value)

    def cuMemcpyDtoH_v2(self, target, source, size):
        ctypes.memmove(target.value, bytes(self.memory[source.value]), size.value)

    def cuLaunchKernel(self, function, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra):
        snippet = KERNELS[self.kernel]
        assert (gx.value, bx.value, shared.value) == (snippet.blocks, snippet.threads, 0)
        source, target = (ctypes.c_uint64.from_address(p).value for p in parameters)
        rows = snippet.blocks * snippet.threads
        inputs = np.frombuffer(self.memory[source], np.uint64).reshape(rows, -1)
        outputs = snippets.expected_of(snippet, inputs)
        outputs[-1, -1] ^= np.uint64(self.flip)
        before = np.frombuffer(self.memory[target], np.uint64)
        assert (before == snippets.poisoned(snippet).ravel()).all()
        self.memory[target][:] = outputs.tobytes()

    def cuCtxSynchronize(self):
        pass


def emulate(snippet, inputs, seed):
    return snippets.expected_of(snippet, inputs)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the program on such a library: its status and its records."""
    monkeypatch.setattr(conformance.emulator, "MISSING", None)
    monkeypatch.setattr(conformance.emulator, "runtime", lambda: None)

    def run(library, *arguments, emulate=emulate):
        path = tmp_path / "new" / "conformance.jsonl"
        status = conformance.main(["--json", str(path), *arguments], library, emulate)
        lines = path.read_text().splitlines() if path.exists() else []
        return status, [json.loads(line) for line in lines]

    return run


def test_all_equal(run, capsys):
    library = Libcuda()
    status, records = run(library, "--only", "cvt.r")
    assert status == 0 and not library.memory and not library.loaded
    assert library.calls.count("cuModuleLoadDataEx") == len(records)  # not for each seed
    assert library.calls.count("cuLaunchKernel") == 2 * len(records)
    assert {r["status"] for r in records} == {"equal"} and all(r["emulator"] for r in records)
    assert records[0] == {
        "name": "cvt.rni.s8.f32",
        "section": "Data Movement and Conversion Instructions: cvt",
        "arch": "sm_80",
        "device": "Fake H100",
        "driver": "13.0",
        "seeds": [1, 2],
        "vectors": 128,
        "identical": True,
        "status": "equal",
        "emulator": True,
    }
    assert f"Fake H100, driver 13.0: {len(records)} equal" in capsys.readouterr().out


def test_every_kind_of_snippet_is_run(run):
    """One of each section: 128 threads, no swizzle and all, through the same few calls."""
    firsts = {snippet.section: snippet.name for snippet in reversed(snippets.SNIPPETS)}
    for name in firsts.values():
        assert run(Libcuda(), "--only", name, "--seeds", "5")[0] == 0, name


def test_a_difference_from_the_model(run, capsys):
    status, records = run(Libcuda(flip=4), "--only", "sad.s32")
    assert status == 1 and [r["status"] for r in records] == ["different"]
    assert "seed 1, the GPU against the model: thread 63, output 0 (s32)" in records[0]["reason"]
    assert "1 of 64 differ" in records[0]["reason"]
    assert "different: sad.s32" in capsys.readouterr().out


def test_bytes_that_must_not_be_written(run):
    assert run(Libcuda(flip=1 << 40), "--only", "sad.s32")[0] == 1


def test_an_approximation_may_err_as_the_manual_says(run):
    status, records = run(Libcuda(flip=1), "--only", "sqrt.approx.f32", "--seeds", "3")
    assert status == 0 and records[0]["identical"] is False
    assert run(Libcuda(flip=16), "--only", "sqrt.approx.f32", "--seeds", "3")[0] == 1


def test_a_difference_from_the_emulator(run):
    def off_by_one(snippet, inputs, seed):
        return snippets.expected_of(snippet, inputs) ^ np.uint64(1)

    status, records = run(Libcuda(), "--only", "sad.s32", emulate=off_by_one)
    assert status == 1 and "the GPU against the emulator: thread 0" in records[0]["reason"]


def test_an_emulator_that_fails(run):
    def fail(snippet, inputs, seed):
        raise RuntimeError("unknown instruction")

    status, records = run(Libcuda(), "--only", "sad.s32", emulate=fail)
    assert status == 1 and records[0]["status"] == "error" and records[0]["vectors"] == 128
    assert records[0]["reason"] == "seed 1, emulator: unknown instruction"
    status, records = run(Libcuda(flip=4), "--only", "sad.s32", emulate=fail)
    assert status == 1 and records[0]["status"] == "different"
    assert "the GPU against the model: thread 63" in records[0]["reason"]
    assert records[0]["reason"].endswith("; seed 1, emulator: unknown instruction")


@pytest.mark.parametrize("is_missing", [True, False])
def test_models_alone_without_the_emulator(run, monkeypatch, capsys, is_missing):
    def fail():
        raise RuntimeError("no compiler")

    if is_missing:
        monkeypatch.setattr(conformance.emulator, "MISSING", "no compiler")
    else:
        monkeypatch.setattr(conformance.emulator, "runtime", fail)
    status, records = run(Libcuda(), "--only", "sad.s32")
    assert status == 0 and records[0]["emulator"] is False
    assert "with the models alone: no compiler" in capsys.readouterr().err


@pytest.mark.parametrize("capability, skipped", [((8, 0), True), ((9, 0), False), ((10, 0), True)])
def test_an_architecture_that_the_device_lacks(run, capability, skipped):
    status, records = run(Libcuda(capability), "--only", "wgmma.m64n8k32", "--seeds", "1")
    assert status == 0 and {r["status"] for r in records} == {"skipped" if skipped else "equal"}
    if skipped:
        reason = f"sm_90a code does not run on compute capability {capability[0]}.{capability[1]}"
        assert records[0]["reason"] == reason


def test_ptx_that_the_driver_refuses(run):
    class Refuses(Libcuda):
        def cuModuleLoadDataEx(self, module, image, count, options, values):
            assert values[1] == conformance.LOG_BYTES
            ctypes.memmove(values[0], b"ptxas: line 9\n\0", 15)
            return 218

    status, records = run(Refuses(), "--only", "sad.s32")
    assert status == 1 and records[0]["status"] == "error"
    assert records[0]["reason"] == "cuModuleLoadDataEx: CUDA_ERROR_INVALID_PTX (218): ptxas: line 9"


def test_a_fault_in_a_kernel_and_the_context_after_it(run):
    library = Libcuda(broken={"cuCtxSynchronize": 700})
    status, records = run(library, "--only", "mul.lo.s", "--seeds", "1")
    assert status == 1 and len(records) == 3
    reasons = {r["reason"] for r in records}
    assert reasons == {"cuCtxSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS (700)"}
    assert library.contexts == 4 and not library.memory  # a new one after each


@pytest.mark.parametrize(
    "library, message",
    [
        (Libcuda(count=0), "there is no device"),
        (Libcuda(broken={"cuInit": 1}), "cuInit: CUDA_ERROR_INVALID_VALUE (1)"),
        (Libcuda(broken={"cuDevicePrimaryCtxRetain": 1}), "cuDevicePrimaryCtxRetain"),
    ],
)
def test_no_gpu(run, library, message, capsys):
    assert run(library) == (2, [])
    error = capsys.readouterr().err
    assert "no GPU to compare with" in error and message in error


def test_no_libcuda(run, monkeypatch, capsys):
    monkeypatch.setattr(conformance, "LIBRARY", "libcuda-not-here.so.1")
    assert run(None) == (2, [])
    assert "libcuda-not-here.so.1" in capsys.readouterr().err
