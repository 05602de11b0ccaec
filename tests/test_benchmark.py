"""The bench's ops under pytest-benchmark, for its storage and its comparison of runs:

    pytest tests/test_benchmark.py --benchmark-enable --benchmark-autosave
    pytest-benchmark compare

Otherwise each is called once, and its result checked; nothing is timed.
"""

import pytest
import torch

from green_kernels.bench.case import load_cases

CASES = {
    f"{case} {shape}": entry
    for (case, shape), entry in load_cases().items()
    if entry.default and case != "minilm"
}


@pytest.mark.parametrize("entry", CASES.values(), ids=CASES)
def test_ours(entry, device, benchmark):
    with torch.inference_mode():
        case = entry.build(device)
        expected = case.output(next(iter(case.ways.values()))()())
        result = case.output(benchmark(case.ways["ours"]()))
        assert case.error(result, expected) <= case.tolerance
