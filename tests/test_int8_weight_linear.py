"""int8_weight_linear: every backend against the body of the op, within what rounding explains."""

import math

import pytest
import torch
import torch.nn.functional as F
from float_sums import assert_near_body, bound
from hypothesis import given, settings
from hypothesis import strategies as st

from green_kernels.ops import ACTIVATIONS, MAX_K, int8_weight_linear, pad_weight

FLOATS = [torch.float32, torch.float16, torch.bfloat16]

SHAPES = {
    "no rows": ((0,), 32, 64, torch.float32),
    "no columns": ((4,), 0, 64, torch.float16),
    "nothing to sum": ((4,), 6, 0, torch.bfloat16),
    "one number": ((1,), 1, 1, torch.float32),
    "a vector": ((), 40, 32, torch.bfloat16),
    "one row, as in decoding": ((1,), 96, 256, torch.bfloat16),
    "one row in float16": ((1,), 33, 144, torch.float16),
    "odd": ((7,), 9, 129, torch.float32),
    "odd in bfloat16": ((7,), 9, 129, torch.bfloat16),
    "leading batch dimensions": ((2, 3, 5), 24, 100, torch.float16),
    "one past a tile, both ways": ((65,), 129, 64, torch.bfloat16),
}


@pytest.fixture
def arguments(device, weights):
    """Make the arguments of int8_weight_linear: x, w_q, w_scale, bias."""

    def make(batch, N, K, dtype=torch.float32):
        return torch.randn(*batch, K, device=device).to(dtype), *weights(N, K, dtype)

    return make


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_value(shape, arguments, backend):
    args = arguments(*shape)
    assert_near_body(int8_weight_linear(*args), *args)


@pytest.mark.parametrize(
    "act, dtype", list(zip(ACTIVATIONS, [*FLOATS, *FLOATS], strict=False)), ids=str
)
def test_everything_at_once(act, dtype, arguments, backend):
    """Of different dtypes; w_scale such that the activations' curves are where the values are."""
    x, w_q, w_scale, bias = arguments((5, 2), 20, 48, dtype)
    residual = torch.randn(5, 2, 20, device=x.device, dtype=torch.float16)
    out_dtype = FLOATS[FLOATS.index(dtype) - 1]
    args = x, w_q, w_scale / 30, bias.bfloat16(), act, residual, out_dtype
    assert_near_body(int8_weight_linear(*args), *args)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_is_the_float_layer_of_the_same_weights(dtype, arguments, backend):
    """Without a scale, integers are exact in each dtype, and so are their sums."""
    x, w_q, w_scale, bias = arguments((9,), 20, 40, dtype)
    x, bias, w_scale = x.round(), bias.round(), torch.ones_like(w_scale)
    expected = F.linear(x.double(), w_q.double(), bias.double())
    y = int8_weight_linear(x, w_q, w_scale, bias, out_dtype=torch.float32)
    assert torch.equal(y.double(), expected)


def test_bound_is_not_idle(arguments):
    """Rounding x to int8, or one weight that is off by one, is not what rounding explains."""
    args = arguments((7,), 20, 96)
    y, expected = int8_weight_linear.reference(*args), bound(*args)
    x, w_q, w_scale, bias = args
    step = x.abs().amax(1, keepdim=True) / 127
    off = w_q.clone()
    off[:, 3] += 1 - 2 * (off[:, 3] > 0).char()
    for wrong in (((x / step).round() * step, w_q), (x, off)):
        apart = (int8_weight_linear.reference(*wrong, w_scale, bias) - y).abs()
        assert (apart > expected).float().mean() > 0.9


@pytest.mark.filterwarnings("ignore:invalid value encountered in matmul")  # Triton's interpreter
@pytest.mark.parametrize(
    "act, dtype", list(zip(["none", "relu", "none"], FLOATS, strict=True)), ids=str
)
def test_what_is_not_finite_stays_so(act, dtype, arguments, backend):
    x, w_q, *rest = arguments((20,), 18, 32, dtype)
    w_q[:, 5] = torch.arange(-9, 9)  # infinity times zero too
    x[3, 5], x[7, 5], x[19, 5], x[0, 31] = torch.inf, -torch.inf, torch.nan, torch.inf
    args = x, w_q, *rest, act
    y = int8_weight_linear(*args)
    assert y[19].isnan().all() and y[3].isnan().nonzero().tolist() == [[9]]
    assert_near_body(y, *args)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_rows_of_every_magnitude(dtype, arguments, backend):
    """From the least subnormal to what times 127 is a float32 still, or to the dtype's own end."""
    x, w_q, w_scale, _ = arguments((20,), 18, 48)
    last = min(torch.finfo(dtype).max / 8, 2.0**112)
    least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    exponents = torch.linspace(math.log2(least), math.log2(last), 20, dtype=torch.float64)
    x = (x.double() * exponents.exp2().to(x.device)[:, None]).to(dtype)
    args = x, w_q, torch.ones_like(w_scale), None, "none", None, torch.float32
    y = int8_weight_linear(*args)
    assert y.isfinite().all()
    assert_near_body(y, *args)


