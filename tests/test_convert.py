"""convert: what becomes int8, and that it is all or nothing. (test_survey.py: what is left.)"""

import gc
import signal
import weakref

import pytest
import torch
from torch import nn

from green_kernels import Int8, convert
from green_kernels.nn import Int8Linear
from green_kernels.recipes import Recipe

F = 128  # the least that Int8() converts


class Block(nn.Module):
    """Two layers and a tuple: the sum, and what was added."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(F, 2 * F), nn.Linear(2 * F, F, bias=False)

    def forward(self, x):
        y = self.down(torch.relu(self.up(x)))
        return x + y, y


class Nested(nn.Module):
    """Blocks within blocks, a head that is too small, and a tuple for an output."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.parts = nn.ModuleDict({"norm": nn.LayerNorm(F), "mix": nn.Sequential(Block())})
        self.head = nn.Linear(F, 3)

    def forward(self, x):
        for block in self.blocks:
            x, _ = block(x)
        x, y = self.parts["mix"](self.parts["norm"](x))
        return self.head(x), y


class Shared(nn.Module):
    """One layer, and one block, each under two names."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(F, F)
        self.b = self.a
        self.first = Block()
        self.again = self.first

    def forward(self, x):
        return self.again(self.first(self.b(self.a(x)))[0])[0]


class Tied(nn.Module):
    """A language model's ends: the head has the weight of the embedding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(2 * F, F)
        self.body = nn.Linear(F, F)
        self.head = nn.Linear(F, 2 * F, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.body(self.embed(tokens)))


def sequential():
    return nn.Sequential(nn.Linear(F, F), nn.ReLU(), nn.Sequential(nn.Linear(F, F), nn.Tanh()))


MODELS = {
    "nested": (Nested, torch.randn(2, 5, F), 6),
    "shared": (Shared, torch.randn(5, F), 3),
    "tied": (Tied, torch.arange(12).view(3, 4), 1),
    "tuple output": (Block, torch.randn(5, F), 2),
    "sequential": (sequential, torch.randn(5, F), 2),
}


def flat(y):
    return torch.cat([t.flatten() for t in y]) if isinstance(y, tuple) else y.flatten()


def picture(model):
    """All that must be as before: modules, parameters and buffers by identity, and their values."""
    modules = [(name, id(m)) for name, m in model.named_modules(remove_duplicate=False)]
    tensors = [(key, id(t)) for key, t in model.named_parameters(remove_duplicate=False)]
    values = {key: t.clone() for key, t in model.state_dict().items()}
    return modules, tensors, values


def assert_same(before, after):
    assert before[:2] == after[:2] and before[2].keys() == after[2].keys()
    for key, value in before[2].items():
        assert torch.equal(value.nan_to_num(), after[2][key].nan_to_num()), key


@pytest.mark.parametrize("build, x, count", MODELS.values(), ids=MODELS)
def test_converts(build, x, count):
    model = build().eval()
    expected = flat(model(x))
    report = convert(model, Int8())
    assert len(report.converted) == count
    for change in report.converted:
        for name in (change.name, *change.also):
            assert type(model.get_submodule(name)) is Int8Linear
    # Two to eight layers, each within about 1 % in the mean: more says that one is wrong.
    assert torch.cosine_similarity(flat(model(x)), expected, dim=0) > 0.999


@pytest.mark.parametrize("build, x, count", MODELS.values(), ids=MODELS)
def test_converting_twice_changes_nothing(build, x, count):
    model = build()
    convert(model, Int8())
    before = picture(model)
    report = convert(model, Int8())
    assert not report.converted
    assert [c.reason for c in report].count("already converted") == count
    assert_same(before, picture(model))


def test_a_layer_of_two_names_is_converted_once():
    model = Shared()
    report = convert(model, Int8())
    assert model.a is model.b and model.first is model.again
    assert report["a"] is report["b"] and report["b"].also == ("b",)
    assert report["first.up"].also == ("again.up",)


