"""int8_matmul: int8 by int8, the scales and a bias, of inputs that are int8 already."""

import torch
import torch.nn.functional as F

from green_kernels import ops

from .. import data, peers
from ..case import Case, Way, case
from ..shapes import SERVED
from ..triton_way import triton

SHAPES = {"512x4096x4096": (512, 4096, 4096), "4096x384x1536": (4096, 384, 1536)}  # M, K, N
WAYS = ("torch fp32", "torch bf16", "torch._int_mm bare", "torch._int_mm", "ours", "ours triton")


@case(ways=WAYS, **{name: (*shape, torch.float32) for name, shape in SHAPES.items()})
@case(default=False, **{f"{name}-bf16": (*s, torch.bfloat16) for name, s in SHAPES.items()})
@case(by_shape=True, **{name: (*shape, torch.bfloat16) for name, shape in SERVED.items()})
def int8_matmul(m, k, n, dtype, device):
    """y = (x_q @ w_q.T) * x_scale * w_scale + bias, in dtype."""
    x_q, x_scale = ops.quantize_rows(data.activations(m, k, device))
    w_q, w_scale = ops.quantize_rows(torch.randn(n, k, device=device) / k**0.5)
    bias = torch.randn(n, device=device, dtype=dtype)

    def floats(to):
        x, w = x_q * x_scale[:, None], w_q * w_scale[:, None]
        return x.to(to), w.to(to), bias.to(to)

    def fp32():
        x, w, bias_32 = floats(torch.float32)
        return lambda: F.linear(x, w, bias_32)

    def bf16():
        x, w, bias_16 = floats(torch.bfloat16)
        return Way(lambda: F.linear(x, w, bias_16), dtype="bfloat16")

    def product(x_q, w_q):
        return torch._int_mm(x_q, w_q.t())

    def epilogue(acc):
        return (acc.float() * x_scale[:, None] * w_scale + bias).to(dtype)

    def whole(x_q, w_q):
        return epilogue(product(x_q, w_q))

    def int_mm(function, compiled=False, **more):
        peers.check_int_mm(x_q, w_q)
        if compiled:
            function = peers.compiled(function, lambda function: function(x_q, w_q))
        return Way(lambda: function(x_q, w_q), **more)

    def ours():
        w_packed = ops.pack_weight(w_q)
        return lambda: ops.int8_matmul(
            x_q, x_scale, w_q, w_scale, bias, out_dtype=dtype, w_packed=w_packed
        )

    ways = {
        "torch bf16": bf16,
        "torch._int_mm bare": lambda: int_mm(product, finish=epilogue),
        "torch._int_mm": lambda: int_mm(whole),
        "torch._int_mm compiled": lambda: int_mm(whole, compiled=True),
        "ours": ours,
        "ours triton": lambda: triton(ours(), device),
    }
    if dtype == torch.float32:  # on a CPU: three minutes for all cases are too few to compile in
        del ways["torch._int_mm compiled"]
        ways = {"torch fp32": fp32, **ways}
    size = dtype.itemsize
    return Case(
        dtype=str(dtype).removeprefix("torch."),
        flops=2 * m * n * k,
        bytes=m * k + 4 * m + n * k + (4 + size) * n + size * m * n,
        tolerance=0.01,  # of bfloat16; the int8 ways compute what float32 does
        ways=ways,
    )