def test_padded_weights_change_nothing(arguments, backend, assert_same_bits):
    x, w_q, *rest = arguments((5,), 7, 20, torch.bfloat16)
    w_packed = pad_weight(w_q)
    assert (w_packed is None) == (w_q.device.type == "cpu")
    expected = int8_weight_linear(x, w_q, *rest)
    for padded in (w_packed, F.pad(w_q, (0, 12))):
        assert_same_bits(int8_weight_linear(x, w_q, *rest, w_packed=padded), expected)
    assert pad_weight(w_q[:, :16]) is None


def test_strides(arguments, backend, weights):
    x, w_q, w_scale, bias = arguments((48,), 24, 48, torch.float16)
    residual = torch.randn(24, 48, device=x.device).T
    w_q, w_scale, bias = w_q.T.contiguous().T, w_scale.repeat(2)[::2], bias.repeat(2)[::2]
    rows = x[::2], x[None, :2].expand(2, 2, 48), x.unflatten(0, (6, 8)).transpose(0, 1)
    for strided, rest in ((x.T, ("none", residual)), *((r, ()) for r in rows)):
        args = strided, w_q, w_scale, bias, *rest
        assert_near_body(int8_weight_linear(*args), *args)


@settings(max_examples=60, deadline=None)
@given(
    M=st.integers(0, 200),
    N=st.integers(0, 70),
    K=st.integers(0, 200),
    dtype=st.sampled_from(FLOATS),
    out_dtype=st.sampled_from(FLOATS),
    act=st.sampled_from(list(ACTIVATIONS)),
)
def test_any_shape(M, N, K, dtype, out_dtype, act):
    x, w_q = torch.randn(M, K).to(dtype), torch.randint(-127, 128, (N, K), dtype=torch.int8)
    args = x, w_q, torch.rand(N) / 127, torch.randn(N), act, torch.randn(M, N), out_dtype
    assert_near_body(int8_weight_linear(*args), *args)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("M", [1, 2, 3, 71])
def test_past_every_block_of_the_cpu(M, dtype, arguments, device):
    args = *arguments((M,), 533, 1100, dtype), "none", torch.randn(M, 533, device=device)
    y = int8_weight_linear(*args)
    assert_near_body(y, *args)
    assert torch.equal(y, int8_weight_linear(*args))


def test_longest_sums_of_one_sign(device):
    """Where float32 sums lose most. Of rows so long, the CPU takes fewer at a time."""
    x = torch.rand(9, MAX_K, device=device)
    w_q = torch.randint(0, 128, (3, MAX_K), dtype=torch.int8, device=device)
    args = x, w_q, torch.ones(3, device=device)
    assert_near_body(int8_weight_linear(*args), *args)


@pytest.mark.parametrize(
    "act, dtype", list(zip(["gelu", "none", "silu"], FLOATS, strict=True)), ids=str
)
def test_gradient(act, dtype, arguments, backend):
    x, w_q, w_scale, bias = arguments((2, 3), 20, 32, dtype)
    w_scale /= 30
    residual = torch.randn(2, 3, 20, device=x.device).to(dtype)
    for tensor in (x, bias, residual):
        tensor.requires_grad_()
    dy = torch.randn_like(residual)
    int8_weight_linear(x, w_q, w_scale, bias, act, residual).backward(dy)

    z = F.linear(x.double(), w_q.double() * w_scale[:, None], bias.double()).detach()
    ACTIVATIONS[act][0](z.requires_grad_()).backward(dy.double())
    eps = torch.finfo(dtype).eps
    close = {"rtol": 4 * eps, "atol": 4 * eps}
    expected = z.grad @ (w_q.double() * w_scale[:, None])
    torch.testing.assert_close(x.grad.double(), expected, **close)
    torch.testing.assert_close(bias.grad.double(), z.grad.sum((0, 1)), **close)
    assert torch.equal(residual.grad, dy)


def test_no_gradient_for_what_needs_none(arguments, backend):
    x, w_q, w_scale, bias = arguments((7,), 20, 32)
    assert not int8_weight_linear(x, w_q, w_scale, bias).requires_grad
    int8_weight_linear(x.requires_grad_(), w_q, w_scale).sum().backward()
    assert x.grad is not None and w_scale.grad is None


def test_registration(arguments, backend):
    args = arguments((2, 3), 20, 32, torch.bfloat16)
    torch.library.opcheck(int8_weight_linear.overload, args)
    args[0].requires_grad_()
    kwargs = {"act": "gelu", "w_packed": args[1].clone()}
    torch.library.opcheck(int8_weight_linear.overload, args, kwargs)


def test_compiles_whole(arguments, backend, assert_same_bits):
    args = arguments((7,), 20, 32)
    compiled = torch.compile(int8_weight_linear, fullgraph=True, backend="aot_eager", dynamic=True)
    assert_same_bits(compiled(*args), int8_weight_linear(*args))
    args[0].requires_grad_()
    compiled(*args, w_packed=args[1].clone()).sum().backward()
    assert args[0].grad is not None


