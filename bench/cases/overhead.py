"""overhead: a layer so small that the time is that of the call."""

import torch
import torch.nn.functional as F

from green_kernels import ops

from .. import data
from ..case import Case, case
from ..triton_way import triton
from .int8_linear import tolerance


@case(ways=("torch fp32", "ours", "ours triton"), **{"1x64x64": (1, 64, 64)})
def overhead(m, k, n, device):
    """int8_linear with packed weights, as Int8Linear calls it, and F.linear."""
    x, bias = data.activations(m, k, device), torch.randn(n, device=device)
    w_q, w_scale = ops.quantize_rows(torch.randn(n, k, device=device) / k**0.5)
    w, w_packed = w_q * w_scale[:, None], ops.pack_weight(w_q)

    def ours():
        return lambda: ops.int8_linear(x, w_q, w_scale, bias, w_packed=w_packed)

    return Case(
        dtype="float32",
        flops=2 * m * n * k,
        bytes=4 * m * k + n * k + 8 * n + 4 * m * n,
        tolerance=tolerance(x, w, bias),
        graph=False,  # the call is the point
        ways={
            "torch fp32": lambda: lambda: F.linear(x, w, bias),
            "ours": ours,
            "ours triton": lambda: triton(ours(), device),
        },
    )
