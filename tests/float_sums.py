"""How far int8_weight_linear may be from its body, which sums in float64: derived, not tuned."""

import functools

import torch

from green_kernels.ops import ACTIVATIONS, int8_weight_linear

TINY = 2.0**-126  # the least normal float32
EPS = 2.0**-23  # relative error of one float32 operation: tensor cores truncate


@functools.cache
def slope(act):
    """How much `act` may stretch a difference: the most of its gradient."""
    z = torch.linspace(-10, 10, 20_001, dtype=torch.float64)
    return ACTIVATIONS[act][1](torch.ones_like(z), z).abs().max().item()


def bound(x, w_q, w_scale, bias=None, act="none", residual=None, out_dtype=None):
    """The most that each output may differ by, to first order."""
    K = x.shape[-1]
    body = functools.partial(int8_weight_linear.reference, x, w_q, w_scale, bias, act)
    # K products and sums in any order, for each of the three bfloat16 that a float32 is to tensor
    # cores; the body's sum and two operations, half an EPS on each side.
    size = (x.double().abs() @ w_q.double().abs().T) * w_scale
    terms = 3 * K if x.dtype == torch.float32 else K
    error = (terms + 3) * EPS * size + (0 if bias is None else EPS * bias.double().abs())
    error = error + K * 127 * TINY * w_scale  # subnormal x, and sums, may count as zero
    error = slope(act) * error
    y = body(residual, out_dtype)
    ulp = torch.finfo(y.dtype).eps
    if act not in ("none", "relu"):  # within one unit in the last place
        error = error + ulp * body(None, torch.float32).double().abs()
    subnormal = torch.finfo(y.dtype).smallest_normal * ulp
    return error + (EPS + ulp) * y.double().abs() + subnormal  # the residual, and the last rounding


def assert_near_body(y, *args, **kwargs):
    """Assert that y is what int8_weight_linear may give for these arguments."""
    expected = int8_weight_linear.reference(*args, **kwargs)
    assert y.dtype == expected.dtype and y.shape == expected.shape
    finite = expected.isfinite()
    torch.testing.assert_close(y[~finite], expected[~finite], rtol=0, atol=0, equal_nan=True)
    apart, most = (y.double() - expected.double()).abs(), bound(*args, **kwargs)
    within = apart <= most  # false for NaN
    assert within[finite].all(), f"{(apart / most)[finite].max()} of what rounding explains"
