"""What the ops ask of their arguments, in the words of csrc/common.cpp."""

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def check(condition: bool, argument: str, accepted: str, got: object) -> None:
    """Raise RuntimeError "`argument` must `accepted`, got `got`" unless the condition holds."""
    torch._check(condition, lambda: f"{argument} must {accepted}, got {got}")


def check_float(dtype: torch.dtype, argument: str) -> None:
    """Raise unless it is one of the three dtypes that kernels read and write."""
    check(dtype.is_floating_point, argument, "be floating point", dtype)
    check(dtype in FLOATS, argument, "be float32, float16 or bfloat16", dtype)


def check_dense(x: Tensor, argument: str) -> None:
    """Raise unless x is an ordinary tensor: not sparse, nor opaque."""
    torch._check(x.layout == torch.strided, lambda: f"{argument} must be a dense tensor")


def check_float_tensor(x: Tensor, argument: str) -> None:
    """Raise unless x is dense and of one of the three dtypes."""
    check_dense(x, argument)
    check_float(x.dtype, argument)


def check_dtype(x: Tensor, dtype: torch.dtype, argument: str) -> None:
    """Raise unless x is dense and of that dtype."""
    check_dense(x, argument)
    check(x.dtype == dtype, argument, f"be {str(dtype).removeprefix('torch.')}", x.dtype)


def check_shape(x: Tensor, shape: tuple, argument: str) -> None:
    """Raise unless x is of that shape."""
    same = x.ndim == len(shape) and all(a == b for a, b in zip(x.shape, shape, strict=True))
    check(same, argument, f"have shape {tuple(shape)}", tuple(x.shape))


def check_device(x: Tensor, of: Tensor, argument: str, whose: str) -> None:
    """Raise unless the two are on one device."""
    torch._check(x.device == of.device, lambda: f"{argument} must be on the device of {whose}")
