"""int8_linear: every backend against the body of the op, and the body against a float layer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from green_kernels.ops import (
    ACTIVATIONS,
    MAX_K,
    int8_linear,
    int8_matmul,
    pack_weight,
    quantize_rows,
)

FLOATS = [torch.float32, torch.float16, torch.bfloat16]

SHAPES = {
    "no rows": ((0,), 32, 64),
    "no columns": ((4,), 0, 64),
    "nothing to sum": ((4,), 6, 0),
    "one number": ((1,), 1, 1),
    "a vector": ((), 40, 32),
    "one row, as in decoding": ((1,), 96, 256),
    "odd": ((7,), 9, 129),
    "leading batch dimensions": ((2, 3, 5), 24, 100),
    "one past a tile, both ways": ((65,), 129, 64),
    "several blocks of rows": ((300,), 48, 80),
}


@pytest.fixture
def arguments(device, weights):
    """Make the arguments of int8_linear: x, w_q, w_scale, bias."""

    def make(batch, N, K, dtype=torch.float32):
        return torch.randn(*batch, K, device=device).to(dtype), *weights(N, K, dtype)

    return make


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "as it is"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_value(shape, dtype, packed, arguments, backend, assert_same_bits):
    args = arguments(*shape, dtype)
    w_packed = pack_weight(args[1]) if packed else None
    for act in ("none", "relu"):
        y = int8_linear(*args, act, w_packed=w_packed)
        assert y.dtype == dtype
        assert_same_bits(y, int8_linear.reference(*args, act))


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_everything_at_once(act, arguments, backend, assert_same_bits):
    x, w_q, w_scale, bias = arguments((5, 9), 40, 48, torch.bfloat16)
    residual = torch.randn(5, 9, 40, device=x.device, dtype=torch.float16)
    args = x, w_q, w_scale, bias, act, residual, torch.float32
    y, expected = int8_linear(*args), int8_linear.reference(*args)
    if act in ("none", "relu"):
        return assert_same_bits(y, expected)
    # One unit in the last place of what the activation gave, which the residual may cancel.
    before = int8_linear.reference(x, w_q, w_scale, bias, act, None, torch.float32)
    assert ((y - expected).abs() <= 2**-23 * torch.maximum(before.abs(), y.abs())).all()


def test_is_its_two_parts(arguments, backend, assert_same_bits):
    x, w_q, w_scale, bias = arguments((33,), 20, 70)
    parts = int8_matmul(*quantize_rows(x), w_q, w_scale, bias)
    assert_same_bits(int8_linear(x, w_q, w_scale, bias), parts)


def test_is_near_the_float_layer(device, backend):
    """Rounding x and w to int8 costs about a percent of the norm on normal data."""
    x, w = torch.randn(64, 256, device=device), torch.randn(96, 256, device=device)
    y, exact = int8_linear(x, *quantize_rows(w)), x @ w.T
    assert (y - exact).norm() / exact.norm() < 0.02


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_rows_that_are_not_finite_give_nan(bad, arguments, backend):
    x, *rest = arguments((40,), 50, 64)
    x[7, 5] = x[39, 63] = bad
    y = int8_linear(x, *rest, act="relu", w_packed=pack_weight(rest[0]))
    assert y.isnan().all(-1).nonzero().flatten().tolist() == [7, 39]
    assert y.isnan().sum() == 2 * 50


def test_rows_do_not_depend_on_their_batch(arguments, backend, assert_same_bits):
    x, w_q, w_scale, bias = arguments((150,), 70, 90)
    w_packed = pack_weight(w_q)
    whole = int8_linear(x, w_q, w_scale, bias, w_packed=w_packed)
    for rows in (slice(0, 1), slice(3, 20), slice(60, 150)):
        assert_same_bits(int8_linear(x[rows], w_q, w_scale, bias), whole[rows])


def test_strides(arguments, backend, weights, assert_same_bits):
    x, w_q, w_scale, bias = arguments((48,), 24, 48)
    for strided in (x.T, x[::2], x[None].expand(2, 48, 48), x.unflatten(0, (6, 8)).transpose(0, 1)):
        args = strided, w_q.T.contiguous().T, w_scale, bias
        assert_same_bits(int8_linear(*args), int8_linear.reference(*args))


@settings(max_examples=60, deadline=None)
@given(
    M=st.integers(0, 200),
    N=st.integers(0, 70),
    K=st.integers(0, 200),
    dtype=st.sampled_from(FLOATS),
    packed=st.booleans(),
)
def test_any_shape(M, N, K, dtype, packed):
    x, w_q = torch.randn(M, K).to(dtype), torch.randint(-127, 128, (N, K), dtype=torch.int8)
    w_packed = pack_weight(w_q) if packed else None
    args = x, w_q, torch.rand(N), torch.randn(N)
    assert torch.equal(int8_linear(*args, w_packed=w_packed), int8_linear.reference(*args))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_gradient_goes_straight_through_the_rounding(act, dtype, arguments, backend):
    x, w_q, w_scale, bias = arguments((2, 7), 20, 32, dtype)
    w_scale /= 30
    residual = torch.randn(2, 7, 20, device=x.device).to(dtype)
    for tensor in (x, bias, residual):
        tensor.requires_grad_()
    dy = torch.randn_like(residual)
    int8_linear(x, w_q, w_scale, bias, act, residual).backward(dy)

    z = int8_linear(x, w_q, w_scale, bias, out_dtype=torch.float32).detach().requires_grad_()
    ACTIVATIONS[act][0](z).backward(dy.float())
    eps = torch.finfo(dtype).eps
    close = {"rtol": 4 * eps, "atol": 4 * eps}
    torch.testing.assert_close(x.grad.float(), z.grad @ (w_q * w_scale[:, None]), **close)
    torch.testing.assert_close(bias.grad.float(), z.grad.sum((0, 1)), **close)
    assert torch.equal(residual.grad, dy)


def test_no_gradient_for_what_needs_none(arguments, backend):
    x, w_q, w_scale, bias = arguments((7,), 20, 32)
    assert not int8_linear(x, w_q, w_scale, bias).requires_grad
    y = int8_linear(x.requires_grad_(), w_q, w_scale)
    y.sum().backward()
    assert x.grad is not None and w_scale.grad is None


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_registration(dtype, arguments, backend):
    args = arguments((2, 7), 20, 32, dtype)
    torch.library.opcheck(int8_linear.overload, args)
    args[0].requires_grad_()
    torch.library.opcheck(int8_linear.overload, args, {"act": "gelu"})


def test_registration_with_packed_weights(arguments, backend):
    args = arguments((7,), 20, 32)
    # An opaque tensor has no data for the other checks to read.
    kwargs = {"w_packed": pack_weight(args[1])}
    torch.library.opcheck(
        int8_linear.overload, args, kwargs, test_utils="test_aot_dispatch_dynamic"
    )


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "as it is"])
def test_compiles_whole(packed, arguments, backend, assert_same_bits):
    args = arguments((7,), 20, 32)
    w_packed = pack_weight(args[1]) if packed else None
    compiled = torch.compile(int8_linear, fullgraph=True, backend="aot_eager", dynamic=True)
    assert_same_bits(compiled(*args, w_packed=w_packed), int8_linear(*args))
    args[0].requires_grad_()
    compiled(*args, w_packed=w_packed).sum().backward()
    assert args[0].grad is not None


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_autocast_leaves_it_alone(dtype, arguments, device, backend, assert_same_bits):
    args = arguments((7,), 20, 32, dtype)
    expected = int8_linear(*args)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert_same_bits(int8_linear(*args), expected)


def test_gradient_in_autocast_is_that_out_of_it(arguments, device, backend, assert_same_bits):
    args = arguments((7,), 20, 32)
    args[0].requires_grad_()
    [expected] = torch.autograd.grad(int8_linear(*args).sum(), args[0])
    with torch.autocast(device, dtype=torch.bfloat16):
        [actual] = torch.autograd.grad(int8_linear(*args).sum(), args[0])
    assert_same_bits(actual, expected)


def test_inference_mode(arguments, backend, assert_same_bits):
    args = arguments((7,), 20, 32)
    expected = int8_linear(*args)
    with torch.inference_mode():
        assert_same_bits(int8_linear(*args), expected)
        assert_same_bits(int8_linear(*(t.clone() for t in args)), expected)


def test_many_threads_share_a_layer(arguments, assert_same_bits):
    from concurrent.futures import ThreadPoolExecutor

    args = arguments((64,), 128, 96)
    w_packed, expected = pack_weight(args[1]), int8_linear(*args)
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(int8_linear, *args, w_packed=w_packed) for _ in range(32)]
    for call in calls:
        assert_same_bits(call.result(), expected)


ERRORS = {
    "x integers": ({"x": torch.ones(4, 16).long()}, "x must be floating point, got torch.int64"),
    "x float64": (
        {"x": torch.ones(4, 16).double()},
        "x must be float32, float16 or bfloat16, got torch.float64",
    ),
    "K differs": ({"x": torch.ones(4, 15)}, r"x must have shape \(..., K = 16\), got \(4, 15\)"),
    "w_q float": ({"w_q": torch.ones(8, 16)}, "w_q must be int8, got torch.float32"),
    "w_scale short": ({"w_scale": torch.ones(1)}, r"w_scale must have shape \(8,\), got \(1,\)"),
    "bias long": ({"bias": torch.ones(9)}, r"bias must have shape \(8,\), got \(9,\)"),
    "act unknown": (
        {"act": "GELU"},
        "act must be one of none, relu, gelu, gelu_tanh, silu, got 'GELU'",
    ),
    "residual transposed": (
        {"residual": torch.ones(8, 4)},
        r"residual must have shape \(4, 8\), got \(8, 4\)",
    ),
    "out_dtype float64": (
        {"out_dtype": torch.float64},
        "out_dtype must be float32, float16 or bfloat16, got torch.float64",
    ),
    "K too long": (
        {
            "x": torch.ones(4, MAX_K + 1),
            "w_q": torch.ones(8, MAX_K + 1, dtype=torch.int8),
        },
        "K must be at most 133144, the most int8 products that an int32 holds, got 133145",
    ),
}


@pytest.mark.parametrize("wrong, message", ERRORS.values(), ids=ERRORS)
def test_errors(wrong, message, backend):
    correct = {
        "x": torch.ones(4, 16),
        "w_q": torch.ones(8, 16, dtype=torch.int8),
        "w_scale": torch.ones(8),
    }
    with pytest.raises(RuntimeError, match=f"^{message}"):
        int8_linear(**correct | wrong)
