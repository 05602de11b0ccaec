"""The bench's cases under pytest-benchmark: each is checked, and joules stand beside its time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fakes.gpu import EventClock, FakeCall, fake_gpu
from fakes.nvml import FakeBoard, FakeNvml

from green_kernels.bench import test_cases as cases
from green_kernels.bench import ways
from green_kernels.bench.case import Case, Entry
from green_kernels.bench.device import Device
from green_kernels.bench.ways import Refused

ROOT = Path(__file__).parent.parent
KEYS = {"joules", "energy_status", "energy_reason", "error", "tolerance", "flops", "dtype", "way"}


@pytest.mark.parametrize("name", cases.ENTRIES)
def test_ours_agrees_with_the_baseline(name, device):
    entry, tested = cases.ENTRIES[name], Device(device)
    case = ways.build(entry.build, tested)
    assert case.kind == "op" and tuple(case.ways) == entry.ways
    ours = ways.make(case, "ours")
    assert ours.tolerance == case.tolerance
    outputs = [ways.output(case, ours, tested)]
    error, reason = ways.error_of(case, ours, outputs, [ways.expected(case, tested)])
    assert reason is None and error <= case.tolerance


def test_tests_are_collected_without_building_a_case(monkeypatch):
    def build(device):
        raise AssertionError("built")

    class Metafunc:
        def parametrize(self, names, values, ids, indirect):
            self.values, self.ids = list(values), list(ids)

    entry = Entry(build, True, ways=("torch fp32", "ours"))
    monkeypatch.setattr(cases, "ENTRIES", {"a_case small": entry})
    metafunc = Metafunc()
    cases.pytest_generate_tests(metafunc)
    assert metafunc.ids == ["a_case small, torch fp32", "a_case small, ours"]
    assert metafunc.values == [("a_case small", "torch fp32"), ("a_case small", "ours")]


class Benchmark:
    """Stands in for the fixture of pytest-benchmark."""

    def __init__(self, disabled=False):
        self.disabled, self.extra_info, self.calls = disabled, {}, 0

    def __call__(self, call):
        self.calls += 1
        return call()


def run(output, disabled=False, call=None):
    """Run a way that gives an output where ones are due, 0.2 ms and 450 W, on a simulated GPU."""
    clock = EventClock()
    device = fake_gpu(FakeNvml(clock, [FakeBoard()]), clock)
    call = call or FakeCall(2e-4, 450.0, output)
    case = Case("float32", flops=8, bytes=8, tolerance=0.01, ways={"ours": lambda: call})
    benchmark = Benchmark(disabled)
    cases.test_way((case, torch.ones(4)), "ours", device, benchmark)
    return benchmark


def test_joules_stand_beside_the_time():
    info = run(torch.ones(4)).extra_info
    assert info.keys() == KEYS
    assert info["joules"] == pytest.approx(2e-4 * 450.0, rel=0.003)
    assert (info["energy_status"], info["energy_reason"]) == ("measured", None)


def test_what_is_not_timed_gets_no_joules():
    info = run(torch.ones(4), disabled=True).extra_info
    assert (info["joules"], info["energy_reason"]) == (None, "not run")


@pytest.mark.parametrize("wrong", [torch.full((4,), 1.02), torch.full((4,), torch.nan)], ids=str)
def test_a_wrong_result_fails_before_it_is_timed(wrong):
    with pytest.raises(AssertionError, match="ours is refused: off by"):
        run(wrong)


def test_a_wrong_shape_fails_even_where_it_would_broadcast():
    with pytest.raises(AssertionError, match=r"its output has shape \(1,\), not \(4,\)"):
        run(torch.ones(1))


def test_a_way_that_fails_is_refused_with_what_it_said():
    def broken():
        raise RuntimeError("no kernel\nfor this shape")

    with pytest.raises(Refused, match="^RuntimeError: no kernel$"):
        run(None, call=broken)


def pytest_in(folder, *options):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    # Under xdist, whose workers say so in the environment, nothing is benchmarked.
    environment = {key: value for key, value in os.environ.items() if "XDIST" not in key}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def test_a_run_writes_joules_to_its_json(tmp_path):
    file = tmp_path / "benchmark.json"
    options = ["--benchmark-only", f"--benchmark-json={file}", "--benchmark-max-time=0.05"]
    done = pytest_in(ROOT, "bench", "-k", "overhead", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {b["extra_info"]["way"]: b for b in json.loads(file.read_text())["benchmarks"]}
    assert {"torch fp32", "ours"} <= found.keys()
    for benchmark in found.values():
        info = benchmark["extra_info"]
        assert benchmark["stats"]["median"] > 0
        assert info.keys() == KEYS and info["flops"] == 2 * 64 * 64
        assert (info["joules"] is None) == bool(info["energy_reason"])
        assert (info["energy_status"] == "measured") == (info["joules"] is not None)


def test_no_second_bench_is_imported_and_plain_pytest_leaves_it_alone(tmp_path):
    """`bench` at the root would have a registry of cases of its own."""
    plugin = tmp_path / "spy.py"
    plugin.write_text(
        "import sys\n"
        "def pytest_collection_finish(session):\n"
        "    ours = [m for m in sys.modules if m.startswith('bench.')]\n"
        "    print('second bench:', sorted(set(ours) - {'bench.conftest', 'bench.test_cases'}))\n"
    )
    spied = ["-p", "spy", "--collect-only", "-s", f"--override-ini=pythonpath={tmp_path}"]
    done = pytest_in(ROOT, "bench", *spied)
    assert "second bench: []" in done.stdout, done.stdout + done.stderr
    assert "test_way[int8_linear 1x4096x4096, torchao int8]" in done.stdout
    for name in cases.ENTRIES:
        assert f"test_way[{name}, ours]" in done.stdout
    config = (ROOT / "pyproject.toml").read_text()
    assert 'testpaths = ["tests"]' in config and "--benchmark-disable" not in config
