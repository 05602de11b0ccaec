"""convert: swap the linear layers of a model for quantized ones, whole or not at all."""

import dataclasses
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.parameter import is_lazy

from green_kernels.nn import LAYERS
from green_kernels.nn.quantized_linear import QuantizedLinear
from green_kernels.recipes import Recipe
from green_kernels.report import Change, Report
from green_kernels.survey import Survey, linears

Names = tuple[str, ...]
Where = Callable[[str, nn.Module], bool]
Recipes = Recipe | Mapping[str, Recipe | None]


def convert(model: nn.Module, recipe: Recipes, where: Where | None = None) -> Report:
    """Replace, in model itself, each nn.Linear that recipe takes by the layer it asks for.

    recipe: Int8(), Int8WeightOnly(), or a mapping from patterns of module names (fnmatch; * crosses
        dots) to recipes, None to leave the layer: the first pattern that matches decides, and no
        match leaves it too
    where: (name, layer) -> bool, asked for each layer that would otherwise be converted

    Layers whose conversion would change more than their arithmetic are left; the report has the
    reason of each. A layer under several names is converted once and stays one layer.

    A model is not left half converted. First every layer is converted for trial and the result
    dropped: whatever is raised then (a weight that is NaN or Inf: ValueError; what `where` raises;
    out of memory) leaves the model as it was. Then the layers are swapped, each float weight freed
    before the next is read, so that never more than one layer is held twice. Since the floats go
    as it goes, this second pass cannot be undone; but it only repeats what has just succeeded with
    more memory in use, and an interrupt (Ctrl-C) waits until it is through.
    """
    changes, plan = _trial(model, recipe, where)
    with interrupts_waiting():
        for names, chosen in plan:
            swap(model, names, _quantized(model, names[0], chosen))
    return Report(tuple(changes))


def swap(model: nn.Module, names: Iterable[str], layer: nn.Module) -> None:
    """Put layer where these names lead. Nothing here can fail for names of the model."""
    for name in names:
        parent, _, child = name.rpartition(".")
        model.get_submodule(parent)._modules[child] = layer


@contextmanager
def interrupts_waiting() -> Iterator[None]:
    """Hold back Ctrl-C within this block, and let it through at its end."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield  # the main thread alone is interrupted, and only by a handler of Python's
        return
    caught = []
    signal.signal(signal.SIGINT, lambda *signal_and_frame: caught.append(signal_and_frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if caught:
            handler(*caught[0])


def _trial(model: nn.Module, recipe: Recipes, where: Where | None):
    """The changes to be, and (names, recipe) of each layer to convert. Leaves the model alone."""
    layers = linears(model)
    _check_recipe(recipe, layers.values())
    survey = Survey(model)
    changes: list[Change] = []
    plan: list[tuple[Names, Recipe]] = []
    for layer, names in layers.items():
        chosen, reason = _choose(recipe, names)
        if chosen is not None:
            reason = survey.reason_to_leave(names[0], layer, chosen)
            if reason is None and where is not None and not where(names[0], layer):
                reason = "excluded by where"
        before = _bytes(layer)
        change = Change(names[0], type(layer).__name__, None, reason, before, before, names[1:])
        if reason is None:
            trial = _quantized(model, names[0], chosen)
            change = dataclasses.replace(
                change,
                became=type(trial).__name__,
                bytes_after=trial.nbytes,
                caveat=survey.caveat(layer, chosen),
            )
            del trial  # so that no two stand side by side
            plan.append((names, chosen))
        changes.append(change)
    return changes, plan


def _quantized(model: nn.Module, name: str, recipe: Recipe) -> QuantizedLinear:
    kind = LAYERS[type(recipe)]
    if not name:
        raise ValueError(
            "model is itself a linear layer, which cannot be replaced in place: "
            f"use green_kernels.nn.{kind.__name__}.from_float(model)"
        )
    try:
        return kind.from_float(model.get_submodule(name), recipe)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _bytes(layer: nn.Module) -> int:
    if isinstance(layer, QuantizedLinear):
        return layer.nbytes
    return sum(t.numel() * t.element_size() for t in layer.parameters() if not is_lazy(t))


def _choose(recipe: Recipes, names: Names) -> tuple[Recipe | None, str | None]:
    """The recipe for the layer of these names, or None and the reason."""
    if isinstance(recipe, Recipe):
        return recipe, None
    for pattern, chosen in recipe.items():
        if any(fnmatchcase(name, pattern) for name in names):
            return chosen, None if chosen else f"excluded by pattern {pattern!r}"
    return None, "no pattern matches"


def _check_recipe(recipe: Recipes, names_of_layers: Iterable[Names]) -> None:
    if type(recipe) in LAYERS:
        return
    if not isinstance(recipe, Mapping):
        raise TypeError(f"recipe must be a recipe, as Int8(), or a mapping, got {recipe!r}")
    every = [name for names in names_of_layers for name in names]
    for pattern, chosen in recipe.items():
        if not isinstance(pattern, str):
            raise TypeError(f"recipe: a pattern must be a str, got {pattern!r}")
        if chosen is not None and type(chosen) not in LAYERS:
            raise TypeError(f"recipe[{pattern!r}] must be a recipe or None, got {chosen!r}")
        if not any(fnmatchcase(name, pattern) for name in every):
            raise ValueError(f"recipe: pattern {pattern!r} matches no linear layer of the model")
