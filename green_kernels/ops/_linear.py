"""What the linear ops with int8 weights share: their checks, their outputs and their gradient."""

import torch

from green_kernels.ops.int8_matmul import ACTIVATIONS, check_product
from green_kernels.ops.quantize_rows import check_quantize_rows


def check_linear(x, **others):
    """Raise on what the kernels could not read."""
    check_quantize_rows(x)
    check_product(x, whose="x", **others)


def empty_output(x, w_q, out_dtype, **others):
    """Return an output of the right shape and dtype."""
    return x.new_empty((*x.shape[:-1], w_q.shape[0]), dtype=out_dtype or x.dtype)


def gradient_of(linear):
    """Return (save, backward) of linear(x, w_q, w_scale, bias, act, residual, .., w_packed).

    To x as if it had been multiplied as it is, to bias and to residual. The weights are frozen.
    """

    def save(ctx, inputs, output):
        x, w_q, w_scale, bias, act, residual, _, w_packed = inputs
        # z, before the activation, is computed again from x: cheaper than to keep it.
        again = (x, w_packed) if act != "none" else (None, None)
        ctx.save_for_backward(w_q, w_scale, bias, *again)
        ctx.x_dtype = x.dtype
        ctx.residual_dtype = None if residual is None else residual.dtype
        ctx.act = act

    def backward(ctx, dy):
        w_q, w_scale, bias, x, w_packed = ctx.saved_tensors
        dz = dy.float()
        if ctx.act != "none":
            z = linear(x, w_q, w_scale, bias, out_dtype=torch.float32, w_packed=w_packed)
            dz = ACTIVATIONS[ctx.act][1](dz, z)
        dx = None
        if ctx.needs_input_grad[0]:
            with torch.autocast(dy.device.type, enabled=False):  # it would multiply in 16 bits
                dx = ((dz * w_scale) @ w_q.float()).to(ctx.x_dtype)
        d_bias = None if bias is None else dz.reshape(-1, dz.shape[-1]).sum(0).to(bias.dtype)
        d_residual = None if ctx.residual_dtype is None else dy.to(ctx.residual_dtype)
        return dx, None, None, d_bias, None, d_residual, None, None

    return save, backward