def test_tied_weights_stay_tied():
    model = Tied()
    report = convert(model, Int8())
    assert model.head.weight is model.embed.weight
    assert report["head"].reason == "weight tied to embed.weight"


def test_where_is_asked_once_and_excludes():
    model, asked = Nested(), []

    def where(name, layer):
        assert model.get_submodule(name) is layer
        asked.append(name)
        return "up" in name

    report = convert(model, Int8(), where)
    downs = [name for name in asked if "down" in name]
    assert len(asked) == 6 and len(downs) == 3  # not for the head, too small anyway
    assert [c.name for c in report.left if c.reason == "excluded by where"] == downs
    assert all("up" in c.name for c in report.converted)


def test_first_matching_pattern_decides():
    model = Nested()
    report = convert(model, {"*.down": None, "head": Int8(min_features=1), "blocks.*": Int8()})
    assert [c.name for c in report.converted] == ["blocks.0.up", "blocks.1.up", "head"]
    assert report["blocks.0.down"].reason == "excluded by pattern '*.down'"
    assert report["parts.mix.0.up"].reason == "no pattern matches"
    assert model.head.recipe == Int8(min_features=1)


def test_pattern_knows_all_names_of_a_layer():
    report = convert(Shared(), {"again.*": Int8()})
    assert [c.name for c in report.converted] == ["first.up", "first.down"]


WRONG_RECIPES = {
    "no recipe": (None, TypeError, "recipe must be a recipe, as Int8.., or a mapping, got None"),
    "the class": (Int8, TypeError, "recipe must be a recipe"),
    "of no layer": (Recipe(), TypeError, r"recipe must be a recipe, .*got Recipe\(\)"),
    "pattern not text": ({3: Int8()}, TypeError, "a pattern must be a str, got 3"),
    "no recipe in it": ({"*": "int8"}, TypeError, "recipe..... must be a recipe or None, got 'int"),
    "nothing matches": ({"*": Int8(), "heads": None}, ValueError, "'heads' matches no linear"),
}


@pytest.mark.parametrize("recipe, error, message", WRONG_RECIPES.values(), ids=WRONG_RECIPES)
def test_refuses_recipe(recipe, error, message):
    model = Nested()
    before = picture(model)
    with pytest.raises(error, match=message):
        convert(model, recipe)
    assert_same(before, picture(model))


def test_model_that_is_a_layer_cannot_be_replaced():
    with pytest.raises(ValueError, match="model is itself a linear layer.*Int8Linear.from_float"):
        convert(nn.Linear(F, F), Int8())
    assert convert(nn.Linear(3, 3), Int8()).left[0].reason.startswith("too small")


@pytest.mark.parametrize("build", [model[0] for model in MODELS.values()], ids=MODELS)
def test_failure_on_a_layer_leaves_the_model_as_it_was(build, monkeypatch):
    model = build()
    before = picture(model)
    real, calls = Int8Linear.from_float, []

    def failing(linear, recipe=None, act="none"):
        calls.append(linear)
        if len(calls) == last:
            raise MemoryError("no more")
        return real(linear, recipe, act)

    last = min(3, sum(type(m) is nn.Linear and min(m.weight.shape) >= F for m in model.modules()))
    last -= isinstance(model, Tied)  # whose head is never tried
    monkeypatch.setattr(Int8Linear, "from_float", failing)
    with pytest.raises(MemoryError, match="no more"):
        convert(model, Int8())
    assert len(calls) == last
    assert_same(before, picture(model))


def test_failure_of_where_leaves_the_model_as_it_was():
    model = Nested()
    before = picture(model)

    def where(name, layer):
        return {"blocks.0.up": True, "blocks.0.down": True}[name]

    with pytest.raises(KeyError, match="blocks.1.up"):
        convert(model, Int8(), where)
    assert_same(before, picture(model))


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weight_that_is_not_finite_is_refused_by_name(value):
    model = Nested()
    with torch.no_grad():
        model.parts["mix"][0].down.weight[7, 1] = value
    before = picture(model)
    message = "parts.mix.0.down: weight must be finite, got NaN or Inf in row 7"
    with pytest.raises(ValueError, match=message):
        convert(model, Int8())
    assert_same(before, picture(model))


