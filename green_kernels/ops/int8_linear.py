"""int8_linear: a linear layer that multiplies int8 by int8 and sums in int32."""

import torch
from torch import Tensor

from green_kernels.ops._op import op
from green_kernels.ops.int8_matmul import ACTIVATIONS, check_product, int8_matmul
from green_kernels.ops.quantize_rows import check_quantize_rows, quantize_rows


@op
def int8_linear(
    x: Tensor,
    w_q: Tensor,
    w_scale: Tensor,
    bias: Tensor | None = None,
    act: str = "none",
    residual: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    w_packed: Tensor | None = None,
) -> Tensor:
    """Return act(x @ (w_q * w_scale[:, None]).T + bias) + residual, x rounded to int8 by rows.

    That is int8_matmul(*quantize_rows(x), w_q, w_scale, bias, residual, act) in one call. The
    gradient passes straight through the rounding of x; the weights are frozen.

    x: (..., K), float32, float16 or bfloat16;  K at most MAX_K
    w_q: (N, K), int8, in [-127, 127];  w_scale: (N,), float32
    bias: (N,) and residual: (..., N), each float32, float16 or bfloat16
    act: "none", "relu", "gelu", "gelu_tanh" or "silu"
    out_dtype: float32, float16 or bfloat16; None is the dtype of x
    w_packed: what pack_weight made of this very w_q, for speed; of another one it is not noticed
    returns: (..., N), in out_dtype
    raises: RuntimeError that names the argument at fault
    """
    x_q, x_scale = quantize_rows.reference(x)
    return int8_matmul.reference(
        x_q, x_scale, w_q, w_scale, bias, residual, act, out_dtype or x.dtype
    )


@int8_linear.check
def check_int8_linear(x, **others):
    """Raise on what the kernels could not read."""
    check_quantize_rows(x)
    check_product(x, whose="x", **others)


@int8_linear.fake
def _(x, w_q, out_dtype, **others):
    return x.new_empty((*x.shape[:-1], w_q.shape[0]), dtype=out_dtype or x.dtype)


def _save(ctx, inputs, output):
    x, w_q, w_scale, bias, act, residual, _, w_packed = inputs
    # z, before the activation, is computed again from x: cheaper than to keep it.
    again = (x, w_packed) if act != "none" else (None, None)
    ctx.save_for_backward(w_q, w_scale, bias, *again)
    ctx.x_dtype = x.dtype
    ctx.residual_dtype = None if residual is None else residual.dtype
    ctx.act = act


def _backward(ctx, dy):
    """Straight through the rounding of x. The weights are frozen."""
    w_q, w_scale, bias, x, w_packed = ctx.saved_tensors
    dz = dy.float()
    if ctx.act != "none":
        z = int8_linear(x, w_q, w_scale, bias, out_dtype=torch.float32, w_packed=w_packed)
        dz = ACTIVATIONS[ctx.act][1](dz, z)
    dx = ((dz * w_scale) @ w_q.float()).to(ctx.x_dtype)
    d_bias = None if bias is None else dz.reshape(-1, dz.shape[-1]).sum(0).to(bias.dtype)
    d_residual = None if ctx.residual_dtype is None else dy.to(ctx.residual_dtype)
    return dx, None, None, d_bias, None, d_residual, None, None


int8_linear.gradient(_save, _backward)
