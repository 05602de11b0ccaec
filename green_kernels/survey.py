"""Survey: which linear layers of a model may be swapped, and why the others may not."""

import dis
import functools
import inspect
from types import FunctionType

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from green_kernels import ops
from green_kernels.build import build_info
from green_kernels.nn.quantized_linear import QuantizedLinear
from green_kernels.recipes import Int8, Int8WeightOnly, Recipe

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_ROWS = tuple(2**i for i in range(14))  # of x: one token to 8192
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def linears(model: nn.Module) -> dict[nn.Module, tuple[str, ...]]:
    """Every nn.Linear (subclasses too) and QuantizedLinear of the model, with all its names."""
    found: dict[nn.Module, tuple[str, ...]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Linear | QuantizedLinear):
            found[module] = (*found.get(module, ()), name)
    return found


class Survey:
    """What must be known of the whole model to judge one layer: ties, and who reads weights."""

    def __init__(self, model: nn.Module):
        """Look once through all tensors of the model."""
        self.model = model
        self.ties = _ties(model)

    def reason_to_leave(self, name: str, layer: nn.Module, recipe: Recipe) -> str | None:
        """Why the layer of that name is not to be swapped, in words; None if it may be."""
        return (
            reason_not_a_linear(layer, recipe)
            or _wrong_weight(layer.weight, layer.bias)
            or _wrong_size(layer, recipe)
            or _faster_as_it_is(layer.weight, recipe)
            or self._tied(layer)
            or self._read_by_another(name)
        )

    def caveat(self, layer: nn.Module, recipe: Recipe) -> str | None:
        """Where a layer that may be swapped would be slower than it was, in words; or None."""
        if isinstance(recipe, Int8WeightOnly) and not _multiplies_weights(layer.weight.device):
            return "slower than in float: no compiled kernels here"
        slower = _where_slower(_predicted_gains(layer.weight, recipe))
        return slower and f"predicted slower than in {_dtype(layer.weight)} at {slower}"

    def _tied(self, layer):
        other = self.ties.get((layer, "weight"))
        return other and f"weight tied to {other}"

    def _read_by_another(self, name):
        """As nn.MultiheadAttention reads out_proj.weight: it would not find it in an int8 layer."""
        path = name.split(".")
        for depth in range(len(path)):
            owner = self.model.get_submodule(".".join(path[:depth]))
            wanted = [*path[depth:], "weight"]
            code = _names_in_forward(type(owner))
            if any(code[i : i + len(wanted)] == wanted for i in range(len(code))):
                return f"{type(owner).__name__}.forward reads {'.'.join(wanted)}"
        return None


def reason_not_a_linear(layer: nn.Module, recipe: Recipe) -> str | None:
    """Why a layer does not act as its weight and bias in F.linear would; None if it does."""
    if isinstance(layer, QuantizedLinear):
        return "already converted"
    if not isinstance(layer, nn.Linear):
        return f"{type(layer).__name__} is no nn.Linear"
    return _wrong_kind(layer, recipe) or _more_than_a_linear(layer)


def _wrong_kind(layer, recipe):
    if any(is_lazy(parameter) for parameter in layer.parameters()):
        return "not initialised yet"
    if is_parametrized(layer):
        return "its parameters are parametrized"
    kind = type(layer)
    names = (kind.__name__, f"{kind.__module__}.{kind.__qualname__}")
    if kind is not nn.Linear and not any(name in recipe.subclasses for name in names):
        return f"subclass of nn.Linear ({kind.__name__}) not asked for by name"
    return None


def _more_than_a_linear(layer):
    if set(layer._parameters) != {"weight", "bias"}:
        return "weight or bias is not a plain Parameter, or there are more (pruning, weight_norm)"
    if layer._buffers or layer._modules:
        return "it holds buffers or modules of its own"
    if any(getattr(layer, hooks) for hooks in _HOOKS):
        return "it has hooks"
    if "forward" in vars(layer):
        return "its forward was replaced"
    return None


def _wrong_weight(weight, bias):
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        if type(tensor) is not nn.Parameter or type(tensor.data) is not Tensor:
            return f"{name} is a {type(tensor.data).__name__}"
        if tensor.layout != torch.strided:
            return f"{name} is {tensor.layout}"
        if tensor.dtype not in _FLOATS:
            return f"{name} is {tensor.dtype}, not float32, float16 or bfloat16"
        if tensor.is_meta:
            return f"{name} is on the meta device"
    return None


