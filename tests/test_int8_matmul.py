"""int8_matmul: every backend against the body of the op, bit for bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import SHAPES

from green_kernels.ops import ACTIVATIONS, MAX_K, int8_matmul, pack_weight

FLOATS = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture
def arguments(device, weights):
    """Make the arguments of int8_matmul: x_q, x_scale, w_q, w_scale, bias, residual."""

    def make(M, N, K, dtype=torch.float32):
        x_q = torch.randint(-127, 128, (M, K), dtype=torch.int8, device=device)
        x_scale = torch.rand(M, device=device) / 127
        residual = torch.randn(M, N, device=device).to(dtype)
        return x_q, x_scale, *weights(N, K, dtype), residual

    return make


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "as it is"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("act", ["none", "relu"])
def test_value(shape, act, packed, arguments, backend, assert_same_bits):
    args = *arguments(*shape), act
    w_packed = pack_weight(args[2]) if packed else None
    assert_same_bits(int8_matmul(*args, w_packed=w_packed), int8_matmul.reference(*args))


@pytest.mark.parametrize("out_dtype", FLOATS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dtypes(dtype, out_dtype, arguments, backend, assert_same_bits):
    """bias and residual have dtypes of their own, and so has the output."""
    x_q, x_scale, w_q, w_scale, bias, residual = arguments(9, 40, 48, dtype)
    for optional in ((None, None), (bias, None), (None, residual), (bias, residual)):
        args = x_q, x_scale, w_q, w_scale, *optional, "relu", out_dtype
        assert_same_bits(int8_matmul(*args), int8_matmul.reference(*args))


@pytest.mark.parametrize("out_dtype", FLOATS, ids=str)
@pytest.mark.parametrize("act", ["gelu", "gelu_tanh", "silu"])
def test_activations(act, out_dtype, device, backend, assert_within_one_ulp):
    """Sums from -16129 to 16129 in units of a scale reach every regime, the far tails included."""
    x_q = torch.arange(-127, 128, dtype=torch.int8, device=device)[:, None]
    w_q = x_q.contiguous()
    scales = torch.ones(255, device=device), torch.full((255,), 1 / 1000, device=device)
    args = x_q, scales[0], w_q, scales[1], None, None, act, out_dtype
    assert_within_one_ulp(int8_matmul(*args), int8_matmul.reference(*args))
    by_ten = x_q, scales[0] * 10, w_q, scales[1], None, None, act, out_dtype
    assert_within_one_ulp(int8_matmul(*by_ten), int8_matmul.reference(*by_ten))


@pytest.mark.parametrize("act", ["gelu", "gelu_tanh", "silu"])
def test_reference_activations_are_those_of_torch(act):
    z = torch.linspace(-30, 30, 10_001, dtype=torch.float64)
    theirs = {
        "gelu": torch.nn.functional.gelu(z),
        "gelu_tanh": torch.nn.functional.gelu(z, approximate="tanh"),
        "silu": torch.nn.functional.silu(z),
    }
    ours, gradient = ACTIVATIONS[act]
    torch.testing.assert_close(ours(z), theirs[act], rtol=1e-12, atol=1e-14)
    z.requires_grad_()
    expected = torch.autograd.grad(ours(z).sum(), z)[0]
    torch.testing.assert_close(gradient(torch.ones_like(z), z), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("M", [1, 2, 20])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "as it is"])
def test_sums_are_exact_to_the_last_K(M, packed, device, backend, assert_same_bits):
    x_q = torch.full((M, MAX_K), 127, dtype=torch.int8, device=device)
    w_q = torch.full((3, MAX_K), 127, dtype=torch.int8, device=device)
    w_q[1] = -127
    w_q[2, 0] = 126  # one less than the most, which float32 sums would not see
    one = torch.ones(M + 3, device=device)
    w_packed = pack_weight(w_q) if packed else None
    y = int8_matmul(x_q, one[:M], w_q, one[:3], w_packed=w_packed)
    most = 127 * 127 * MAX_K
    assert_same_bits(y, torch.tensor([[most, -most, most - 127]] * M, device=device).float())


@pytest.mark.parametrize("shape", [(1, 33, 4097), (40, 48, 4096), (20, 16, 20_000)], ids=str)
def test_large_sums_of_one_sign(shape, device, backend, assert_same_bits):
    """Sums beyond 2**24, where a float32 cannot hold each: a kernel must round once, at the end."""
    M, N, K = shape
    x_q = torch.randint(1, 128, (M, K), dtype=torch.int8, device=device)
    w_q = torch.randint(1, 128, (N, K), dtype=torch.int8, device=device)
    args = x_q, torch.ones(M, device=device), w_q, torch.ones(N, device=device)
    expected = int8_matmul.reference(*args)
    assert expected.max() > 2**24
    assert_same_bits(int8_matmul(*args), expected)
    assert_same_bits(int8_matmul(*args, w_packed=pack_weight(w_q)), expected)


def test_rows_do_not_depend_on_their_batch(arguments, backend, assert_same_bits):
    x_q, x_scale, w_q, w_scale, bias, residual = arguments(150, 70, 90)
    w_packed = pack_weight(w_q)
    whole = int8_matmul(x_q, x_scale, w_q, w_scale, bias, residual, w_packed=w_packed)
    for rows in (slice(0, 1), slice(3, 20), slice(60, 150)):
        part = int8_matmul(x_q[rows], x_scale[rows], w_q, w_scale, bias, residual[rows])
        assert_same_bits(part, whole[rows])


def test_nan_scales_give_nan_rows(arguments, backend):
    x_q, x_scale, *rest = arguments(6, 40, 32)
    x_scale[2] = torch.nan
    y = int8_matmul(x_q, x_scale, *rest, act="relu")
    assert y.isnan().all(-1).tolist() == [False, False, True, False, False, False]
    assert not y[[0, 1, 3, 4, 5]].isnan().any()


def test_strides_and_leading_dimensions(device, backend, weights, assert_same_bits):
    w_q, w_scale, bias = weights(24, 40)
    w_q, w_scale, bias = w_q.T.contiguous().T, w_scale.repeat(2)[::2], bias.repeat(2)[::2]
    x_q = torch.randint(-127, 128, (40, 3, 2, 5), dtype=torch.int8, device=device).permute(
        3, 2, 1, 0
    )
    x_scale = torch.rand(2, 5, 3, device=device).transpose(0, 1)
    residual = torch.randn(24, 5, 2, 3, device=device).permute(1, 2, 3, 0)
    args = x_q, x_scale, w_q, w_scale, bias, residual
    assert_same_bits(int8_matmul(*args), int8_matmul.reference(*args))


@settings(max_examples=60, deadline=None)
@given(
    M=st.integers(0, 200),
    N=st.integers(0, 70),
    K=st.integers(0, 200),
    act=st.sampled_from(["none", "relu"]),
    packed=st.booleans(),
)
def test_any_shape(M, N, K, act, packed):
    x_q = torch.randint(-127, 128, (M, K), dtype=torch.int8)
    w_q = torch.randint(-127, 128, (N, K), dtype=torch.int8)
    args = x_q, torch.rand(M), w_q, torch.rand(N), torch.randn(N), None, act
    w_packed = pack_weight(w_q) if packed else None
    assert torch.equal(int8_matmul(*args, w_packed=w_packed), int8_matmul.reference(*args))


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_gradient(act, arguments, backend):
    x_q, x_scale, w_q, w_scale, bias, residual = arguments(7, 20, 32)
    w_scale /= 30  # so that the activations' curves are where the values are
    bias.requires_grad_()
    residual.requires_grad_()
    dy = torch.randn_like(residual)
    int8_matmul(x_q, x_scale, w_q, w_scale, bias, residual, act).backward(dy)
    z = int8_matmul(x_q, x_scale, w_q, w_scale, bias).detach().requires_grad_()
    ACTIVATIONS[act][0](z).backward(dy)
    torch.testing.assert_close(bias.grad, z.grad.sum(0))
    torch.testing.assert_close(residual.grad, dy)


def test_registration(arguments, backend):
    args, kwargs = arguments(7, 20, 32), {"act": "gelu", "out_dtype": torch.bfloat16}
    torch.library.opcheck(int8_matmul.overload, args, kwargs)
    # An opaque tensor has no data for the other checks to read.
    kwargs["w_packed"] = pack_weight(args[2])
    torch.library.opcheck(
        int8_matmul.overload, args, kwargs, test_utils="test_aot_dispatch_dynamic"
    )


def test_compiles_whole(arguments, backend, assert_same_bits):
    args = arguments(7, 20, 32)
    w_packed = pack_weight(args[2])
    compiled = torch.compile(int8_matmul, fullgraph=True, backend="aot_eager")
    assert_same_bits(compiled(*args, w_packed=w_packed), int8_matmul(*args))


ERRORS = {
    "x_q float": ({"x_q": torch.ones(4, 16)}, "x_q must be int8, got torch.float32"),
    "w_q float": ({"w_q": torch.ones(8, 16)}, "w_q must be int8, got torch.float32"),
    "w_q a vector": (
        {"w_q": torch.ones(16, dtype=torch.int8)},
        r"w_q must have shape \(N, K\), got \(16,\)",
    ),
    "K differs": (
        {"x_q": torch.ones(4, 15, dtype=torch.int8)},
        r"x_q must have shape \(..., K = 16\), got \(4, 15\)",
    ),
    "x_q a number": (
        {"x_q": torch.tensor(1, dtype=torch.int8)},
        r"x_q must have shape \(..., K = 16\), got \(\)",
    ),
    "x_q sparse": (
        {"x_q": torch.ones(4, 16, dtype=torch.int8).to_sparse()},
        "x_q must be a dense tensor",
    ),
    "residual sparse": ({"residual": torch.ones(4, 8).to_sparse()}, "residual must be a dense"),
    "x_scale half": (
        {"x_scale": torch.ones(4).half()},
        "x_scale must be float32, got torch.float16",
    ),
    "x_scale short": ({"x_scale": torch.ones(3)}, r"x_scale must have shape \(4,\), got \(3,\)"),
    "w_scale long": ({"w_scale": torch.ones(9)}, r"w_scale must have shape \(8,\), got \(9,\)"),
    "w_scale integers": (
        {"w_scale": torch.ones(8).int()},
        "w_scale must be float32, got torch.int32",
    ),
    "bias integers": (
        {"bias": torch.ones(8).int()},
        "bias must be floating point, got torch.int32",
    ),
    "bias a matrix": ({"bias": torch.ones(1, 8)}, r"bias must have shape \(8,\), got \(1, 8\)"),
    "residual one row": (
        {"residual": torch.ones(8)},
        r"residual must have shape \(4, 8\), got \(8,\)",
    ),
    "residual float64": (
        {"residual": torch.ones(4, 8).double()},
        "residual must be float32, float16 or bfloat16, got torch.float64",
    ),
    "act unknown": (
        {"act": "tanh"},
        "act must be one of none, relu, gelu, gelu_tanh, silu, got 'tanh'",
    ),
    "out_dtype integer": (
        {"out_dtype": torch.int8},
        "out_dtype must be floating point, got torch.int8",
    ),
    "K too long": (
        {
            "x_q": torch.ones(4, MAX_K + 1, dtype=torch.int8),
            "w_q": torch.ones(8, MAX_K + 1, dtype=torch.int8),
        },
        "K must be at most 133144, the most int8 products that an int32 holds, got 133145",
    ),
}


def correct():
    return {
        "x_q": torch.ones(4, 16, dtype=torch.int8),
        "x_scale": torch.ones(4),
        "w_q": torch.ones(8, 16, dtype=torch.int8),
        "w_scale": torch.ones(8),
    }


@pytest.mark.parametrize("wrong, message", ERRORS.values(), ids=ERRORS)
def test_errors(wrong, message, backend):
    with pytest.raises(RuntimeError, match=f"^{message}"):
        int8_matmul(**correct() | wrong)


@pytest.mark.parametrize("argument", ["w_q", "w_scale", "bias", "residual", "x_scale"])
def test_errors_name_the_device(argument, backend):
    wrong = correct() | {"bias": torch.ones(8), "residual": torch.ones(4, 8)}
    wrong[argument] = wrong[argument].to("meta")
    with pytest.raises(RuntimeError, match=f"^{argument} must be on the device of x_q"):
        int8_matmul(**wrong)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the CPU's packed weights")
def test_packed_weights_do_not_bring_other_devices_to_the_kernel(weights, backend):
    w_q, w_scale, _ = weights(8, 16)
    w_packed = pack_weight(w_q)
    if w_packed is None:
        return
    x_q, x_scale = torch.ones(4, 16, dtype=torch.int8, device="meta"), torch.ones(4, device="meta")
    message = "^x_q must be on the device of w_packed"
    with pytest.raises(RuntimeError, match=message):
        int8_matmul(x_q, x_scale, w_q.to("meta"), w_scale.to("meta"), w_packed=w_packed)
    with pytest.raises(RuntimeError, match="^(x_q|w_q) must be on the device of"):
        int8_matmul(x_q, x_scale, w_q, w_scale, w_packed=w_packed)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the CPU's packed weights")
def test_packed_weights_must_be_those_of_w_q(weights):
    w_q, w_scale, _ = weights(8, 16)
    x_q = torch.ones(4, 16, dtype=torch.int8)
    of_another = pack_weight(weights(9, 16)[0])
    for wrong in (w_q, w_q[:, :8]) if of_another is None else (w_q, of_another):
        with pytest.raises(
            RuntimeError, match=r"^w_packed must be what pack_weight\(w_q\) returned"
        ):
            int8_matmul(x_q, torch.ones(4), w_q, w_scale, w_packed=wrong)
