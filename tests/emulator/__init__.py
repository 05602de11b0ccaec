"""A PTX emulator with a stand-in CUDA runtime: the CUDA kernels run in the tests with no GPU.

    with emulator.device(emulator.H100), emulator.buffers(y, readonly=[x]):
        assert emulator.kernels().quantize_rows_cuda(x=x.data_ptr(), ...) is None
        emulator.synchronize()

Environment variables:
  EMULATOR_SEED=n             of the order in which warps run, and asynchronous copies arrive
  EMULATOR_TRACE=block:warp   print what a warp executes; the block is a %ctaid.x
  EMULATOR_SANITIZE=1         the emulator with gcc's sanitizers, which need
                              LD_PRELOAD="libasan.so libstdc++.so"
"""

import importlib.util
import os
import re
import sys
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

from . import build


def checked_seed(seed, name):
    if not re.fullmatch("[0-9]+", seed) or int(seed) >= 2**64:
        raise ValueError(f"{name} must be a whole number below 2**64, got {seed!r}")
    return int(seed)


def checked_trace(trace, name="trace"):
    number = "(0|[1-9][0-9]*)"  # as the emulator writes it
    if trace and not re.fullmatch(f"{number}:{number}", trace):
        raise ValueError(
            f'{name} must be "block:warp", such as "0:3" for warp 3 of %ctaid.x 0, got {trace!r}'
        )
    return trace


MISSING = build.missing()  # why tests must be skipped here, or None
SEED = checked_seed(os.environ.get("EMULATOR_SEED") or "0", "EMULATOR_SEED")
TRACE = checked_trace(os.environ.get("EMULATOR_TRACE", ""), "EMULATOR_TRACE")
SANITIZE = os.environ.get("EMULATOR_SANITIZE") == "1"
# A torch with CUDA makes the real runtime's functions global; what a library was linked with comes
# before them only with DEEPBIND, which the sanitizers refuse.
LOADING = os.RTLD_NOW | (0 if SANITIZE else os.RTLD_DEEPBIND)


class Device(NamedTuple):
    """A GPU, as launches see it. Shared memory is in bytes."""

    name: str
    major: int
    minor: int
    sm_count: int
    shared_optin: int
    shared_per_sm: int


A100 = Device("A100", 8, 0, 108, 163 * 1024, 164 * 1024)
H100 = Device("H100", 9, 0, 132, 227 * 1024, 228 * 1024)
RTX_5090 = Device("RTX 5090", 12, 0, 170, 99 * 1024, 100 * 1024)


@cache
def load(name, path):
    """Import a module from a file."""
    before = sys.getdlopenflags()
    sys.setdlopenflags(LOADING)
    try:
        # pybind11 takes modules of one full name for one module, so each file needs its own.
        spec = importlib.util.spec_from_file_location(f"{path.stem}.{name}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.setdlopenflags(before)
    return module


@cache
def runtime():
    """The module _emulator, built where it must be."""
    return load("_emulator", build.build_emulator(SANITIZE))


@cache
def kernels():
    """The module _kernels, built where it must be."""
    return load("_kernels", build.build_kernels(emulator=runtime().__file__))


@contextmanager
def device(preset, seed=SEED, max_instructions=0):
    """Launch on such a device, from a clean start; what is queued at the end is forgotten."""
    runtime().reset()
    runtime().set_device(*preset)
    runtime().set_options(seed, TRACE, max_instructions)
    try:
        yield runtime()
    finally:
        runtime().reset()


def launch(ptx, kernel, grid, block, **how):
    """Run a kernel of PTX text at once, on no device in particular."""
    how = {"seed": SEED, "trace": TRACE} | how
    checked_trace(how["trace"])
    runtime().launch(ptx, kernel, grid, block, **how)


def nbytes(tensor):
    """From the first element of a tensor, which may have gaps, to its last."""
    if tensor.numel() == 0:
        return 0
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()


@contextmanager
def buffers(*tensors, readonly=()):
    """Let kernels read and write the memory of `tensors`, and read that of `readonly`."""
    pieces = [(t, True) for t in tensors] + [(t, False) for t in readonly]
    registered = []
    try:
        for tensor, writable in pieces:
            if tensor is not None and nbytes(tensor):
                runtime().register_buffer(tensor.data_ptr(), nbytes(tensor), writable)
                registered.append(tensor.data_ptr())
        yield
    finally:
        for address in registered:
            runtime().unregister_buffer(address)


def synchronize():
    """Run all that was launched; raise EmulatorError for what a kernel did wrong."""
    runtime().synchronize()
