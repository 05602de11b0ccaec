"""int8_matmul: int8 by int8, the scales and a bias, of inputs that are int8 already."""

import torch
import torch.nn.functional as F

from green_kernels import ops

from .. import data, peers
from ..case import Case, Way, case
from ..triton_way import triton


@case(
    ways=("torch fp32", "torch bf16", "torch._int_mm", "ours", "ours triton"),
    **{"512x4096x4096": (512, 4096, 4096), "4096x384x1536": (4096, 384, 1536)},
)
def int8_matmul(m, k, n, device):
    """y = (x_q @ w_q.T) * x_scale * w_scale + bias, in float32."""
    x_q, x_scale = ops.quantize_rows(data.activations(m, k, device))
    w_q, w_scale = ops.quantize_rows(torch.randn(n, k, device=device) / k**0.5)
    bias = torch.randn(n, device=device)
    x, w = x_q * x_scale[:, None], w_q * w_scale[:, None]

    def bf16():
        x_16, w_16, bias_16 = x.bfloat16(), w.bfloat16(), bias.bfloat16()
        return Way(lambda: F.linear(x_16, w_16, bias_16), dtype="bfloat16")

    def int_mm():
        return lambda: peers.int_mm(x_q, w_q).float() * x_scale[:, None] * w_scale + bias

    def ours():
        w_packed = ops.pack_weight(w_q)
        return lambda: ops.int8_matmul(x_q, x_scale, w_q, w_scale, bias, w_packed=w_packed)

    return Case(
        dtype="float32",
        flops=2 * m * n * k,
        bytes=m * k + 4 * m + n * k + 8 * n + 4 * m * n,
        tolerance=0.01,  # of bfloat16; the int8 ways compute what float32 does
        ways={
            "torch fp32": lambda: lambda: F.linear(x, w, bias),
            "torch bf16": bf16,
            "torch._int_mm": int_mm,
            "ours": ours,
            "ours triton": lambda: triton(ours(), device),
        },
    )
