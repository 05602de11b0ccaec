"""int8_linear: a linear layer that multiplies int8 by int8 and sums in int32."""

import torch
from torch import Tensor

from green_kernels.ops._linear import check_linear, empty_output, gradient_of
from green_kernels.ops._op import op
from green_kernels.ops.int8_matmul import int8_matmul
from green_kernels.ops.quantize_rows import quantize_rows


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


int8_linear.check(check_linear)
int8_linear.fake(empty_output)
int8_linear.gradient(*gradient_of(int8_linear))  # straight through the rounding of x
