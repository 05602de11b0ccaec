"""int8_weight_linear: a linear layer with int8 weights, whose activations stay as they are."""

import torch
from torch import Tensor

from green_kernels.ops._linear import check_linear, empty_output, gradient_of
from green_kernels.ops._op import op
from green_kernels.ops.int8_matmul import finish
from green_kernels.ops.pack import check_padded


@op
def int8_weight_linear(
    x: Tensor,
    w_q: Tensor,
    w_scale: Tensor,
    bias: Tensor | None = None,
    act: str = "none",
    residual: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    w_packed: Tensor | None = None,
) -> Tensor:
    """Return act((x @ w_q.T) * w_scale + bias) + residual, x as it is.

    int8 values are exact in each dtype of x, so w_q is multiplied as it is. Kernels sum in float32,
    each in an order of its own, and so are off by K * 2**-23 * sum |x * w_q| at the most, or three
    times that where x is float32, which a GPU multiplies in three parts. But bfloat16, and sums of
    it, below 2**-126 may count as zero, and what is past the largest float32 on its way does not
    come back. The rest is float32, each operation rounded in the order written. The weights are
    frozen.

    x: (..., K), float32, float16 or bfloat16;  K at most MAX_K
    w_q: (N, K), int8, in [-127, 127];  w_scale: (N,), float32
    bias: (N,) and residual: (..., N), each float32, float16 or bfloat16
    act: "none", "relu", "gelu", "gelu_tanh" or "silu"
    out_dtype: float32, float16 or bfloat16; None is the dtype of x
    w_packed: what pad_weight made of this very w_q, for speed; of another one it is not noticed
    returns: (..., N), in out_dtype
    raises: RuntimeError that names the argument at fault
    """
    sums = (x.double() @ w_q.double().T).float()
    return finish(sums, w_scale, bias, residual, act, out_dtype or x.dtype)


@int8_weight_linear.check
def check_int8_weight_linear(x, w_q, w_packed, **others):
    """Raise on what the kernels could not read."""
    check_linear(x, w_q=w_q, w_packed=w_packed, **others)
    if w_packed is not None:
        check_padded(w_packed, w_q)


int8_weight_linear.fake(empty_output)
int8_weight_linear.gradient(*gradient_of(int8_weight_linear))
