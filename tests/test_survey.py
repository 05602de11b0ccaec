"""Survey: the layers that convert leaves alone, each for its reason."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from green_kernels import Int8, convert, survey
from green_kernels.nn import Int8Linear

F = 128  # the least that Int8() converts


def test_layers_that_share_a_parameter_are_left():
    model = nn.Sequential(nn.Linear(F, F), nn.Linear(F, F), nn.Linear(F, F))
    model[1].weight = model[0].weight
    report = convert(model, Int8())
    assert report["0"].reason == "weight tied to 1.weight"
    assert report["1"].reason == "weight tied to 0.weight"
    assert [c.name for c in report.converted] == ["2"]


def test_weights_that_share_memory_only_are_left():
    model = nn.Sequential(nn.Linear(F, F), nn.Linear(F, F))
    model.whole = nn.Parameter(torch.randn(2 * F, F))
    model[1].weight.data = model.whole.data[F:]
    report = convert(model, Int8())
    assert report["1"].reason == "weight tied to whole"
    assert [c.name for c in report.converted] == ["0"]


class Scaled(nn.Linear):
    """A subclass with its own forward."""

    def forward(self, x):
        return 2 * super().forward(x)


def layer_with(change):
    layer = nn.Linear(F, F)
    change(layer)
    return layer


def readonly_forward(layer):
    layer.forward = lambda x: x


LEFT = {
    "too few outputs": (lambda: nn.Linear(F, F - 1), "too small: 128 to 127 features"),
    "too few inputs": (lambda: nn.Linear(F - 1, F), "too small: 127 to 128 features"),
    "subclass": (lambda: Scaled(F, F), r"subclass of nn.Linear \(Scaled\) not asked for by name"),
    "float64": (lambda: nn.Linear(F, F).double(), "weight is torch.float64, not float32"),
    "float8": (lambda: nn.Linear(F, F).to(torch.float8_e4m3fn), "weight is torch.float8_e4m3fn"),
    "bias in float64": (
        lambda: layer_with(lambda m: setattr(m, "bias", nn.Parameter(m.bias.double()))),
        "bias is torch.float64",
    ),
    "meta": (lambda: nn.Linear(F, F, device="meta"), "weight is on the meta device"),
    "lazy": (lambda: nn.LazyLinear(F), "not initialised yet"),
    "parametrized": (lambda: parametrizations.weight_norm(nn.Linear(F, F)), "parametrized"),
    "pruned": (
        lambda: layer_with(lambda m: prune.l1_unstructured(m, "weight", 0.5)),
        "weight or bias is not a plain Parameter, or there are more",
    ),
    "another parameter": (
        lambda: layer_with(lambda m: m.register_parameter("lora", nn.Parameter(torch.ones(1)))),
        "weight or bias is not a plain Parameter, or there are more",
    ),
    "a buffer": (
        lambda: layer_with(lambda m: m.register_buffer("mask", torch.ones(1))),
        "it holds buffers or modules of its own",
    ),
    "a forward hook": (
        lambda: layer_with(lambda m: m.register_forward_hook(lambda *args: None)),
        "it has hooks",
    ),
    "a backward hook": (
        lambda: layer_with(lambda m: m.register_full_backward_hook(lambda *args: None)),
        "it has hooks",
    ),
    "another forward": (lambda: layer_with(readonly_forward), "its forward was replaced"),
}


@pytest.mark.parametrize("build, reason", LEFT.values(), ids=LEFT)
def test_leaves(build, reason):
    model = nn.Sequential(nn.Linear(F, F), build())
    odd = model[1]
    report = convert(model, Int8())
    assert model[1] is odd and type(model[0]) is Int8Linear
    assert [c.name for c in report.left] == ["1"]
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(report["1"].reason)


@pytest.mark.parametrize("name", ["Plain", f"{__name__}.Plain"])
def test_subclass_asked_for_by_name(name):
    plain = type("Plain", (nn.Linear,), {"__module__": __name__})
    model = nn.Sequential(plain(F, F), Scaled(F, F))
    report = convert(model, Int8(subclasses=(name,)))
    assert [c.name for c in report.converted] == ["0"] and report["0"].was == "Plain"


class OwnProjection(nn.Module):
    """Reads the weight of its layer by itself."""

    def __init__(self):
        super().__init__()
        self.inner = nn.ModuleDict({"proj": nn.Linear(F, F)})
        self.proj = nn.Linear(F, F)

    def forward(self, x):
        return self.inner["proj"](x) @ self.proj.weight


def test_leaves_layers_whose_weight_their_owner_reads():
    model = nn.Sequential(OwnProjection())
    report = convert(model, Int8())
    assert report["0.proj"].reason == "OwnProjection.forward reads proj.weight"
    assert [c.name for c in report.converted] == ["0.inner.proj"]
    model(torch.randn(2, F))


@pytest.mark.parametrize("training", [True, False])
def test_transformer_of_torch_still_runs(training):
    names = ("NonDynamicallyQuantizableLinear",)  # asked for, and yet its owner reads its weight
    layer = nn.TransformerEncoderLayer(F, 2, F, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).train(training)
    report = convert(model, Int8(subclasses=names))
    reason = "TransformerEncoderLayer.forward reads self_attn.out_proj.weight"
    assert report["layers.0.self_attn.out_proj"].reason == reason
    assert (
        report["layers.0.linear1"].reason == "TransformerEncoderLayer.forward reads linear1.weight"
    )
    with torch.inference_mode():
        assert model(torch.randn(2, 3, F)).shape == (2, 3, F)


def test_attention_of_torch_still_runs():
    model = nn.MultiheadAttention(F, 2)
    report = convert(model, Int8(subclasses=("NonDynamicallyQuantizableLinear",)))
    assert report["out_proj"].reason == "MultiheadAttention.forward reads out_proj.weight"
    x = torch.randn(2, 3, F)
    assert model(x, x, x)[0].shape == (2, 3, F)


@pytest.mark.parametrize("features, keeps", [(["amx-int8"], True), (["avx512vnni"], False)])
def test_layers_that_are_faster_in_bfloat16_are_left(features, keeps, monkeypatch):
    monkeypatch.setattr(survey, "build_info", lambda: {"cpu_features": features})

    def left(recipe, dtype=torch.bfloat16):
        model = nn.Sequential(nn.Linear(768, 3072), nn.Linear(3072, 768)).to(dtype)
        return [change.reason for change in convert(model, recipe)]

    faster = "faster in bfloat16: 768 to 3072 features are too few for int8 on this CPU"
    assert left(Int8()) == [faster if keeps else None, None]
    assert left(Int8(keep_faster=False)) == [None, None]
    assert left(Int8(), torch.float32) == [None, None]


def test_layers_are_left_where_int8_is_slow(monkeypatch):
    monkeypatch.setattr(survey.ops, "is_fast_on_cpu", lambda: False)
    assert "neither VNNI nor AMX" in convert(nn.Sequential(nn.Linear(F, F)), Int8())["0"].reason
    assert convert(nn.Sequential(nn.Linear(F, F)), Int8(keep_faster=False)).converted
