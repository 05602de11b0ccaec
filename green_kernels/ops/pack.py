"""Weights in the layout that a device's kernel reads fastest, made once for a layer."""

import torch
import torch.nn.functional as F
from torch import Tensor

from green_kernels.ops._check import check, check_dtype
from green_kernels.ops._extension import _C

_CHUNK = 16  # bytes that the CUDA kernel moves at a time: its rows are multiples of them


def is_fast_on_cpu() -> bool:
    """Whether the CPU's int8 product is oneDNN's; else it is a loop, or plain torch in float64."""
    return _C is not None and _C.onednn_is_exact()


def pack_weight(w_q: Tensor) -> Tensor | None:
    """Return w_q as the kernel of its device reads it fastest, or None where that is w_q itself.

    On the CPU it is oneDNN's own layout, an opaque tensor (layout torch._mkldnn) that can be passed
    on but not read, saved or moved; None where oneDNN does not multiply int8 exactly. On CUDA it is
    w_q with zeros up to a multiple of 16 columns.

    w_q: (N, K), int8
    raises: RuntimeError on any other dtype or shape
    """
    check_dtype(w_q, torch.int8, "w_q")
    check(w_q.ndim == 2, "w_q", "have shape (N, K)", tuple(w_q.shape))
    if w_q.device.type == "cpu" and w_q.numel() and is_fast_on_cpu():
        return torch.ops.onednn.qlinear_prepack(w_q, None)
    if w_q.device.type == "cuda" and w_q.shape[1] % _CHUNK:
        return F.pad(w_q, (0, -w_q.shape[1] % _CHUNK))
    return None
