"""int8_weight_linear at the sizes of a transformer's layers, against float layers and torchao."""

import torch
from torch import Tensor

from green_kernels import ops

from .. import peers
from ..case import Case, case
from ..shapes import SERVED
from ..triton_way import triton
from .int8_linear import SHAPES, float_layer, in_bfloat16

BY_DEFAULT = ("1x4096x4096", "16x4096x4096", "512x4096x4096")
WAYS = (
    "torch fp32",
    "torch bf16",
    "torchao int8",
    "torchao int8 compiled",
    "ours",
    "ours triton",
)


def tolerance(x: Tensor, w: Tensor, y: Tensor) -> float:
    """Return the error that rounding may make, relative to max|y|.

    Of ours it is float32's. Other ways round x and w to bfloat16, by 2**-8 of each value at the
    most, or w to int8 once more, by half of max|w| / 127: independent errors of products, of
    standard deviation 2**-8 max|w| |x| or less in a sum. Six of these, and bfloat16's of y.
    """
    sums = 6 * 2**-8 * w.abs().max() * x.norm(dim=1).max()
    return 2**-8 + (sums / y.abs().max()).item()


def shapes(default: bool) -> dict[str, tuple]:
    """The sizes and dtype of each shape that runs by default, or of each that does not."""
    dtypes = {"": torch.float32, "-bf16": torch.bfloat16}
    return {
        name + ending: (*sizes, dtype)
        for ending, dtype in dtypes.items()
        for name, sizes in SHAPES.items()
        if (not ending and name in BY_DEFAULT) == default
    }


@case(ways=WAYS, **shapes(default=True))
@case(default=False, **shapes(default=False))
@case(by_shape=True, **{name: (*sizes, torch.bfloat16) for name, sizes in SERVED.items()})
def int8_weight_linear(m, k, n, dtype, device):
    """y = x @ w.T + bias, w within the rounding of int8, x as it is, in and out in dtype."""
    x, w_q, w_scale, linear = float_layer(m, k, n, dtype, device)

    def of(module):
        return lambda: module(x)

    def torchao_compiled():
        return of(peers.torchao_compiled(linear, lambda layer: layer(x), weights_only=True))

    def ours():
        w_packed = ops.pad_weight(w_q)
        return lambda: ops.int8_weight_linear(x, w_q, w_scale, linear.bias.data, w_packed=w_packed)

    ways = {
        "torch fp32": lambda: of(linear),
        "torch bf16": lambda: in_bfloat16(linear, x),
        "torchao int8": lambda: of(peers.torchao(linear, weights_only=True)),
        "torchao int8 compiled": torchao_compiled,
        "ours": ours,
        "ours triton": lambda: triton(ours(), device),
    }
    if dtype != torch.float32:
        del ways["torch fp32"]
    with torch.inference_mode():
        y = linear(x).float()
    size = x.element_size()
    return Case(
        dtype=str(dtype).removeprefix("torch."),
        flops=2 * m * n * k,
        bytes=size * m * k + n * k + (4 + size) * n + size * m * n,
        tolerance=tolerance(x.float(), linear.weight.float(), y),
        ways=ways,
    )
