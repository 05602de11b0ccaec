"""int8_linear at the sizes of a transformer's layers, against float and other int8 layers."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import green_kernels as gk
from green_kernels import ops

from .. import data, peers
from ..case import Case, Way, case
from ..shapes import SERVED
from ..triton_way import triton

SHAPES = {
    "1x4096x4096": (1, 4096, 4096),  # M, K, N: decoding
    "16x4096x4096": (16, 4096, 4096),  # a small batch of it
    "128x1024x4096": (128, 1024, 4096),
    "512x4096x4096": (512, 4096, 4096),  # prefill
    "4096x384x1536": (4096, 384, 1536),  # MiniLM's MLP at 32 x 128 tokens
}

WAYS = (
    "torch fp32",
    "torch bf16",
    "quantize_dynamic (onednn)",
    "torchao int8",
    "torchao int8 compiled",
    "bitsandbytes int8",
    "torch._int_mm",
    "ours",
    "ours triton",
)


def tolerance(x: Tensor, w: Tensor, bias: Tensor) -> float:
    """Return the error that rounding x to int8 may make, relative to max|y|: 0.04, or more.

    The coarsest way rounds all of x by one step, of 2 max|x| / 127 where it has 7 bits of the 8.
    Such roundings, independent, add up to an error of standard deviation step / sqrt(12) * |w|
    for a row w. Six of these are more than 0.04 only where x has outliers, as real ones do.
    """
    step, row = 2 * x.abs().max() / 127, w.norm(dim=1).max()
    return max(0.04, (6 * step / 12**0.5 * row / F.linear(x, w, bias).abs().max()).item())


def float_layer(
    m: int, k: int, n: int, dtype: torch.dtype, device: str
) -> tuple[Tensor, Tensor, Tensor, nn.Linear]:
    """Return x, (m, k), a random weight as w_q and w_scale, (n, k), and the layer that has it."""
    x = data.activations(m, k, device).to(dtype)
    w_q, w_scale = ops.quantize_rows(torch.randn(n, k, device=device) / k**0.5)
    bias = torch.randn(n, device=device, dtype=dtype)
    linear = nn.Linear(k, n, device=device, dtype=dtype)
    linear.weight.data, linear.bias.data = (w_q * w_scale[:, None]).to(dtype), bias
    return x, w_q, w_scale, linear


def in_bfloat16(linear: nn.Linear, x: Tensor) -> Way:
    """Return linear(x), both in bfloat16, as a way."""
    x_16, w_16, bias_16 = x.bfloat16(), linear.weight.bfloat16(), linear.bias.bfloat16()
    return Way(lambda: F.linear(x_16, w_16, bias_16), dtype="bfloat16")


@case(ways=WAYS, **{name: (*shape, torch.float32) for name, shape in SHAPES.items()})
@case(default=False, **{f"{name}-bf16": (*s, torch.bfloat16) for name, s in SHAPES.items()})
@case(by_shape=True, **{name: (*shape, torch.bfloat16) for name, shape in SERVED.items()})
def int8_linear(m, k, n, dtype, device):
    """y = x @ w.T + bias, w within the rounding of int8, in and out in dtype."""
    x, w_q, w_scale, linear = float_layer(m, k, n, dtype, device)
    bias = linear.bias.data

    def of(module):
        return lambda: module(x)

    def torchao_compiled():
        return of(peers.torchao_compiled(linear, lambda layer: layer(x)))

    def bitsandbytes():
        x_16, layer = x.half(), peers.bitsandbytes(linear, device)
        return Way(lambda: layer(x_16), dtype="float16")

    def whole(x, w_q):
        amax = x.float().abs().amax(1, keepdim=True).clamp(min=2.0**-100)
        x_q = (x * (127 / amax)).round().clamp(-127, 127).to(torch.int8)
        acc = torch._int_mm(x_q, w_q.t()).float()
        return (acc * (amax / 127) * w_scale + bias).to(dtype)

    def int_mm(compiled=False):
        peers.check_int_mm(x, w_q)
        function = whole
        if compiled:
            function = peers.compiled(whole, lambda function: function(x, w_q))
        return lambda: function(x, w_q)

    def ours():
        w_packed = ops.pack_weight(w_q)
        return lambda: ops.int8_linear(x, w_q, w_scale, bias, w_packed=w_packed)

    def as_converted():
        """What convert makes of the layer for calls of m rows, or leaves of it."""
        model = nn.Sequential(linear)
        gk.convert(model, gk.Int8(rows=m))
        return of(model[0])

    ways = {
        "torch fp32": lambda: of(linear),
        "torch bf16": lambda: in_bfloat16(linear, x),
        "quantize_dynamic (onednn)": lambda: of(peers.quantize_dynamic(linear, device)),
        "torchao int8": lambda: of(peers.torchao(linear)),
        "torchao int8 compiled": torchao_compiled,
        "bitsandbytes int8": bitsandbytes,
        "torch._int_mm": int_mm,
        "torch._int_mm compiled": lambda: int_mm(compiled=True),
        "ours": ours,
        "ours, as converted": as_converted,
        "ours triton": lambda: triton(ours(), device),
    }
    if dtype != torch.float32:  # quantize_dynamic takes float32 only
        del ways["torch fp32"], ways["quantize_dynamic (onednn)"]
    else:  # on a CPU: three minutes for all cases are too few to compile once more in
        del ways["torch._int_mm compiled"], ways["ours, as converted"]
    size = x.element_size()
    return Case(
        dtype=str(dtype).removeprefix("torch."),
        flops=2 * m * n * k,
        bytes=size * m * k + n * k + (4 + size) * n + size * m * n,
        tolerance=tolerance(x, linear.weight, bias),
        ways=ways,
    )
