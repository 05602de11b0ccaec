"""quantize_rows: float activations to int8 and a scale for each row."""

import torch

from green_kernels import ops

from .. import data, peers
from ..case import Case, case
from ..triton_way import triton


@case(
    ways=("torch fp32", "torch compiled", "ours", "ours triton"),
    **{"512x4096": (512, 4096), "4096x384": (4096, 384)},
)
def quantize_rows(m, k, device):
    """x_q = round(x * 127 / amax) and scale = amax / most, amax by rows."""
    x = data.activations(m, k, device)
    most = torch.full((), 127.0, device=device)  # torch divides a number by its reciprocal

    def in_torch(x):
        amax = x.abs().amax(1).clamp(min=2.0**-100)
        x_q = (x * (most / amax)[:, None]).round().clamp(-127, 127).to(torch.int8)
        return x_q, amax / most

    def compiled():
        function = peers.compiled(in_torch, lambda function: function(x))
        return lambda: function(x)

    def ours():
        return lambda: ops.quantize_rows(x)

    return Case(
        dtype="float32",
        flops=4 * m * k,  # |x|, max, product and rounding of each element
        bytes=4 * m * k + m * k + 4 * m,
        tolerance=0.01,  # one step of 127, as torch.compile may round a quotient otherwise
        output=lambda output: output[0] * output[1][:, None],
        ways={
            "torch fp32": lambda: lambda: in_torch(x),
            "torch compiled": compiled,
            "ours": ours,
            "ours triton": lambda: triton(ours(), device),
        },
    )
