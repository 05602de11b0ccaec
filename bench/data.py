"""What the inputs are made of. Power depends on their values, so a record says which recipe it was.

A GEMM of zeros draws up to 40 % less than one of random numbers (Gregersen et al., arXiv
2409.18324): ways are compared on the same data only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

RECIPES = ("normal", "real", "zeros")
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
    """Return a float32 (rows, columns) tensor of inputs, by the recipe in force."""
    if _recipe.get() == "zeros":
        return torch.zeros(rows, columns, device=device)
    return torch.randn(rows, columns, device=device)
