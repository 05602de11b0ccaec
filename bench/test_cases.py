"""The op cases under pytest-benchmark, for its statistics, its storage and its comparison of runs:

    pytest bench --benchmark-only -k "int8_linear and ours" --benchmark-json FILE

The time is that of one call, on a GPU until its result is there: what a launch costs is in it,
which `python -m bench` leaves out. Joules are of one window after it, as in the quick protocol.
"""

import pytest
import torch

from green_kernels.bench import device, ways
from green_kernels.bench.case import Unavailable, load_cases
from green_kernels.bench.figures import Energy
from green_kernels.bench.protocol import QUICK
from green_kernels.bench.ways import Ready

ENTRIES = {
    f"{case} {shape}": entry
    for (case, shape), entry in load_cases().items()
    if entry.default and entry.kind == "op"
}


def pytest_generate_tests(metafunc):
    """Make a test of each way of each case; a case is built when the first of them runs."""
    tests = {f"{name}, {way}": (name, way) for name, entry in ENTRIES.items() for way in entry.ways}
    metafunc.parametrize("built, name", tests.values(), ids=tests, indirect=["built"])


@pytest.fixture(scope="module")
def tested():
    """The device under test: the GPU where there is one."""
    return device.find("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="module")
def built(request, tested):
    """A case, and what its baseline computes; made once for all of its ways."""
    case = ways.build(ENTRIES[request.param].build, tested)
    return case, ways.expected(case, tested)


def test_way(built, name, tested, benchmark):
    """Compute what the baseline does, in how much time and with how many joules."""
    case, expected = built
    try:
        way = ways.make(case, name)
        output = ways.output(case, way, tested)
    except Unavailable as reason:
        pytest.skip(str(reason))
    error, reason = ways.error_of(case, way, [output], [expected])
    assert reason is None, f"{name} is refused: {reason}"

    def call():
        way.call()
        tested.executor.synchronize()

    with torch.inference_mode():
        benchmark(call)
        energy = Energy()
        if not benchmark.disabled:
            ready = {name: Ready([way.call], case.graph)}
            energy = ways.joules(ready, tested, QUICK)[name]
    benchmark.extra_info.update(
        way=name,
        dtype=way.dtype,
        flops=case.flops,
        error=error,
        tolerance=way.tolerance,
        joules=None if energy.joules is None else energy.joules.value,
        energy_status=energy.status,
        energy_reason=energy.reason,
    )
