"""int8_matmul: int8 by int8, summed in int32, and everything that follows in one pass."""

import math

import torch
from torch import Tensor

from green_kernels.ops._check import (
    check,
    check_device,
    check_dtype,
    check_float,
    check_float_tensor,
    check_shape,
)
from green_kernels.ops._op import op
from green_kernels.ops.quantize_rows import INT8_MAX

MAX_K = (2**31 - 1) // INT8_MAX**2  # the longest sum that an int32 holds for certain: 133,144


def _gelu(z):
    return z * (0.5 * torch.special.erfc(z * -math.sqrt(0.5)))


def _gelu_tanh(z):
    return z * torch.sigmoid(math.sqrt(8 / math.pi) * (z + 0.044715 * z**3))


def _silu_gradient(dy, z):
    s = torch.sigmoid(z)
    return dy * s * (1 + z * (1 - s))


# In the order of csrc/types.h: each with its gradient (of the output, the input).
ACTIVATIONS = {
    "none": (lambda z: z, lambda dy, z: dy),
    "relu": (lambda z: torch.where(z < 0, 0, z), lambda dy, z: torch.where(z > 0, dy, 0)),
    "gelu": (_gelu, lambda dy, z: torch.ops.aten.gelu_backward(dy, z)),
    "gelu_tanh": (
        _gelu_tanh,
        lambda dy, z: torch.ops.aten.gelu_backward(dy, z, approximate="tanh"),
    ),
    "silu": (lambda z: z * torch.sigmoid(z), _silu_gradient),
}


@op
def int8_matmul(
    x_q: Tensor,
    x_scale: Tensor,
    w_q: Tensor,
    w_scale: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    act: str = "none",
    out_dtype: torch.dtype | None = None,
    w_packed: Tensor | None = None,
) -> Tensor:
    """Return act(x_q @ w_q.T * x_scale[..., None] * w_scale + bias) + residual.

    The sums are exact int32. What follows is float32, each operation rounded in the order written,
    so every backend gives the same bits for act "none" and "relu"; the other activations are within
    one unit in the last place of out_dtype.

    x_q: (..., K), int8, in [-127, 127];  x_scale: (...,), float32;  K at most MAX_K
    w_q: (N, K), int8, in [-127, 127];  w_scale: (N,), float32
    bias: (N,) and residual: (..., N), each float32, float16 or bfloat16
    act: "none", "relu", "gelu", "gelu_tanh" or "silu"
    out_dtype: float32 (as None), float16 or bfloat16
    w_packed: what pack_weight made of this very w_q, for speed; of another one it is not noticed
    returns: (..., N), in out_dtype
    raises: RuntimeError that names the argument at fault
    """
    sums = x_q.double() @ w_q.double().T  # float64 holds the int32 sums exactly
    y = sums.float() * x_scale[..., None]
    return finish(y, w_scale, bias, residual, act, out_dtype or torch.float32)


def finish(y, w_scale, bias, residual, act, out_dtype):
    """Return act(y * w_scale + bias) + residual, in float32 up to the rounding to out_dtype."""
    y = y * w_scale
    if bias is not None:
        y = y + bias.float()
    activate, _ = ACTIVATIONS[act]
    y = activate(y.double()).float()
    if residual is not None:
        y = y + residual.float()
    return y.to(out_dtype)


@int8_matmul.check
def check_int8_matmul(x_q, x_scale, **others):
    """Raise on what the kernels could not read."""
    check_dtype(x_q, torch.int8, "x_q")
    check_product(x_q, whose="x_q", **others)
    check_dtype(x_scale, torch.float32, "x_scale")
    check_shape(x_scale, x_q.shape[:-1], "x_scale")
    check_device(x_scale, x_q, "x_scale", "x_q")


def check_product(x, whose, w_q, w_scale, bias, residual, act, out_dtype, w_packed):
    """Raise unless x, whose name is `whose`, can be multiplied by w_q and finished as asked."""
    check_dtype(w_q, torch.int8, "w_q")
    check(w_q.ndim == 2, "w_q", "have shape (N, K)", tuple(w_q.shape))
    N, K = w_q.shape
    check(x.ndim >= 1 and x.shape[-1] == K, whose, f"have shape (..., K = {K})", tuple(x.shape))
    check(K <= MAX_K, "K", f"be at most {MAX_K}, the most int8 products that an int32 holds", K)
    check_dtype(w_scale, torch.float32, "w_scale")
    check_shape(w_scale, (N,), "w_scale")
    check_device(w_q, x, "w_q", whose)
    check_device(w_scale, x, "w_scale", whose)
    if bias is not None:
        check_float_tensor(bias, "bias")
        check_shape(bias, (N,), "bias")
        check_device(bias, x, "bias", whose)
    if residual is not None:
        check_float_tensor(residual, "residual")
        check_shape(residual, (*x.shape[:-1], N), "residual")
        check_device(residual, x, "residual", whose)
    check(act in ACTIVATIONS, "act", f"be one of {', '.join(ACTIVATIONS)}", repr(act))
    if out_dtype is not None:
        check_float(out_dtype, "out_dtype")
    if w_packed is not None:
        check_device(x, w_packed, whose, "w_packed")


@int8_matmul.fake
def _(x_q, w_q, out_dtype, **others):
    shape = (*x_q.shape[:-1], w_q.shape[0])
    return x_q.new_empty(shape, dtype=out_dtype or torch.float32)


def _save(ctx, inputs, output):
    x_q, x_scale, w_q, w_scale, bias, residual, act, _, w_packed = inputs
    ctx.save_for_backward(x_q, x_scale, w_q, w_scale, bias, w_packed)
    ctx.residual_dtype = None if residual is None else residual.dtype
    ctx.act = act


def _backward(ctx, dy):
    """To bias and residual: what was rounded, and its scales, are constants."""
    x_q, x_scale, w_q, w_scale, bias, w_packed = ctx.saved_tensors
    dz = dy.float()
    if ctx.act != "none":
        z = int8_matmul(x_q, x_scale, w_q, w_scale, bias, w_packed=w_packed)
        dz = ACTIVATIONS[ctx.act][1](dz, z)
    d_bias = None if bias is None else dz.reshape(-1, dz.shape[-1]).sum(0).to(bias.dtype)
    d_residual = None if ctx.residual_dtype is None else dy.to(ctx.residual_dtype)
    return None, None, None, None, d_bias, d_residual, None, None, None


int8_matmul.gradient(_save, _backward)