def _wrong_size(layer, recipe):
    n, k = layer.weight.shape
    if min(n, k) < recipe.min_features:
        return f"too small: {k} to {n} features, min_features is {recipe.min_features}"
    if k > ops.MAX_K:
        return f"too wide: {k} input features, the int32 sums hold {ops.MAX_K}"
    return None


def _faster_as_it_is(weight, recipe):
    if not isinstance(recipe, Int8) or not recipe.keep_faster:
        return None
    if gains := _predicted_gains(weight, recipe):
        if max(gains.values()) > 1:
            return None
        return f"predicted faster in {_dtype(weight)} at {_where_slower(gains)}"
    if weight.device.type != "cpu":
        return None
    if not ops.is_fast_on_cpu():
        return "faster in float: neither VNNI nor AMX here, or no compiled kernels"
    if weight.dtype != torch.bfloat16 or "amx-int8" not in build_info()["cpu_features"]:
        return None
    # AMX multiplies int8 twice as fast as bfloat16, which saves time in proportion to N * K for a
    # row; rounding the row costs in proportion to K, finishing its sums to N. The constants are
    # the ratios of those times, from batches of 4096 rows, where int8 has the least to win.
    n, k = weight.shape
    if 165 / n + 950 / k < 0.9:
        return None
    return f"faster in bfloat16: {k} to {n} features are too few for int8 on this CPU"


def _multiplies_weights(device):
    """Whether int8_weight_linear has a kernel there; a GPU has Triton's at the least."""
    return device.type != "cpu" or "cpu" in ops.int8_weight_linear.compiled_devices()


def _predicted_gains(weight, recipe):
    """On a GPU: by rows of x, how many times as fast as in float it would be. Else nothing."""
    gpu = ops.gpu_of(weight.device) if isinstance(recipe, Int8) else None
    if gpu is None:
        return {}
    n, k = weight.shape
    rows = _ROWS if recipe.rows is None else (recipe.rows,)
    return {m: ops.predicted_gain(m, n, k, weight.dtype, gpu) for m in rows}


def _dtype(weight):
    return str(weight.dtype).removeprefix("torch.")


def _where_slower(gains):
    """The numbers of rows without a gain, in words: "1 to 8 and 64 rows"; None without one."""
    runs: list[list[int]] = []
    before = None
    for rows, gain in gains.items():
        if gain <= 1 and before is not None and before <= 1:
            runs[-1].append(rows)
        elif gain <= 1:
            runs.append([rows])
        before = gain
    spans = [f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return " and ".join(spans) + " rows" if spans else None


@functools.cache
def _names_in_forward(kind: type) -> list:
    """The names and constants of kind.forward in the order in which its bytecode has them."""
    forward = inspect.unwrap(kind.forward)
    if not isinstance(forward, FunctionType):
        return []
    return [instruction.argval for instruction in dis.get_instructions(forward)]


def _ties(model: nn.Module) -> dict[tuple[nn.Module, str], str]:
    """For each (module, parameter) that shares memory with another of the model: its name."""
    places: dict[Tensor, list[tuple[tuple[nn.Module, str], str]]] = {}
    for prefix, module in model.named_modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                full = f"{prefix}.{name}".lstrip(".")
                places.setdefault(tensor, []).append(((module, name), full))
    ties = {}
    for group in [*places.values(), *_overlaps(places)]:
        for place, _ in group:
            others = [full for other, full in group if other != place]
            if others:
                ties.setdefault(place, others[0])
    return ties


def _overlaps(places):
    """Groups of places whose tensors are different objects on common bytes."""
    spans = []
    for tensor, at in places.items():
        if is_lazy(tensor) or type(tensor.data) is not Tensor or tensor.layout != torch.strided:
            continue
        if tensor.numel() and not tensor.is_meta:
            steps = zip(tensor.shape, tensor.stride(), strict=True)
            last = sum((size - 1) * step for size, step in steps)
            start = tensor.data_ptr()
            spans.append((str(tensor.device), start, start + (last + 1) * tensor.itemsize, at))
    spans.sort(key=lambda span: span[:2])
    group, device, end = [], None, 0
    for on, start, stop, at in spans:
        if on != device or start >= end:
            yield group
            group, device, end = [], on, stop
        group, end = group + at, max(end, stop)
    yield group
