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
    # There may be many shapes of one function: after eight, torch would quietly run it uncompiled.
    limits = torch._dynamo.config.patch(recompile_limit=1000, accumulated_recompile_limit=1000)
    with quiet(), limits, torch.inference_mode():
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


def bitsandbytes(linear: nn.Linear, device: str) -> nn.Module:
    """bitsandbytes' Linear8bitLt, from and to float16, with int8 for all of x.

    LLM.int8() would look for outliers in x: it waits for the GPU to do so, which no CUDA graph can
    hold. Without them (threshold=0) it is faster.
    """
    if device == "cpu":
        raise Unavailable("bitsandbytes' int8 layer is compared on CUDA, for which it is made")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise Unavailable("bitsandbytes is not installed: pip install bitsandbytes")
    with quiet():
        from bitsandbytes.nn import Linear8bitLt

        (n, k), has_bias = linear.weight.shape, linear.bias is not None
        layer = Linear8bitLt(k, n, bias=has_bias, has_fp16_weights=False, threshold=0.0)
        state = {name: tensor.cpu().half() for name, tensor in linear.state_dict().items()}
        layer.load_state_dict(state)
        return layer.to(device)  # rounds the weight on its way


def check_int_mm(x_q: Tensor, w_q: Tensor) -> None:
    """Raise Unavailable unless torch._int_mm multiplies x_q (M, K) by w_q.T, of w_q (N, K)."""
    if x_q.is_cuda:
        (m, k), n = x_q.shape, w_q.shape[0]
        if m <= 16 or k % 8 or n % 8:
            raise Unavailable(f"torch._int_mm on CUDA needs M > 16 and K, N in 8s, got {m, k, n}")


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
