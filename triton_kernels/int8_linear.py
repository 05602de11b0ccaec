"""int8_linear in Triton: the rows of x are rounded by one kernel and multiplied by a second."""

from .int8_matmul import int8_matmul
from .quantize_rows import quantize_rows


def int8_linear(
    x, w_q, w_scale, bias=None, act="none", residual=None, out_dtype=None, w_packed=None
):
    """See green_kernels.ops.int8_linear. w_packed is for compiled kernels, and not used here."""
    x_q, x_scale = quantize_rows(x)
    out_dtype = out_dtype or x.dtype
    return int8_matmul(x_q, x_scale, w_q, w_scale, bias, residual, act, out_dtype)