def test_floats_are_freed_layer_by_layer(monkeypatch):
    model = nn.Sequential(*(nn.Linear(F, F) for _ in range(6)))
    weights = [weakref.ref(layer.weight) for layer in model]
    gc.disable()  # what is freed must be freed by itself
    real, alive = Int8Linear.from_float, []

    def counting(linear, recipe=None, act="none"):
        alive.append(sum(ref() is not None for ref in weights))
        return real(linear, recipe, act)

    monkeypatch.setattr(Int8Linear, "from_float", counting)
    try:
        convert(model, Int8())
        assert sum(ref() is not None for ref in weights) == 0
    finally:
        gc.enable()
    assert alive == [6] * 6 + [6, 5, 4, 3, 2, 1]  # the trial, then the swap


def test_trial_results_are_dropped_one_by_one(monkeypatch):
    model = nn.Sequential(*(nn.Linear(F, F) for _ in range(4)))
    real, made, alive = Int8Linear.from_float, [], []

    def counting(linear, recipe=None, act="none"):
        alive.append(sum(ref() is not None for ref in made))
        layer = real(linear, recipe, act)
        made.append(weakref.ref(layer))
        return layer

    monkeypatch.setattr(Int8Linear, "from_float", counting)
    convert(model, Int8())
    assert alive == [0, 0, 0, 0, 0, 1, 2, 3]


def test_interrupt_waits_until_the_model_is_whole(monkeypatch):
    model = nn.Sequential(*(nn.Linear(F, F) for _ in range(3)))
    real, calls = Int8Linear.from_float, []

    def interrupted(linear, recipe=None, act="none"):
        calls.append(linear)
        if len(calls) == 5:  # the second of the second pass
            signal.raise_signal(signal.SIGINT)
        return real(linear, recipe, act)

    monkeypatch.setattr(Int8Linear, "from_float", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(model, Int8())
    assert all(type(layer) is Int8Linear for layer in model)


def test_interrupt_before_the_swap_leaves_the_model_as_it_was():
    model = Nested()
    before = picture(model)
    with pytest.raises(KeyboardInterrupt):
        convert(model, Int8(), lambda name, layer: signal.raise_signal(signal.SIGINT))
    assert_same(before, picture(model))


def test_trains_what_is_left_and_the_biases():
    model = Nested().train()
    convert(model, Int8())
    sum(y.square().mean() for y in model(torch.randn(4, F))).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.training and all(m.training for m in model.modules())


def test_half_precision_model():
    model = sequential().bfloat16()
    x = torch.randn(5, F, dtype=torch.bfloat16)
    expected = model(x)
    convert(model, Int8())
    y = model(x)
    assert y.dtype == torch.bfloat16
    assert torch.cosine_similarity(y.flatten().float(), expected.flatten().float(), dim=0) > 0.999


def test_report_counts_bytes_and_prints_a_table():
    model = Nested()
    report = convert(model, Int8())
    up = report["blocks.0.up"]
    assert up.bytes_before == 4 * (2 * F * F + 2 * F)
    assert up.bytes_after == model.blocks[0].up.nbytes
    assert report["head"].bytes_before == report["head"].bytes_after == 4 * (3 * F + 3)
    assert report.bytes_after == sum(c.bytes_after for c in report) < report.bytes_before
    assert len(report) == 7 and len(report.converted) == 6 and len(report.left) == 1
    lines = str(report).splitlines()
    assert len(lines) == 7 + 4 and len({len(line) for line in lines}) == 1
    assert lines[0].split() == ["layer", "was", "became", "bytes", "before", "after"]
    assert "left: too small: 128 to 3 features, min_features is 128" in str(report)
    assert lines[-1].startswith("6 converted, 1 left")
    with pytest.raises(KeyError, match="nothing"):
        report["nothing"]
