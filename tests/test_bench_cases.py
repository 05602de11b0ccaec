"""bench: the real cases."""

from dataclasses import replace

import pytest
import torch

from green_kernels.bench.case import load_cases
from green_kernels.bench.cases.int8_linear import int8_linear
from green_kernels.bench.cases.int8_weight_linear import int8_weight_linear
from green_kernels.bench.device import Device
from green_kernels.bench.protocol import QUICK
from green_kernels.bench.runner import Runner


def quick(ways):
    """A runner that only checks, so to speak, on a CPU whose joules nobody counts."""
    protocol = replace(QUICK, seconds=1e-3, rounds=1)
    return Runner(Device("cpu", no_meter="not metered here"), protocol, ways=ways)


@pytest.mark.parametrize("name, shape", [("overhead", "1x64x64"), ("quantize_rows", "4096x384")])
def test_real_cases_agree_with_their_baselines(name, shape):
    ways = ["torch fp32", "ours"]
    records = quick(ways).run(name, shape, load_cases()[name, shape].build)
    assert [(r.way, r.status) for r in records] == [(way, "timed") for way in ways]


def test_what_is_known_of_a_model_before_it_is_built_is_true(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    models = {key: entry for key, entry in load_cases().items() if entry.kind == "model"}
    assert {name for name, _ in models} == {"minilm", "smollm2", "efficientnet"}
    assert all(entry.build("cpu").kind == "model" for entry in models.values())


def test_int8_peers_are_really_int8():
    """A peer that quietly stayed in float32 would have no error."""
    ways = ["quantize_dynamic (onednn)", "torchao int8", "torch._int_mm", "ours"]
    records = quick(ways).run(
        "int8_linear", "tiny", lambda device: int8_linear(32, 64, 48, torch.float32, device)
    )
    by_way = {r.way: r for r in records}
    for way in ways:
        r = by_way[way]
        assert (r.status == "timed" and r.error > 1e-4) or "pip install" in r.reason, r


def test_int8_weights_are_those_of_every_way():
    """Ours rounds what float32 does; of the others, only the weights or all of bfloat16."""
    ways = ["torch bf16", "torchao int8", "ours"]
    records = quick(ways).run(
        "int8_weight_linear",
        "tiny",
        lambda device: int8_weight_linear(32, 64, 48, torch.float32, device),
    )
    by_way = {r.way: r for r in records}
    assert by_way["ours"].status == "timed" and by_way["ours"].error < 1e-6
    for way in ways[:2]:
        r = by_way[way]
        assert (r.status == "timed" and 1e-4 < r.error < r.tolerance) or "pip install" in r.reason
