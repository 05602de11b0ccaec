"""save and load: a converted model in one safetensors file, with its recipes as JSON metadata.

The file is plain safetensors: the model's state_dict, every tensor once. Its metadata, under the
key "green_kernels", is the JSON text of
    {"version": 1,
     "layers": {name: {"in_features", "out_features", "bias", "act", "recipe"}},
     "aliases": {key: the key under which the same tensor is stored}}
with an entry of "layers" for each name of a quantized layer, and of "aliases" for each second name
of a tensor.
"""

import errno
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from green_kernels.convert import interrupts_waiting, swap
from green_kernels.nn import LAYERS
from green_kernels.nn.quantized_linear import QuantizedLinear, wrong_values
from green_kernels.recipes import from_dict
from green_kernels.survey import reason_not_a_linear

_VERSION = 1
_FIELDS = {"in_features": int, "out_features": int, "bias": bool, "act": str, "recipe": dict}


class _Place(NamedTuple):
    """Where a model holds the tensor of a key."""

    module: nn.Module
    name: str
    tensor: Tensor


class _Step(NamedTuple):
    """A change to the model, and the way back."""

    do: Callable[[], None]
    undo: Callable[[], None]


def save(model: nn.Module, path: str | os.PathLike) -> None:
    """Write the state of model, and the recipes of its layers, to a safetensors file for load.

    A file that is there is replaced once the new one is complete. ValueError naming the key where
    the state is more than tensors with values, each under the name of its parameter or buffer.
    """
    if isinstance(model, QuantizedLinear):
        kind = type(model).__name__
        raise ValueError(f"model is itself an {kind}, which load cannot put in place")
    state = model.state_dict()
    odd = state.keys() ^ _places(model).keys()
    if odd:
        raise ValueError(f"{_few(odd)}: state that is not a parameter or a buffer cannot be saved")
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    stored: dict[Any, str] = {}
    for key, tensor in state.items():
        if tensor.is_meta or tensor.layout != torch.strided:
            got = "the meta device" if tensor.is_meta else f"layout {tensor.layout}"
            raise ValueError(f"{key} must be a dense tensor with values, got one of {got}")
        first = stored.setdefault(_memory(tensor) or key, key)
        if first == key:
            tensors[key] = _alone(tensor)
        else:
            aliases[key] = first
    layers = {
        name: {
            "in_features": layer.in_features,
            "out_features": layer.out_features,
            "bias": layer.bias is not None,
            "act": layer.act,
            "recipe": layer.recipe.to_dict(),
        }
        for name, layer in model.named_modules(remove_duplicate=False)
        if isinstance(layer, QuantizedLinear)
    }
    metadata = {"version": _VERSION, "layers": layers, "aliases": aliases}
    path = Path(path)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        save_file(tensors, unfinished, {"format": "pt", "green_kernels": json.dumps(metadata)})
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@torch.inference_mode(False)  # else the model could not be trained
def load(model: nn.Module, path: str | os.PathLike) -> None:
    """Make of model, in place, the one that was saved: its outputs are the same to the bit.

    model: built by the same code, with float layers (values do not matter; the meta device will
        do, and becomes the CPU); each tensor stays on its device and takes the dtype that was
        saved, so that a model saved in bfloat16 is one again, whatever it was built in

    ValueError naming the key for a file that is not of this model: a missing or unexpected key,
    keys tied in one of the two alone, a wrong shape or dtype, no metadata or of another version, a
    layer the model lacks, int8 weights of -128, scales that are not finite and positive.
    Everything is read and checked before the model is touched, and whatever is raised leaves it as
    it was.
    """
    path = Path(path)
    if path.is_dir():  # which safetensors would not name
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    try:
        with safe_open(path, framework="pt") as file:
            steps = _plan(model, file)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    done: list[_Step] = []
    with interrupts_waiting():
        try:
            for step in steps:
                done.append(step)
                step.do()
        except BaseException:
            for step in reversed(done):
                step.undo()
            raise


