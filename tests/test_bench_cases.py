"""bench: the real cases, and the command as a person starts it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from green_kernels.bench.case import load_cases
from green_kernels.bench.cases.int8_linear import int8_linear
from green_kernels.bench.runner import Runner

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name, shape", [("overhead", "1x64x64"), ("quantize_rows", "4096x384")])
def test_real_cases_agree_with_their_baselines(name, shape):
    ways = ["torch fp32", "ours"]
    quick = Runner("cpu", "not metered here", seconds=1e-3, rounds=1, ways=ways)
    records = quick.run(name, shape, load_cases()[name, shape].build("cpu"))
    assert [(r.way, r.status) for r in records] == [(way, "timed") for way in ways]


def test_int8_peers_are_really_int8():
    """A peer that quietly stayed in float32 would have no error."""
    ways = ["quantize_dynamic (onednn)", "torchao int8", "torch._int_mm", "ours"]
    quick = Runner("cpu", "not metered here", seconds=1e-3, rounds=1, ways=ways)
    records = quick.run("int8_linear", "tiny", int8_linear(32, 64, 48, torch.float32, "cpu"))
    by_way = {r.way: r for r in records}
    for way in ways:
        r = by_way[way]
        assert (r.status == "timed" and r.error > 1e-4) or "pip install" in r.reason, r


def test_help_works_from_the_root():
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "python -m bench report FILE" in done.stdout
