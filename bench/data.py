"""What the inputs are made of. Power depends on their values, so a record says which recipe it was.

A GEMM of zeros draws up to 40 % less than one of random numbers (Gregersen et al., arXiv
2409.18324): ways are compared on the same data only.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

RECIPES = ("normal", "real", "zeros")
RECORDED_TOKENS = (8, 128)  # rows of text that the activations of "real" are recorded on
_recipe: ContextVar[str] = ContextVar("recipe", default="normal")


@contextmanager
def recipe(name: str, seed: int) -> Iterator[None]:
    """Make the cases built in this block draw their inputs by this recipe, from this seed."""
    token = _recipe.set(name)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        _recipe.reset(token)


def activations(rows: int, columns: int, device: str) -> Tensor:
    """Return a float32 (rows, columns) tensor of inputs, by the recipe in force.

    normal: independent, of mean 0 and variance 1
    real: what MiniLM's linear layers get for a text, from a random place on. Of 384 or 1536
        columns, the rows are tokens as they are; else the layers' inputs are laid out one value
        after the other, so that a row is made of several tokens, or of a part of one. Beyond the
        last value they begin anew.
    zeros: 0

    Raises Unavailable, with what to install, where MiniLM is wanted and not there.
    """
    if _recipe.get() == "zeros":
        return torch.zeros(rows, columns, device=device)
    if _recipe.get() == "real":
        return lay_out(_recorded(), rows, columns).to(device)
    return torch.randn(rows, columns, device=device)


def lay_out(inputs: list[Tensor], rows: int, columns: int) -> Tensor:
    """Return (rows, columns) values in order from a random place, as `activations` says of real.

    inputs: of the layers in the order of their calls, each (tokens, features)
    """
    fitting = [x for x in inputs if x.shape[1] == columns]
    values = torch.cat([x.reshape(-1) for x in fitting or inputs])
    step = columns if fitting else 1
    start = step * torch.randint(len(values) // step, ()).item()
    repeats = -(-(start + rows * columns) // len(values))
    return values.repeat(repeats)[start : start + rows * columns].view(rows, columns)


def record(model: nn.Module, call) -> list[Tensor]:
    """Return the inputs of a model's linear layers in a call, each as (tokens, features), once.

    Layers that share an input, as those of query, key and value do, count as one.
    """
    inputs: list[Tensor] = []

    def hook(layer, args):
        if not any(args[0] is x for x in inputs):
            inputs.append(args[0])

    handles = [
        layer.register_forward_pre_hook(hook)
        for layer in model.modules()
        if isinstance(layer, nn.Linear)
    ]
    try:
        with torch.inference_mode():
            call()
    finally:
        for handle in handles:
            handle.remove()
    # Out of inference_mode, or they could not be used where gradients are kept.
    return [x.reshape(-1, x.shape[-1]).clone() for x in inputs]


@functools.cache
def _recorded() -> list[Tensor]:
    """MiniLM's, on the first tokens of a text."""
    from . import models
    from .cases import minilm

    with torch.random.fork_rng(devices=[]):  # what is drawn after must not depend on the loading
        model, tokenizer = minilm.load()
    rows, tokens = RECORDED_TOKENS
    ids = tokenizer(models.text()[:20_000], add_special_tokens=False)["input_ids"]
    ids = torch.tensor(ids[: rows * tokens]).view(rows, tokens)
    return record(model, lambda: minilm.outputs(model, ids))