def test_autocast_and_inference_mode_leave_it_alone(arguments, device, backend, assert_same_bits):
    args = arguments((7,), 20, 32)
    expected = int8_weight_linear(*args)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert_same_bits(int8_weight_linear(*args), expected)
    with torch.inference_mode():
        assert_same_bits(int8_weight_linear(*args), expected)


ERRORS = {
    "x integers": ({"x": torch.ones(4, 20).long()}, "x must be floating point, got torch.int64"),
    "x float64": (
        {"x": torch.ones(4, 20).double()},
        "x must be float32, float16 or bfloat16, got torch.float64",
    ),
    "x float8": (
        {"x": torch.ones(4, 20).to(torch.float8_e4m3fn)},
        "x must be float32, float16 or bfloat16, got torch.float8_e4m3fn",
    ),
    "x complex": (
        {"x": torch.ones(4, 20).to(torch.complex64)},
        "x must be floating point, got torch.complex64",
    ),
    "x a number": ({"x": torch.tensor(1.0)}, r"x must have shape \(..., K\), got \(\)"),
    "x sparse": ({"x": torch.ones(4, 20).to_sparse()}, "x must be a dense tensor"),
    "K differs": ({"x": torch.ones(4, 15)}, r"x must have shape \(..., K = 20\), got \(4, 15\)"),
    "w_q float": ({"w_q": torch.ones(8, 20)}, "w_q must be int8, got torch.float32"),
    "w_q a vector": (
        {"w_q": torch.ones(20, dtype=torch.int8)},
        r"w_q must have shape \(N, K\), got \(20,\)",
    ),
    "w_scale short": ({"w_scale": torch.ones(1)}, r"w_scale must have shape \(8,\), got \(1,\)"),
    "w_scale half": (
        {"w_scale": torch.ones(8).half()},
        "w_scale must be float32, got torch.float16",
    ),
    "bias long": ({"bias": torch.ones(9)}, r"bias must have shape \(8,\), got \(9,\)"),
    "bias integers": (
        {"bias": torch.ones(8).int()},
        "bias must be floating point, got torch.int32",
    ),
    "act unknown": (
        {"act": "GELU"},
        "act must be one of none, relu, gelu, gelu_tanh, silu, got 'GELU'",
    ),
    "residual transposed": (
        {"residual": torch.ones(8, 4)},
        r"residual must have shape \(4, 8\), got \(8, 4\)",
    ),
    "out_dtype integer": (
        {"out_dtype": torch.int8},
        "out_dtype must be floating point, got torch.int8",
    ),
    "out_dtype float64": (
        {"out_dtype": torch.float64},
        "out_dtype must be float32, float16 or bfloat16, got torch.float64",
    ),
    "out_dtype float8": (
        {"out_dtype": torch.float8_e5m2},
        "out_dtype must be float32, float16 or bfloat16, got torch.float8_e5m2",
    ),
    "residual float8": (
        {"residual": torch.ones(4, 8).to(torch.float8_e4m3fn)},
        "residual must be float32, float16 or bfloat16, got torch.float8_e4m3fn",
    ),
    "w_packed float": ({"w_packed": torch.ones(8, 32)}, "w_packed must be int8, got torch.float32"),
    "w_packed not padded": (
        {"w_packed": torch.ones(8, 20, dtype=torch.int8)},
        r"w_packed must have shape \(8, 32\), got \(8, 20\)",
    ),
    "w_packed sparse": (
        {"w_packed": torch.ones(8, 32, dtype=torch.int8).to_sparse()},
        "w_packed must be a dense tensor",
    ),
    "K too long": (
        {
            "x": torch.ones(4, MAX_K + 1),
            "w_q": torch.ones(8, MAX_K + 1, dtype=torch.int8),
        },
        "K must be at most 133144, the most int8 products that an int32 holds, got 133145",
    ),
}


def correct():
    return {
        "x": torch.ones(4, 20),
        "w_q": torch.ones(8, 20, dtype=torch.int8),
        "w_scale": torch.ones(8),
    }


@pytest.mark.parametrize("wrong, message", ERRORS.values(), ids=ERRORS)
def test_errors(wrong, message, backend):
    with pytest.raises(RuntimeError, match=f"^{message}"):
        int8_weight_linear(**correct() | wrong)


@pytest.mark.parametrize("argument", ["w_q", "w_scale", "bias", "residual"])
def test_errors_name_the_device(argument, backend):
    wrong = correct() | {"bias": torch.ones(8), "residual": torch.ones(4, 8)}
    wrong[argument] = wrong[argument].to("meta")
    with pytest.raises(RuntimeError, match=f"^{argument} must be on the device of x"):
        int8_weight_linear(**wrong)


def test_padding_refuses_what_is_no_weight():
    with pytest.raises(RuntimeError, match="^w_q must be int8, got torch.float32"):
        pad_weight(torch.ones(8, 20))
    with pytest.raises(RuntimeError, match=r"^w_q must have shape \(N, K\), got \(8,\)"):
        pad_weight(torch.ones(8, dtype=torch.int8))
