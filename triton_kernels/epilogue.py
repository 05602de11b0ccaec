"""From a sum, int32 or float32, to an output, one rounded float32 operation after another.

y = float(acc) * x_scale;  y = y * w_scale;  y = y + bias;  y = act(y);  y = y + residual

The formulas are those of csrc/epilogue.h, which says why. (The sums of int8_weight_linear have no
x_scale.)
"""

import triton
import triton.language as tl

from .floats import product, round_to, to_float32, total


@triton.jit
def _tail(x, exponent):
    """x * e**exponent for exponent <= 0, subnormal results too."""
    if x.dtype == tl.float64:
        return x * tl.exp(exponent)
    else:  # in halves, because the GPU's own exponential gives 0 below 2**-126
        root = tl.exp(exponent * 0.5)
        return x * root * root


@triton.jit
def _times_sigmoid(z, s):
    """z / (1 + e**-s) for z >= 0, z / (1 + e**s) for z < 0: given s >= 0, no e**-s overflows."""
    return tl.where(z < 0, _tail(z, -s), z) / (1.0 + tl.exp(-s))


@triton.jit
def _times_normal_distribution(z):
    """z * Phi(z), where Phi(-t) = e**(-t*t/2) * R(t), and R comes from a polynomial."""
    t = tl.minimum(tl.abs(z), 40.0)  # the tail at 40 is nothing, and infinity / infinity a NaN
    v = (t - 4.25) / (t + 4.25)
    p = v * 2.78843357544808e-05 + 6.9787042991772185e-05
    p = p * v - 0.00020032432311396656
    p = p * v - 0.00040286545831392498
    p = p * v + 0.0021523785340460534
    p = p * v - 0.00074534286762408951
    p = p * v - 0.019358807087797587
    p = p * v + 0.085272055376092101
    p = p * v - 0.22051598461252958
    p = p * v + 0.41822752686634684
    p = p * v - 0.6251297777265904
    p = p * v + 0.75955420826293629
    r = p / (t + 4.25)
    return tl.where(z < 0, _tail(z * r, t * t * -0.5), z * (1.0 - _tail(r, t * t * -0.5)))


@triton.jit
def activate(z, ACT: tl.constexpr, PRECISE: tl.constexpr):
    """act(z), float32 to float32, in float64 between if PRECISE."""
    if PRECISE:
        return activate(z.to(tl.float64), ACT, False).to(tl.float32)
    elif ACT == "relu":
        return tl.where(z < 0, 0.0, z)  # NaN stays NaN
    elif ACT == "gelu":
        return _times_normal_distribution(z)
    elif ACT == "gelu_tanh":
        t = tl.minimum(tl.abs(z), 40.0)  # there the sigmoid is 0 or 1, and t**3 no overflow
        return _times_sigmoid(z, 1.5957691216057308 * (t + 0.044715 * t * t * t))
    elif ACT == "silu":
        return _times_sigmoid(z, tl.abs(z))
    else:
        return z


@triton.jit
def finish(
    acc, x_scale_ptr, w_scale_ptr, bias_ptr, residual_ptr, y_ptr,
    m, n, M, N,
    ACT: tl.constexpr, PRECISE: tl.constexpr,
):  # fmt: skip
    """Store y of a tile of sums: rows m of M, columns n of N. x_scale, bias, residual: or None."""
    y = acc.to(tl.float32)
    if x_scale_ptr is not None:
        y = product(y, tl.load(x_scale_ptr + m, m < M, 0.0)[:, None])
    y = product(y, tl.load(w_scale_ptr + n, n < N, 0.0)[None, :])
    if bias_ptr is not None:
        y = total(y, to_float32(tl.load(bias_ptr + n, n < N, 0.0))[None, :])
    y = activate(y, ACT, PRECISE)
    at = m.to(tl.int64)[:, None] * N + n[None, :]  # M * N outgrows int32
    in_y = (m < M)[:, None] & (n < N)[None, :]
    if residual_ptr is not None:
        y = total(y, to_float32(tl.load(residual_ptr + at, in_y, 0.0)))
    tl.store(y_ptr + at, round_to(y, y_ptr.dtype.element_ty), in_y)
