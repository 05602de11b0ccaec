"""Fixtures. A test that takes `backend` runs on every backend this machine has."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

# `python -m pytest` puts the root on sys.path, where green_kernels/ lacks what setup.py adds to it.
root = Path(__file__).resolve().parent.parent
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != root]

sys.path.append(str(root / "tests"))  # for the emulator, which is no test

if not torch.cuda.is_available():  # then Triton kernels run in its interpreter, on the CPU
    os.environ["TRITON_INTERPRET"] = "1"

import emulator  # noqa: E402
from emulator import cuda_ops  # noqa: E402

import green_kernels as gk  # noqa: E402
from green_kernels.ops._op import add_backend  # noqa: E402

# CUDA kernels and ahead-of-time Triton kernels, which the emulator runs with no GPU: each backend
# with the reason for which it is not there, or None.
NO_TRITON = None if find_spec("triton") else "needs Triton"
EMULATED = {
    "emulated_sm_80": emulator.MISSING,
    "emulated_sm_90a": emulator.MISSING,
    "emulated_triton_sm_80": emulator.MISSING or NO_TRITON,
    "emulated_triton_sm_90": emulator.MISSING or NO_TRITON,
}


def kernels_of(backend):
    """The ops' kernels by name. (triton_ops needs Triton.)"""
    if "triton" not in backend:
        return cuda_ops.CudaOps(emulator.H100 if "90" in backend else emulator.A100).all()
    from emulator import triton_ops

    return triton_ops.kernels(int(backend[-2:]))


for name, missing in EMULATED.items():
    if not missing:
        add_backend(name, kernels_of(name))


def pytest_configure(config):
    """Build what all workers of pytest-xdist use, before there are any."""
    if getattr(config.option, "numprocesses", None) and not emulator.MISSING:
        emulator.kernels()


def pytest_collection_modifyitems(config, items):
    """Skip what is marked gpu where there is none; leave out what tests the same thing twice."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU"))
    again = {item for item in items if is_packed(item) and parameter(item, "backend") in EMULATED}
    config.hook.pytest_deselected(items=list(again))
    items[:] = [item for item in items if item not in again]


def parameter(item, name):
    """The value of a test's parameter, or None."""
    return item.callspec.params.get(name) if hasattr(item, "callspec") else None


def is_packed(item):
    """Whether a test hands over packed weights, which only the CPU's kernels read."""
    return parameter(item, "packed") is True


@pytest.fixture
def device(request):
    """The device under test: the GPU where there is one, but for what is emulated."""
    on_gpu = torch.cuda.is_available() and parameter(request.node, "backend") not in EMULATED
    return "cuda" if on_gpu else "cpu"


@pytest.fixture(params=[*gk.ops.BACKENDS, *EMULATED])
def backend(request):
    """Each backend in turn, in use for the length of the test."""
    if EMULATED.get(request.param):
        pytest.skip(EMULATED[request.param])
    with gk.ops.use(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def fresh():
    """The same random numbers for every test, and nothing compiled, whatever ran before."""
    torch.manual_seed(0)
    torch._dynamo.reset()


@pytest.fixture(autouse=True)
def fast_int8(monkeypatch):
    """What convert leaves in float, the same on every CPU: as if int8 were fast on this one."""
    monkeypatch.setattr(gk.ops, "is_fast_on_cpu", lambda: True)


@pytest.fixture
def weights(device):
    """Make (w_q, w_scale, bias) of N outputs and K inputs."""

    def make(N, K, dtype=torch.float32):
        w_q = torch.randint(-127, 128, (N, K), dtype=torch.int8, device=device)
        w_scale = torch.rand(N, device=device) / 127 + 1e-4
        return w_q, w_scale, torch.randn(N, device=device).to(dtype)

    return make


@pytest.fixture
def assert_same_bits():
    """Assert that two tensors agree in dtype, shape and every value, NaN being NaN."""

    def check(actual, expected):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)

    return check


@pytest.fixture
def assert_within_one_ulp():
    """Assert that each value is the expected one or a neighbour of it in its dtype."""

    def ordered(x):
        bits = x.view({2: torch.int16, 4: torch.int32}[x.element_size()]).long()
        least = -(1 << (8 * x.element_size() - 1))
        return torch.where(bits < 0, least - bits, bits)

    def check(actual, expected):
        assert actual.dtype == expected.dtype and actual.shape == expected.shape
        apart = (ordered(actual) - ordered(expected)).abs()
        assert not apart.numel() or apart.max() <= 1, f"{apart.max()} units in the last place"

    return check
