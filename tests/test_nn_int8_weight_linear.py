"""Int8WeightLinear: what sets it apart from Int8Linear, with which it shares its tensors."""

import pytest
import torch
from torch import nn

import green_kernels as gk
from green_kernels import Int8, Int8WeightOnly, convert, ops
from green_kernels.nn import LAYERS, Int8Linear, Int8WeightLinear
from green_kernels.recipes import KINDS


@pytest.fixture
def linear():
    return nn.Linear(200, 130)


def test_every_recipe_has_its_layer():
    assert list(LAYERS) == list(KINDS.values())
    assert all(layer.__name__ in gk.nn.__all__ for layer in LAYERS.values())


@pytest.mark.parametrize("act", ["none", "gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_value_is_the_ops(linear, act, dtype):
    layer = Int8WeightLinear.from_float(linear.to(dtype), act=act)
    x = torch.randn(2, 3, 200, dtype=dtype)
    w_q, w_scale = ops.quantize_rows(linear.weight)
    y = layer(x)
    assert torch.equal(y, ops.int8_weight_linear(x, w_q, w_scale, linear.bias, act=act))
    assert y.dtype == dtype and layer.recipe == Int8WeightOnly()


def test_activations_are_not_rounded(linear):
    """A row with one large value has its small ones rounded to nothing by Int8Linear."""
    x = torch.full((1, 200), 1e-3)
    x[0, 0] = 1e3
    x = torch.cat([x, x])
    x[1, 1:] = 0
    small = Int8WeightLinear.from_float(linear)(x).diff(dim=0)
    assert small.abs().max() > 0 and not Int8Linear.from_float(linear)(x).diff(dim=0).any()


@pytest.mark.parametrize("to", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_keep_their_dtypes(linear, to):
    layer = Int8WeightLinear.from_float(linear).to(to)
    assert (layer.w_q.dtype, layer.w_scale.dtype) == (torch.int8, torch.float32)


def test_there_is_no_second_copy_of_weights_on_a_cpu(linear):
    layer = Int8WeightLinear.from_float(linear)
    assert layer.w_packed is None
    assert layer.nbytes == 200 * 130 + 130 * 4 + linear.bias.nbytes


def test_gradient_reaches_x_and_bias(linear):
    layer = Int8WeightLinear.from_float(linear)
    x = torch.randn(4, 200, requires_grad=True)
    layer(x).sum().backward()
    expected = (layer.w_q * layer.w_scale[:, None]).sum(0)
    torch.testing.assert_close(x.grad, expected.expand(4, -1))
    assert torch.equal(layer.bias.grad, torch.full((130,), 4.0))


def test_under_torch_compile(linear):
    layer = Int8WeightLinear.from_float(linear)
    x = torch.randn(4, 200)
    assert torch.equal(torch.compile(layer, fullgraph=True)(x), layer(x))


def mixed():
    model = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 128), nn.Linear(128, 9))
    recipe = {"0": Int8(keep_faster=False), "2": Int8WeightOnly(), "3": Int8WeightOnly()}
    return model, convert(model, recipe)


@pytest.mark.parametrize("layer, recipe", [(Int8WeightLinear, Int8()), (Int8Linear, "Int8")])
def test_refuses_the_recipe_of_another_layer(linear, layer, recipe):
    """Saved with it, it would be another layer when it is loaded."""
    with pytest.raises(TypeError, match=f"recipe must be an {layer.KIND.__name__}, got .*Int8"):
        layer.from_float(linear, recipe)


def test_convert_takes_a_recipe_for_each_layer():
    model, report = mixed()
    became = [change.became for change in report]
    assert became == ["Int8Linear", "Int8WeightLinear", None]
    assert "too small" in report["3"].reason and "Int8WeightLinear" in str(report)
    assert convert(model, Int8WeightOnly())["2"].reason == "already converted"


def test_convert_takes_all_where_int8_would_be_left(monkeypatch):
    monkeypatch.setattr(ops, "is_fast_on_cpu", lambda: False)
    model = nn.Sequential(nn.Linear(128, 256))
    assert convert(model, Int8WeightOnly()).converted and type(model[0]) is Int8WeightLinear


def test_convert_says_where_there_is_no_kernel(monkeypatch):
    """Then the body runs, in float64, on all weights anew in each call."""
    assert convert(nn.Sequential(nn.Linear(128, 256)), Int8WeightOnly())["0"].caveat is None
    monkeypatch.setattr(type(ops.int8_weight_linear), "compiled_devices", lambda self: [])
    report = convert(nn.Sequential(nn.Linear(128, 256)), Int8WeightOnly())
    assert report.converted and "no compiled kernels" in report["0"].caveat


def test_save_and_load_keep_the_kind_of_each_layer(tmp_path):
    model, _ = mixed()
    path = tmp_path / "model.safetensors"
    gk.save(model, path)
    fresh = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 128), nn.Linear(128, 9))
    gk.load(fresh, path)
    assert [type(layer) for layer in fresh] == [type(layer) for layer in model]
    x = torch.randn(3, 128)
    assert torch.equal(fresh(x), model(x))
    assert fresh[2].recipe == Int8WeightOnly()
    gk.load(model, path)  # into what was converted already
    assert torch.equal(fresh(x), model(x))


def test_a_layer_of_one_kind_becomes_one_of_another_by_load(tmp_path, linear):
    of_weights, of_both = nn.Sequential(linear), nn.Sequential(nn.Linear(200, 130))
    convert(of_weights, Int8WeightOnly())
    convert(of_both, Int8(keep_faster=False))
    gk.save(of_weights, tmp_path / "model.safetensors")
    gk.load(of_both, tmp_path / "model.safetensors")
    x = torch.randn(3, 200)
    assert type(of_both[0]) is Int8WeightLinear and torch.equal(of_both(x), of_weights(x))
