"""Recipes: what a layer is to become. Frozen, comparable, and JSON both ways."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """What convert does to a layer. Its kinds are the subclasses, known in JSON by class name."""

    def to_dict(self) -> dict[str, Any]:
        """Return {"kind": class name, field: value, ...}, of values that JSON can hold."""
        fields = dataclasses.asdict(self).items()
        plain = {name: list(v) if isinstance(v, tuple) else v for name, v in fields}
        return {"kind": type(self).__name__} | plain

    def to_json(self) -> str:
        """Return the recipe as JSON text, which from_json reads."""
        return json.dumps(self.to_dict())


@dataclass(frozen=True)
class Int8(Recipe):
    """Weights int8 per output channel, activations int8 per row, scaled as they come.

    min_features: layers with fewer inputs or outputs are left alone. 128 is where int8 overtook
        float32 on a CPU at 1024 rows; below, rounding the rows costs more than is won.
    keep_faster: leave layers that are faster in their own dtype on their device, as far as that is
        known. Measured: on a CPU without VNNI and AMX, all; in bfloat16 on a CPU with AMX, those
        with fewer than some 1100 inputs. Predicted: on a GPU, see green_kernels.ops.predicted_gain.
        False converts them too, for the memory that it saves.
    rows: how many rows x has in a call, where that is known: tokens or samples. A GPU's layers are
        judged at it; None judges them at 1 to 8192, and leaves those that gain at none of these.
    subclasses: names of subclasses of nn.Linear to convert too, as "Name" or "module.Name"; their
        forward must be nn.Linear's, for it is the one that they will have.
    """

    min_features: int = 128
    keep_faster: bool = True
    rows: int | None = None
    subclasses: tuple[str, ...] = ()

    def __post_init__(self):
        """TypeError or ValueError, with the name of the field, for what a field cannot hold."""
        _check_positive("min_features", self.min_features)
        if self.rows is not None:
            _check_positive("rows", self.rows)
        if not isinstance(self.keep_faster, bool):
            raise TypeError(f"keep_faster must be a bool, got {self.keep_faster!r}")
        names = self.subclasses
        if not isinstance(names, (tuple, list)) or not all(isinstance(n, str) for n in names):
            raise TypeError(f"subclasses must be a tuple of class names, got {names!r}")
        object.__setattr__(self, "subclasses", tuple(names))


def _check_positive(field: str, number: Any) -> None:
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"{field} must be an int, got {number!r}")
    if number < 1:
        raise ValueError(f"{field} must be at least 1, got {number}")


KINDS: dict[str, type[Recipe]] = {kind.__name__: kind for kind in (Int8,)}


def from_dict(data: Any) -> Recipe:
    """Return the recipe whose to_dict() is data. TypeError or ValueError naming what is wrong."""
    if not isinstance(data, dict):
        raise TypeError(f"recipe must be a JSON object, got {data!r}")
    fields = dict(data)
    name = fields.pop("kind", None)
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"recipe kind must be one of {', '.join(KINDS)}, got {name!r}")
    known = [field.name for field in dataclasses.fields(kind)]
    for field in fields:
        if field not in known:
            raise ValueError(f"{name} has the fields {', '.join(known)}, got {field!r}")
    return kind(**fields)


def from_json(text: str) -> Recipe:
    """Return the recipe whose to_json() is text. ValueError or TypeError naming what is wrong."""
    return from_dict(json.loads(text))
