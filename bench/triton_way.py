"""Ours on Triton kernels, where they can be timed."""

from collections.abc import Callable
from typing import Any

from green_kernels import ops

from .case import Unavailable


def triton(call: Callable[[], Any], device: str) -> Callable[[], Any]:
    """Return call on Triton kernels."""
    if device == "cpu":
        raise Unavailable("Triton has no CPU kernels, and its interpreter is not to be timed")
    return ops.use("triton")(call)