def _plan(model: nn.Module, file: Any) -> list[_Step]:
    """All that is to be done to the model, from a file that is found to be right."""
    layers, aliases = _metadata(file)
    keys = dict.fromkeys(file.keys())
    for alias, key in aliases.items():
        if alias in keys or key not in keys:
            raise ValueError(f"aliases: {alias} is given as {key}, which the file cannot mean")
    stored = {key: key for key in keys} | aliases

    replaced = {name: _replaceable(model, name, entry) for name, entry in layers.items()}
    places = _places(model, replaced)
    wanted = places.keys() | {f"{name}.{part}" for name in layers for part in ("w_q", "w_scale")}
    if missing := wanted - stored.keys():
        raise ValueError(f"missing key {_few(missing)}")
    if unexpected := stored.keys() - wanted:
        raise ValueError(f"unexpected key {_few(unexpected)}")
    _check_ties_of_model(places, replaced, stored, layers)
    _check_ties_of_file(places, replaced, stored)
    for key, place in _places(model, replaced, persistent=False).items():
        if place.tensor.is_meta and key not in places:
            raise ValueError(f"{key} is on the meta device of the model, and is not saved")

    read: dict[tuple[str, torch.device], Tensor] = {}

    def tensor(key, device):
        """The values of that key. Those of one stored key are one tensor on each device."""
        device = torch.device("cpu") if device.type == "meta" else device
        where = (stored[key], device)
        if where not in read:  # copied: the file may change or go while the model lives
            read[where] = file.get_tensor(stored[key]).to(device, copy=True)
        return read[where]

    steps: list[_Step] = []
    put: dict[int, Tensor] = {}  # by the id of the tensor whose place it takes
    for key, place in places.items():
        new = tensor(key, place.tensor.device)
        _check_like(key, new, place.tensor)
        if id(place.tensor) not in put:
            put[id(place.tensor)] = _successor(place.tensor, new)
            if not place.tensor.is_meta:
                steps.append(_set_data(place.tensor, new))
        if place.tensor.is_meta and place.module not in replaced.values():
            steps.append(_set_tensor(place, put[id(place.tensor)]))

    made: dict[tuple, QuantizedLinear] = {}
    for name, entry in layers.items():
        old = replaced[name]
        at = old.w_q.device if isinstance(old, QuantizedLinear) else old.weight.device
        w_q, w_scale = tensor(f"{name}.w_q", at), tensor(f"{name}.w_scale", at)
        bias = None if old.bias is None else put[id(old.bias)]
        which = tuple(stored.get(f"{name}.{part}") for part in ("w_q", "w_scale", "bias"))
        which += (at, entry["act"], entry["recipe"])
        if which not in made:
            _check_int8(name, w_q, w_scale, entry)
            if bias is not None:
                _check_bias(name, tensor(f"{name}.bias", at))
            kind = LAYERS[type(entry["recipe"])]
            layer = kind.of(w_q, w_scale, bias, entry["act"], entry["recipe"])
            made[which] = layer.train(old.training)
        steps.append(_swap(model, name, made[which], old))
    return steps


def _metadata(file: Any) -> tuple[dict[str, dict], dict[str, str]]:
    """The layers and the aliases, each entry of the right fields and types."""
    text = (file.metadata() or {}).get("green_kernels")
    if text is None:
        raise ValueError("it has no green_kernels metadata: it was not written by save")
    try:
        return _parsed(text)
    except RecursionError:
        raise ValueError("green_kernels metadata is not JSON: it is nested too deeply") from None


def _parsed(text: str) -> tuple[dict[str, dict], dict[str, str]]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"green_kernels metadata is not JSON: {error}") from error
    version = data.get("version") if isinstance(data, dict) else None
    if version != _VERSION:
        raise ValueError(f"version must be {_VERSION}, got {version!r}")
    layers, aliases = data.get("layers"), data.get("aliases")
    if not isinstance(layers, dict) or not isinstance(aliases, dict):
        raise ValueError("metadata must have layers and aliases, both JSON objects")
    if not all(isinstance(key, str) for key in aliases.values()):
        raise ValueError(f"aliases must be keys, got {aliases!r}")
    return {name: _layer_entry(name, entry) for name, entry in layers.items()}, aliases


def _layer_entry(name: str, entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict) or entry.keys() != _FIELDS.keys():
        raise ValueError(f"layers: {name} must have {', '.join(_FIELDS)}, got {entry!r}")
    for field, kind in _FIELDS.items():
        if type(entry[field]) is not kind:
            raise ValueError(
                f"layers: {name}.{field} must be {kind.__name__}, got {entry[field]!r}"
            )
    try:
        return entry | {"recipe": from_dict(entry["recipe"])}
    except (TypeError, ValueError) as error:
        raise ValueError(f"layers: {name}: {error}") from error


def _replaceable(model: nn.Module, name: str, entry: dict[str, Any]) -> nn.Module:
    """The layer of the model that becomes the saved one of that name."""
    try:
        old = model.get_submodule(name) if name else None
    except AttributeError:
        old = None
    if old is None:
        raise ValueError(f"layers: the model has no module {name!r}")
    if not isinstance(old, QuantizedLinear):
        reason = reason_not_a_linear(old, entry["recipe"])
        if reason is not None:
            raise ValueError(f"layers: {name} of the model cannot be replaced: {reason}")
    for field in ("in_features", "out_features"):
        if getattr(old, field) != entry[field]:
            got = f"{entry[field]}, the model has {getattr(old, field)}"
            raise ValueError(f"layers: {name}.{field} is {got}")
    if (old.bias is not None) != entry["bias"]:
        raise ValueError(f"layers: {name}.bias is {entry['bias']}, unlike the model's")
    return old


