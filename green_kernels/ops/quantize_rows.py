"""quantize_rows: floating point to int8 and a scale for each row."""

import torch
from torch import Tensor

from green_kernels.ops._check import check, check_float_tensor
from green_kernels.ops._op import op

INT8_MAX = 127
MIN_AMAX = 2.0**-100  # the least amax that a scale is made from


@op
def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x_q = round(x * 127 / amax) and scale = amax / 127, amax = max |x| of each row.

    So x is nearly x_q * scale[..., None]; halves are rounded to even. A row that holds NaN or
    infinity gets scale NaN and x_q 0, so that all that is computed from it is NaN.

    x: (..., K), float32, float16 or bfloat16
    returns: x_q (..., K), int8, in [-127, 127];  scale (...,), float32
    raises: RuntimeError on any other dtype or shape
    """
    wide = x.float()
    finite = wide.isfinite().all(-1)
    amax = wide.abs().amax(-1) if x.shape[-1] else wide.new_zeros(x.shape[:-1])
    amax = torch.where(finite, amax, 0).clamp(min=MIN_AMAX)
    # Tensor by tensor: dividing by a Python number is a product with its reciprocal on CUDA.
    most = torch.full_like(amax, INT8_MAX)
    q = (wide * (most / amax)[..., None]).round().clamp(-INT8_MAX, INT8_MAX)
    q = torch.where(finite[..., None], q, 0)
    return q.to(torch.int8), torch.where(finite, amax / most, torch.nan)


@quantize_rows.check
def check_quantize_rows(x):
    """Raise on what is not a matrix of floating point numbers."""
    check_float_tensor(x, "x")
    check(x.ndim >= 1, "x", "have shape (..., K)", tuple(x.shape))


@quantize_rows.fake
def _(x):
    return x.new_empty(x.shape, dtype=torch.int8), x.new_empty(x.shape[:-1], dtype=torch.float32)


def _save(ctx, inputs, output):
    ctx.mark_non_differentiable(*output)


def _backward(ctx, *gradients):
    """Rounding has no gradient; int8_linear passes it straight through."""
    return None


quantize_rows.gradient(_save, _backward)
