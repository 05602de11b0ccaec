"""The layers of a model: which they are, what each is called with, and how to leave them be."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    Recorded = list[tuple[tuple, dict]]  # args and kwargs of each call


def select_layers(
    model: "nn.Module", module_filter: "Callable[[str, nn.Module], bool] | None"
) -> "dict[str, nn.Module]":
    """Return the outermost modules that the filter selects, each once, by their first name.

    No filter selects the modules without children.
    """
    if module_filter is None:
        return {n: m for n, m in model.named_modules() if next(m.children(), None) is None}
    layers: dict[str, nn.Module] = {}
    within: set[int] = set()
    for name, module in model.named_modules():  # a module before its children
        if id(module) not in within and module_filter(name, module):
            layers[name] = module
            within |= {id(part) for part in module.modules()}
    return layers


def record(
    model: "nn.Module", args: tuple, kwargs: dict, layers: "dict[str, nn.Module]"
) -> "dict[str, tuple[nn.Module, Recorded]]":
    """Run the model once; return the layers that it calls, each with copies of its arguments."""
    calls: dict[str, tuple[nn.Module, Recorded]] = {}
    hooks = []

    def hook(name: str) -> Callable:
        def keep(module: "nn.Module", args: tuple, kwargs: dict) -> None:
            calls.setdefault(name, (module, []))[1].append(copy_of((args, kwargs)))

        return keep

    try:
        for name, module in layers.items():
            named = name or type(module).__name__
            hooks.append(module.register_forward_pre_hook(hook(named), with_kwargs=True))
        args, kwargs = copy_of((args, kwargs))
        model(*args, **kwargs)
    finally:
        for handle in hooks:
            handle.remove()
    return calls


@contextmanager
def unchanged(model: "nn.Module") -> Iterator[None]:
    """Put back the buffers of modules in training mode, as of batch norm: running changes them."""
    before = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        if module.training
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for module, name, buffer, value in before:
            setattr(module, name, buffer.copy_(value))


def copy_of(value: Any) -> Any:
    """Return the value with its tensors copied, through tuples, lists and dicts."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, tuple | list):
        items = map(copy_of, value)
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if type(value) is dict:
        return {key: copy_of(item) for key, item in value.items()}
    return value


def arguments(inputs: Any) -> tuple[tuple, dict]:
    """Return args and kwargs: of a tuple or list, of a mapping by name, or of the one argument."""
    if isinstance(inputs, tuple | list):
        return tuple(inputs), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (inputs,), {}


def devices_of(model: "nn.Module", inputs: Any) -> "list[torch.device] | None":
    """Return the devices that hold the model, or its inputs if it has no tensors; None if none."""
    held = [*model.parameters(), *model.buffers()] or [*_tensors(inputs)]
    return [*dict.fromkeys(tensor.device for tensor in held)] or None


def signature(module: "nn.Module", recorded: "Recorded") -> str:
    """Return what two layers have in common if they do the same work on inputs of one shape."""
    parts = [
        (name, type(part), {k: repr(v) for k, v in vars(part).items() if not k.startswith("_")})
        for name, part in module.named_modules()
    ]
    held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return repr((parts, _shapes(held), _shapes(recorded)))


def _shapes(value: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, tuple | list):
        return type(value), *map(_shapes, value)
    if isinstance(value, Mapping):
        return type(value), *((key, _shapes(item)) for key, item in value.items())
    return repr(value)


def _tensors(value: Any) -> "Iterator[torch.Tensor]":
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
