"""Weights in the layout that a device's kernel reads fastest, made once for a layer."""

import torch
import torch.nn.functional as F
from torch import Tensor

from green_kernels.ops._check import check, check_dtype, check_shape
from green_kernels.ops._extension import _C

_CHUNK = 16  # bytes that the CUDA kernels move at a time: their rows are multiples of them


def is_fast_on_cpu() -> bool:
    """Whether the CPU's int8 product is oneDNN's; else it is a loop, or plain torch in float64."""
    return _C is not None and _C.onednn_is_exact()


def pad_weight(w_q: Tensor) -> Tensor | None:
    """Return w_q with zeros up to a multiple of 16 columns, or None where it needs none.

    That is how int8_weight_linear reads it fastest on CUDA; elsewhere it reads w_q itself.

    w_q: (N, K), int8
    raises: RuntimeError on any other dtype or shape
    """
    _check_weight(w_q)
    if w_q.device.type == "cuda" and w_q.shape[1] % _CHUNK:
        return F.pad(w_q, (0, -w_q.shape[1] % _CHUNK))
    return None


def pack_weight(w_q: Tensor) -> Tensor | None:
    """Return w_q as the kernel of its device reads it fastest, or None where that is w_q itself.

    On the CPU it is oneDNN's own layout, an opaque tensor (layout torch._mkldnn) that can be passed
    on but not read, saved or moved; None where oneDNN does not multiply int8 exactly. On CUDA it is
    pad_weight(w_q).

    w_q: (N, K), int8
    raises: RuntimeError on any other dtype or shape
    """
    _check_weight(w_q)
    if w_q.device.type == "cpu" and w_q.numel() and is_fast_on_cpu():
        return torch.ops.onednn.qlinear_prepack(w_q, None)
    return pad_weight(w_q)


def _check_weight(w_q):
    check_dtype(w_q, torch.int8, "w_q")
    check(w_q.ndim == 2, "w_q", "have shape (N, K)", tuple(w_q.shape))


def check_padded(w_packed: Tensor, w_q: Tensor) -> None:
    """Raise unless w_packed is of the dtype and shape of w_q with its columns padded."""
    N, K = w_q.shape
    check_dtype(w_packed, torch.int8, "w_packed")
    check_shape(w_packed, (N, K + -K % _CHUNK), "w_packed")
