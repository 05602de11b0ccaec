"""What the cases of whole models share: text, int8 copies, and how near two models' answers are."""

import copy
import functools
import importlib.util
import math
import os
import pydoc_data.topics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import green_kernels as gk

from . import peers
from .case import Unavailable, Way

Metrics = Mapping[str, float]


def need(packages: Mapping[str, str], alone: Mapping[str, str] | None = None) -> None:
    """Raise Unavailable with the commands that install what is missing.

    packages: what pip is to install, by the name of the module
    alone: the same for packages whose dependencies are not wanted
    """
    commands = []
    for flag, group in (("", packages), ("--no-deps ", alone or {})):
        missing = [pip for name, pip in group.items() if importlib.util.find_spec(name) is None]
        if missing:
            commands.append(f"pip install {flag}{' '.join(missing)}")
    if commands:
        raise Unavailable(f"not installed: {' && '.join(commands)}")


def topics() -> list[str]:
    """Return English that every Python carries: the 79 or so texts that `help()` shows."""
    return list(pydoc_data.topics.topics.values())


def text() -> str:
    """Return those texts as one, of some 465 kB."""
    return "\n".join(topics())


@contextmanager
def from_disk() -> Iterator[None]:
    """Let transformers be imported and load in this block, silent and without a network."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # the weights are on disk; nothing is to be asked for
    with peers.quiet():  # transformers imports torchao, which says what it lacks
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()
        yield


def own_memory(model: nn.Module) -> nn.Module:
    """Return a copy to infer with: loaded weights may be views of a file, which trained are not."""
    return copy.deepcopy(model).eval()


def parameter_bytes(model: nn.Module) -> int:
    """Return the bytes of the parameters, those of several names once."""
    return sum(p.nbytes for p in model.parameters())


def flops(call: Callable[[], Any]) -> int:
    """Return the operations in the products, convolutions and attention of a call.

    Attention counts in full, also where a causal mask leaves half of it out.
    """
    # torch counts attention on a GPU only, where the mathematics is the same.
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping={kernel: _sdpa}) as counter:
        call()
    return counter.get_total_flops()


def _sdpa(query: list[int], key: list[int], value: list[int], *_: Any, **__: Any) -> int:
    (*batch, rows, depth), columns = query, key[-2]
    return 2 * math.prod(batch) * rows * columns * (depth + value[-1])


def int8(
    model: nn.Module, dtype: torch.dtype = torch.float32, recipe: gk.Int8 | None = None
) -> tuple[nn.Module, dict[str, int]]:
    """Return a copy in dtype converted to int8, and how many of its linear layers are."""
    converted = copy.deepcopy(model).to(dtype)
    report = gk.convert(converted, recipe or gk.Int8())
    return converted, {"int8_layers": len(report.converted), "linear_layers": len(report)}


def ways(
    model: nn.Module,
    prepare: Callable[[nn.Module], Callable[[], Any]],
    quality: Callable[[nn.Module], Metrics],
    extra: Callable[[nn.Module], Metrics] = lambda converted: {},
) -> dict[str, Callable[[], Way]]:
    """Return the ways that every model has: in float32, in bfloat16, and ours of each.

    model: in float32
    prepare: gives the call that is timed, for a model in any of these forms
    quality: gives the metrics of such a model
    extra: gives more figures of a converted model
    """

    def way(model: nn.Module, dtype: torch.dtype, figures: Metrics | None = None) -> Way:
        name = str(dtype).removeprefix("torch.")
        return Way(prepare(model), dtype=name, extra=figures or {}, quality=lambda: quality(model))

    def ours(dtype: torch.dtype, recipe: gk.Int8 | None = None) -> Way:
        converted, layers = int8(model, dtype, recipe)
        return way(converted, dtype, layers | extra(converted))

    fp32, bf16, all_layers = torch.float32, torch.bfloat16, gk.Int8(keep_faster=False)
    return {
        "torch fp32": lambda: way(model, fp32),
        "torch bf16": lambda: way(copy.deepcopy(model).to(bf16), bf16),
        "ours": lambda: ours(fp32),
        "ours, all layers": lambda: ours(fp32, all_layers),
        "ours bf16": lambda: ours(bf16),
        "ours bf16, all layers": lambda: ours(bf16, all_layers),
    }


def cosine_distance(output: Tensor, expected: Tensor) -> float:
    """1 - mean of cos(output, expected) over all but the last dimension."""
    return 1 - torch.cosine_similarity(output.double(), expected.double(), dim=-1).mean().item()


def agreement(choices: Tensor, expected: Tensor) -> float:
    """Return the share of the choices that are the expected ones."""
    return (choices == expected).double().mean().item()


def sqnr_db(output: Tensor, expected: Tensor) -> float | None:
    """10 log10(sum expected^2 / sum (output - expected)^2), in dB; None if there is no noise."""
    noise = (output.double() - expected.double()).square().sum().item()
    return 10 * math.log10(expected.double().square().sum().item() / noise) if noise else None


@torch.inference_mode()
def predictions(model: nn.Module, windows: Tensor) -> tuple[float, Tensor]:
    """exp(mean of -log p(token | those before it)): perplexity; and each most likely token.

    model: a causal language model of transformers
    windows: (W, T) token ids; each row is read by itself, and its first token not predicted
    """
    losses, choices = [], []
    for ids in windows:
        logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
        losses.append(F.cross_entropy(logits, ids[1:], reduction="none"))
        choices.append(logits.argmax(-1))
    return torch.cat(losses).double().mean().exp().item(), torch.stack(choices)


def language_quality(model: nn.Module, windows: Tensor) -> Callable[[nn.Module], Metrics]:
    """Return a function that gives a model's perplexity, and its top-1 agreement with `model`."""
    expected = functools.cache(lambda: predictions(model, windows)[1])

    def quality(other: nn.Module) -> Metrics:
        perplexity, choices = predictions(other, windows)
        return {"perplexity": perplexity, "top1_agreement": agreement(choices, expected())}

    return quality


def retrieval(queries: Tensor, answers: Tensor) -> Metrics:
    """Rank of answer i among all answers by cosine to query i: how often first, mean of 1 / rank.

    queries, answers: (N, D) embeddings
    """
    cosines = F.normalize(queries.double(), dim=-1) @ F.normalize(answers.double(), dim=-1).T
    ranks = (cosines >= cosines.diagonal()[:, None]).sum(1).double()  # a tie counts against it
    return {
        "recall_at_1": (ranks == 1).double().mean().item(),
        "mean_reciprocal_rank": (1 / ranks).mean().item(),
    }
