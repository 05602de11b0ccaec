"""Int8Linear: the layer around ops.int8_linear, and what it must survive."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from green_kernels import ops
from green_kernels.nn import Int8Linear
from green_kernels.recipes import Int8

ROWS = 64  # with fewer, the CPU's product is a loop that does not read w_packed
FLOATS = [torch.float32, torch.float16, torch.bfloat16]
ACTS = {
    "none": lambda z: z,
    "relu": torch.relu,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda z: torch.nn.functional.gelu(z, approximate="tanh"),
    "silu": torch.nn.functional.silu,
}
COPIES = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
}


@pytest.fixture
def linear():
    return nn.Linear(96, 80)


@pytest.fixture
def layer(linear):
    return Int8Linear.from_float(linear)


def close_to_float(y, expected):
    """Each of 96 products is off by some part of 1/127 of its row's peak: 5 % of the largest y."""
    assert (y - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("leading", [(), (1,), (7,), (2, 3), (0,), (2, 0, 3)], ids=str)
def test_is_the_op(layer, leading, dtype, backend):
    x = torch.randn(*leading, 96, dtype=dtype)
    y = layer(x)
    assert y.dtype == dtype and y.shape == (*leading, 80)
    expected = ops.int8_linear(x, layer.w_q, layer.w_scale, layer.bias)
    assert_close(y, expected, rtol=0, atol=0)


@pytest.mark.parametrize("act", ACTS)
def test_acts_as_the_float_layer(linear, act):
    x = torch.randn(33, 96)
    close_to_float(Int8Linear.from_float(linear, act=act)(x), ACTS[act](linear(x)))


def test_without_bias():
    linear = nn.Linear(96, 80, bias=False)
    layer = Int8Linear.from_float(linear)
    x = torch.randn(ROWS, 96)
    assert layer.bias is None and list(layer.state_dict()) == ["w_q", "w_scale"]
    close_to_float(layer(x), linear(x))


def test_holds_the_quantised_rows_and_the_very_bias(linear, layer):
    w_q, w_scale = ops.quantize_rows(linear.weight)
    assert torch.equal(layer.w_q, w_q) and torch.equal(layer.w_scale, w_scale)
    assert layer.bias is linear.bias
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    assert list(layer.state_dict()) == ["bias", "w_q", "w_scale"]
    assert "w_packed" not in dict(layer.named_buffers())


def test_to_float_holds_the_rounded_weights(linear, layer):
    back = layer.to_float()
    assert type(back) is nn.Linear and back.bias is linear.bias
    step = layer.w_scale[:, None]
    assert ((back.weight - linear.weight).abs() <= 0.5001 * step).all()
    again = Int8Linear.from_float(back)
    assert torch.equal(again.w_q, layer.w_q)


def test_to_float_refuses_to_drop_an_activation(linear):
    with pytest.raises(ValueError, match="act must be none, got relu"):
        Int8Linear.from_float(linear, act="relu").to_float()


def test_keeps_training_mode_and_recipe(linear):
    recipe = Int8(min_features=1)
    layer = Int8Linear.from_float(linear.eval(), recipe)
    assert not layer.training and layer.recipe == recipe


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_refuses_weights_that_are_not_finite(linear, value):
    with torch.no_grad():
        linear.weight[3, 5] = value
    with pytest.raises(ValueError, match="weight must be finite, got NaN or Inf in row 3"):
        Int8Linear.from_float(linear)


def test_refuses_what_is_no_linear():
    with pytest.raises(TypeError, match="linear must be an nn.Linear, got Conv2d"):
        Int8Linear.from_float(nn.Conv2d(3, 3, 1))


def test_refuses_another_dtype(linear):
    message = "weight must be float32, float16 or bfloat16, got torch.float64"
    with pytest.raises(ValueError, match=message):
        Int8Linear.from_float(linear.double())


def test_refuses_an_unknown_activation():
    with pytest.raises(ValueError, match="act must be one of none, .*, got 'tanh'"):
        Int8Linear(4, 4, act="tanh")


def test_gradient_reaches_x_and_bias(layer):
    x = torch.randn(2, 7, 96, requires_grad=True)
    dy = torch.randn(2, 7, 80)
    layer.train()(x).backward(dy)
    # The products differ from the op's only in the order of the sums of 80 and of 14 terms.
    assert_close(x.grad, dy @ (layer.w_q * layer.w_scale[:, None]), rtol=1e-4, atol=1e-5)
    assert_close(layer.bias.grad, dy.sum((0, 1)), rtol=1e-4, atol=1e-5)
    assert layer.w_q.grad is None and layer.w_scale.grad is None


def test_made_in_inference_mode_still_trains(linear):
    with torch.inference_mode():
        layer = Int8Linear.from_float(linear)
    x = torch.randn(3, 96, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_whole(layer, backend):
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    x = torch.randn(ROWS, 96)
    assert_close(compiled(x), layer(x), rtol=0, atol=0)
    with torch.inference_mode():
        assert_close(compiled(x), layer(x), rtol=0, atol=0)


def test_compiled_layer_sees_weights_loaded_later(layer):
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    x = torch.randn(ROWS, 96)
    before = compiled(x)
    layer.load_state_dict(Int8Linear.from_float(nn.Linear(96, 80)).state_dict())
    assert not torch.equal(compiled(x), before)
    assert_close(compiled(x), layer(x), rtol=0, atol=0)


def test_compiles_in_training(layer):
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(ROWS, 96, requires_grad=True)
    compiled(x).sum().backward()
    grad, x.grad = x.grad, None
    layer(x).sum().backward()
    assert_close(grad, x.grad)


def test_exports_to_a_file_without_the_packed_copy(layer):
    x = torch.randn(ROWS, 96)
    file = io.BytesIO()
    torch.export.save(torch.export.export(layer, (x,)), file)
    file.seek(0)
    program = torch.export.load(file).module()
    assert_close(program(x), layer(x), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")
def test_traces_without_the_packed_copy(layer):
    x = torch.randn(ROWS, 96)
    assert torch.equal(torch.jit.trace(layer, x)(x), layer(x))


def test_runs_under_autocast(layer):
    x = torch.randn(ROWS, 96)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(torch.nn.functional.linear(x, torch.eye(96)))
    assert y.dtype == torch.bfloat16
    close_to_float(y.float(), layer(x))


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_copies(layer, copied):
    x = torch.randn(ROWS, 96)
    other = copied(layer)
    assert torch.equal(other(x), layer(x))
    assert (other.w_packed is None) == (layer.w_packed is None)


def test_deep_copy_is_apart(layer):
    other = copy.deepcopy(layer)
    x = torch.randn(ROWS, 96)
    before = layer(x)
    other.load_state_dict(Int8Linear.from_float(nn.Linear(96, 80)).state_dict())
    assert torch.equal(layer(x), before) and not torch.equal(other(x), before)


def test_survives_share_memory(layer):
    x = torch.randn(ROWS, 96)
    before = layer(x)
    layer.share_memory()
    assert layer.w_q.is_shared() and torch.equal(layer(x), before)


CASTS = {
    "half": (lambda m: m.half(), torch.float16),
    "bfloat16": (lambda m: m.bfloat16(), torch.bfloat16),
    "to": (lambda m: m.to(torch.float16), torch.float16),
    "to device and dtype": (lambda m: m.to("cpu", torch.bfloat16), torch.bfloat16),
    "type": (lambda m: m.type(torch.float16), torch.float16),
    "double": (lambda m: m.double(), torch.float64),
    "and back": (lambda m: m.half().float(), torch.float32),
}


@pytest.mark.parametrize("cast, dtype", CASTS.values(), ids=CASTS)
def test_casting_reaches_only_the_bias(layer, cast, dtype):
    w_q, w_scale, packed = layer.w_q.clone(), layer.w_scale.clone(), layer.w_packed
    cast(layer)
    assert layer.bias.dtype == dtype
    assert layer.w_q.dtype == torch.int8 and torch.equal(layer.w_q, w_q)
    assert layer.w_scale.dtype == torch.float32 and torch.equal(layer.w_scale, w_scale)
    assert layer.w_packed is packed  # there was no reason to make it anew


def test_goes_to_the_meta_device_and_comes_back_with_a_state(layer):
    x = torch.randn(ROWS, 96)
    state, before = copy.deepcopy(layer.state_dict()), layer(x)
    layer.to("meta")
    assert layer.w_q.is_meta and layer.w_scale.is_meta and layer.w_packed is None
    assert layer(x.to("meta")).shape == (ROWS, 80)
    layer.to_empty(device="cpu").load_state_dict(state)
    assert torch.equal(layer(x), before)


@pytest.mark.gpu
@pytest.mark.parametrize("K", [96, 97])
def test_goes_to_the_gpu_and_back_with_the_same_bits(K):
    layer, x = Int8Linear.from_float(nn.Linear(K, 80)), torch.randn(5, K)
    before = layer(x)
    y = layer.to("cuda")(x.to("cuda"))
    assert layer.w_q.is_cuda and (layer.w_packed is None or layer.w_packed.is_cuda)
    assert torch.equal(y.cpu(), before)
    assert torch.equal(layer.to("cpu")(x), before)


@pytest.mark.parametrize("assign", [False, True])
def test_state_dict_round_trip(layer, assign):
    other = Int8Linear(96, 80)
    other.load_state_dict(copy.deepcopy(layer.state_dict()), assign=assign)
    x = torch.randn(ROWS, 96)
    assert torch.equal(other(x), layer(x))


def test_state_dict_through_torch_save_without_pickled_code(layer):
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = Int8Linear(96, 80)
    other.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(ROWS, 96)
    assert torch.equal(other(x), layer(x))


def test_loading_is_strict(layer, linear):
    with pytest.raises(RuntimeError, match="(?s)Missing.*w_q.*Unexpected.*weight"):
        layer.load_state_dict(linear.state_dict())
    with pytest.raises(RuntimeError, match="size mismatch for w_q"):
        layer.load_state_dict(Int8Linear(96, 81).state_dict())


@pytest.mark.parametrize(
    "key, dtype, accepted",
    [("w_q", torch.float32, "torch.int8"), ("w_scale", torch.float16, "torch.float32")],
)
@pytest.mark.parametrize("assign", [False, True])
def test_loading_does_not_cast(layer, key, dtype, accepted, assign):
    state = layer.state_dict()
    state[key] = state[key].to(dtype)
    before = layer.w_q.clone()
    with pytest.raises(RuntimeError, match=f"{key} must be {accepted}, got {dtype}"):
        layer.load_state_dict(state, assign=assign)
    assert torch.equal(layer.w_q, before)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("w_q", -128, r"w_q must be in \[-127, 127\], got -128"),
        ("w_scale", float("nan"), "w_scale must be finite and positive"),
        ("w_scale", float("inf"), "w_scale must be finite and positive"),
        ("w_scale", 0.0, "w_scale must be finite and positive"),
        ("w_scale", -1.0, "w_scale must be finite and positive"),
    ],
)
@pytest.mark.parametrize("assign", [False, True])
def test_loading_refuses_values_that_no_layer_has(layer, key, value, message, assign):
    model = nn.ModuleDict({"proj": layer})
    state = copy.deepcopy(model.state_dict())
    state[f"proj.{key}"].view(-1)[3] = value
    before = layer.w_q.clone(), layer.w_scale.clone()
    with pytest.raises(RuntimeError, match=f"proj.{message}"):
        model.load_state_dict(state, assign=assign)
    assert torch.equal(layer.w_q, before[0]) and torch.equal(layer.w_scale, before[1])


def inference_copy(layer, w_q):
    with torch.inference_mode():
        layer.w_q = w_q.clone()


def write_in_inference_mode(layer, w_q):
    with torch.inference_mode():
        layer.w_q.copy_(w_q)


WRITES = {
    "in place": lambda layer, w_q: layer.w_q.copy_(w_q),
    "a new tensor": lambda layer, w_q: setattr(layer, "w_q", w_q),
    "other data": lambda layer, w_q: setattr(layer.w_q, "data", w_q),
    "an inference tensor": inference_copy,
    "in inference mode": write_in_inference_mode,
}


@pytest.fixture(params=["normal", "made in inference mode", "moved in inference mode"])
def any_layer(request, layer):
    if request.param == "made in inference mode":
        with torch.inference_mode():
            made = Int8Linear(96, 80)
        made.load_state_dict(layer.state_dict())
        return made
    if request.param == "moved in inference mode":
        with torch.inference_mode():
            layer.to("meta")
            layer.to_empty(device="cpu")
        layer.w_scale.fill_(0.1)
        nn.init.ones_(layer.bias)
    return layer


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@torch.no_grad()  # under which alone torch takes inference tensors
def test_packed_copy_follows_writes_by_hand(any_layer, write):
    x = torch.randn(ROWS, 96)
    for _ in range(3):
        write(any_layer, torch.randint_like(any_layer.w_q, -127, 128))
        expected = ops.int8_linear(x, any_layer.w_q, any_layer.w_scale, any_layer.bias)
        assert torch.equal(any_layer(x), expected)


@torch.no_grad()
def test_packed_copy_follows_writes_into_an_inference_tensor(layer):
    x = torch.randn(ROWS, 96)
    inference_copy(layer, layer.w_q)
    layer(x)
    write_in_inference_mode(layer, torch.randint(-127, 128, (80, 96), dtype=torch.int8))
    expected = ops.int8_linear(x, layer.w_q, layer.w_scale, layer.bias)
    assert torch.equal(layer(x), expected)


def test_memory_of_the_packed_weights_is_not_given_to_others(layer):
    """Else other data at the same address, with the same version, would pass for the same."""
    x = torch.randn(ROWS, 96)
    for _ in range(20):
        layer(x)
        layer.w_q.data = torch.zeros(80, 96, dtype=torch.int8)
        layer.w_q.data = torch.randint(-127, 128, (80, 96), dtype=torch.int8)
        expected = ops.int8_linear(x, layer.w_q, layer.w_scale, layer.bias)
        assert torch.equal(layer(x), expected)


def test_packing_by_force_follows_writes_that_torch_does_not_count(layer):
    x = torch.randn(ROWS, 96)
    layer.w_q.data.copy_(torch.randint_like(layer.w_q, -127, 128))
    layer.pack(force=True)
    expected = ops.int8_linear(x, layer.w_q, layer.w_scale, layer.bias)
    assert torch.equal(layer(x), expected)


def test_functional_call_uses_the_weights_it_is_given(layer):
    x = torch.randn(ROWS, 96)
    other = Int8Linear.from_float(nn.Linear(96, 80))
    before = layer(x)
    y = torch.func.functional_call(layer, dict(other.state_dict()), (x,))
    assert torch.equal(y, other(x)) and torch.equal(layer(x), before)


def test_prints_like_a_linear(linear):
    assert repr(Int8Linear.from_float(linear)) == (
        "Int8Linear(in_features=96, out_features=80, bias=True)"
    )
    assert "act=silu" in repr(Int8Linear.from_float(linear, act="silu"))
