"""The op cases under pytest-benchmark, for its statistics, its storage and its comparison of runs:

    pytest bench --benchmark-only -k "int8_linear and ours" --benchmark-json FILE

The time is that of one call, on a GPU until its result is there: what a launch costs is in it,
which `python -m bench` leaves out. Joules are of one window after it, as in the quick protocol.
"""

import pytest
import torch

from green_kernels.bench import data, device
from green_kernels.bench.case import Unavailable, Way, load_cases
from green_kernels.bench.figures import Energy
from green_kernels.bench.joules import Joules
from green_kernels.bench.protocol import QUICK
from green_kernels.bench.runner import BATCH_SECONDS, Ready

MODELS = ("minilm", "smollm2", "efficientnet")
ENTRIES = {
    f"{case} {shape}": entry
    for (case, shape), entry in load_cases().items()
    if entry.default and case not in MODELS
}


def pytest_generate_tests(metafunc):
    """Make a test of each way of each case, which must be built for its ways to be known."""
    ways = {
        f"{name}, {way}": (name, way)
        for name, entry in ENTRIES.items()
        for way in entry.build("cpu").ways
    }
    metafunc.parametrize("built, name", ways.values(), ids=ways, indirect=["built"])


@pytest.fixture(scope="module")
def tested():
    """The device under test: the GPU where there is one."""
    return device.find("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="module")
def built(request, tested):
    """A case, and what its baseline computes; made once for all of its ways."""
    with data.recipe("normal", seed=0):
        case = ENTRIES[request.param].build(tested.name)
    baseline = next(iter(case.ways))
    with torch.inference_mode():
        return case, case.output(made(case, baseline).call()).clone()


def made(case, way):
    """A way of a case, ready to be called."""
    with torch.inference_mode(False), torch.no_grad():  # some peers change their weights
        way = case.ways[way]()
    return way if isinstance(way, Way) else Way(way)


def test_way(built, name, tested, benchmark):
    """Compute what the baseline does, in how much time and with how many joules."""
    case, expected = built
    try:
        way = made(case, name)
        with torch.inference_mode():
            error = case.error(case.output(way.call()), expected)
    except Unavailable as reason:
        pytest.skip(str(reason))
    tolerance = case.tolerance if way.tolerance is None else way.tolerance
    assert error <= tolerance, f"{name} is off by {error:.3g}, more than {tolerance:.3g}"

    def call():
        way.call()
        tested.executor.synchronize()

    with torch.inference_mode():
        benchmark(call)
        energy = Energy() if benchmark.disabled else joules(tested, case, name, way)
    benchmark.extra_info.update(
        way=name,
        dtype=way.dtype or case.dtype,
        flops=case.flops,
        error=error,
        tolerance=tolerance,
        joules=None if energy.joules is None else energy.joules.value,
        energy_status=energy.status,
        energy_reason=energy.reason,
    )


def joules(tested, case, name, way):
    """The energy of a call, of one short window; or why it is not known."""
    if tested.meter is None:
        return Energy(reason=tested.no_meter)
    batch = Ready([way.call], case.graph).batch(tested, BATCH_SECONDS)
    return Joules(tested, QUICK, {name: batch}).measure()[name]
