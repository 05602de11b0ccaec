"""Other people's int8 layers, each made of an nn.Module that is left as it was."""

import copy
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .case import Unavailable


def quantize_dynamic(module: nn.Module, device: str) -> nn.Module:
    """torch.ao.quantization.quantize_dynamic, with oneDNN's kernels and per-tensor activations."""
    if device != "cpu":
        raise Unavailable("quantize_dynamic has kernels for the CPU only")
    if "onednn" not in torch.backends.quantized.supported_engines:
        raise Unavailable("this torch was built without the onednn quantized engine")
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "onednn"  # decides how weights are packed, once
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is deprecated in favour of torchao
            # It swaps children only: an nn.Linear by itself would come back in float32.
            parent = nn.Sequential(module)
            return torch.ao.quantization.quantize_dynamic(parent, {nn.Linear}, torch.qint8)[0]
    finally:
        torch.backends.quantized.engine = before


def torchao(module: nn.Module, weights_only: bool = False) -> nn.Module:
    """torchao's int8 weights, and int8 dynamic activations if not weights_only, as documented."""
    if importlib.util.find_spec("torchao") is None:
        raise Unavailable("torchao is not installed: pip install torchao")
    with quiet():
        from torchao import quantization

        module = copy.deepcopy(module)
        if weights_only:
            config = quantization.Int8WeightOnlyConfig()
        else:
            config = quantization.Int8DynamicActivationInt8WeightConfig()
        quantization.quantize_(module, config)
    return module


def compiled(function: Callable[..., Any], call: Callable[[Callable], Any]) -> Callable[..., Any]:
    """torch.compile(function), compiled at once by `call`, which calls it as it will be called."""
    function = torch.compile(function, dynamic=False)
    with quiet(), torch.inference_mode():
        call(function)
    return function


def torchao_compiled(
    module: nn.Module, call: Callable[[Callable], Any], weights_only: bool = False
) -> Callable[..., Any]:
    """torchao's int8 under torch.compile, with the inductor settings that torchao makes.

    They are global, and taken back, as they would change what is compiled after.
    """
    settings = torch._inductor.config.save_config()
    try:
        return compiled(torchao(module, weights_only), call)
    finally:
        torch._inductor.config.load_config(settings)


def int_mm(x_q: Tensor, w_q: Tensor) -> Tensor:
    """Return x_q @ w_q.T in int32; raise Unavailable for shapes that torch._int_mm refuses."""
    if x_q.is_cuda:
        (m, k), n = x_q.shape, w_q.shape[0]
        if m <= 16 or k % 8 or n % 8:
            raise Unavailable(f"torch._int_mm on CUDA needs M > 16 and K, N in 8s, got {m, k, n}")
    return torch._int_mm(x_q, w_q.t())


@contextmanager
def quiet() -> Iterator[None]:
    """Keep import-time and compile-time chatter out of the tables."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