def _places(
    model: nn.Module, replaced: Iterable[str] = (), persistent: bool = True
) -> dict[str, _Place]:
    """The places of all tensors by key, of replaced layers the bias alone.

    persistent: without the buffers that are not saved
    """
    places = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        unsaved = module._non_persistent_buffers_set if persistent else ()
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is None or name in unsaved or (prefix in replaced and name != "bias"):
                continue
            places[f"{prefix}.{name}" if prefix else name] = _Place(module, name, tensor)
    return places


def _check_ties_of_model(places, replaced, stored, layers):
    """What is one tensor or one layer in the model must be one in the file."""
    one = [(key, stored[key], id(place.tensor)) for key, place in places.items()]
    for name, layer in replaced.items():
        parts = tuple(stored.get(f"{name}.{part}") for part in ("w_q", "w_scale", "bias"))
        one.append((name, (*parts, layers[name]["act"], layers[name]["recipe"]), id(layer)))
    first: dict[int, tuple[str, Any]] = {}
    for key, of_file, of_model in one:
        other, expected = first.setdefault(of_model, (key, of_file))
        if of_file != expected:
            raise ValueError(f"{key} is tied to {other} in the model, but not in the file")


def _check_ties_of_file(places, replaced, stored):
    """What is one tensor in the file must be one in the model, else writes would reach both."""
    tensors = {key: place.tensor for key, place in places.items()}
    for name, layer in replaced.items():
        is_int8 = isinstance(layer, QuantizedLinear)
        tensors[f"{name}.w_q"] = layer.w_q if is_int8 else layer.weight
        tensors[f"{name}.w_scale"] = layer.w_scale if is_int8 else layer.weight
    first: dict[str, str] = {}
    for key, tensor in tensors.items():
        other = first.setdefault(stored[key], key)
        if other != key and not _is_one(tensor, tensors[other]):
            raise ValueError(f"{key} is tied to {other} in the file, but not in the model")


def _is_one(one: Tensor, other: Tensor) -> bool:
    """Whether both are one tensor, or lie in one place as save sees it."""
    return one is other or (_memory(one) is not None and _memory(one) == _memory(other))


def _memory(tensor: Tensor) -> tuple | None:
    """What two tensors have in common only if a write to one is a write to all of the other."""
    if tensor.is_meta or tensor.layout != torch.strided or not tensor.numel():
        return None
    return tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def _check_like(key: str, new: Tensor, old: Tensor) -> None:
    if new.shape != old.shape:
        raise ValueError(f"{key} has shape {tuple(new.shape)}, the model's {tuple(old.shape)}")
    floats = new.is_floating_point() and old.is_floating_point()
    if new.dtype != old.dtype and not floats:
        raise ValueError(f"{key} is {new.dtype}, the model's {old.dtype}")


def _check_int8(name: str, w_q: Tensor, w_scale: Tensor, entry: dict[str, Any]) -> None:
    n, k = entry["out_features"], entry["in_features"]
    for part, tensor, shape in (("w_q", w_q, (n, k)), ("w_scale", w_scale, (n,))):
        if words := wrong_values(part, tensor):
            raise ValueError(f"{name}.{part} {words}")
        if tensor.shape != shape:
            raise ValueError(f"{name}.{part} must have shape {shape}, got {tuple(tensor.shape)}")


def _check_bias(name: str, bias: Tensor) -> None:
    if bias.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        got = f"float32, float16 or bfloat16, got {bias.dtype}"
        raise ValueError(f"{name}.bias must be {got}")


def _successor(old: Tensor, new: Tensor) -> Tensor:
    """Where old has no memory, a new tensor of its kind; else old itself, whose data changes."""
    if not old.is_meta:
        return old
    return nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new


def _set_data(tensor: Tensor, new: Tensor) -> _Step:
    before = tensor.data
    return _Step(
        lambda: setattr(tensor, "data", new),
        lambda: setattr(tensor, "data", before),
    )


def _set_tensor(place: _Place, new: Tensor) -> _Step:
    return _Step(
        lambda: setattr(place.module, place.name, new),
        lambda: setattr(place.module, place.name, place.tensor),
    )


def _swap(model: nn.Module, name: str, new: nn.Module, old: nn.Module) -> _Step:
    return _Step(lambda: swap(model, [name], new), lambda: swap(model, [name], old))


def _alone(tensor: Tensor) -> Tensor:
    """The values in contiguous memory on the CPU that holds nothing else, as safetensors asks."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _few(keys: Iterable[str]) -> str:
    ordered = sorted(keys)
    return ", ".join(ordered[:3]) + (f" and {len(ordered) - 3} more" if len(ordered) > 3 else "")
