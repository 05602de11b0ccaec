"""Dataclasses from JSON: every key there and of its type, every number one to compute with."""

import json
import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin

from .figures import Interval

T = TypeVar("T")

# What a field's numbers may be, where "finite and not negative" is not the rule.
SIGNED = {"quality", "extra", "net", "difference", "celsius"}
POSITIVE = {"times", "seconds", "seconds_per_call", "ticks", "assumed_watts"}


class CorruptRecord(ValueError):
    """A line that is not a record of this format; the message names the file, line and key."""


def lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Return the lines of a file that are not blank, with their numbers from 1.

    Raises CorruptRecord where it is no text, OSError where it cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CorruptRecord(f"{path}: not text: {error}") from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, line


def parse(line: str, where: str) -> Any:
    """Return what a line of JSON stands for; raise CorruptRecord where it is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:  # too many digits, too many brackets
        raise CorruptRecord(f"{where}: not JSON: {error}") from None


def load(kind: type[T], values: Any, where: str, path: str = "", owner: str | None = None) -> T:
    """Return the dataclass that a JSON object stands for; raise CorruptRecord naming the key.

    where: file and line, for the message. path: of the object within the line.
    owner: the field that the object's numbers belong to, where they are no fields themselves.
    """
    if not isinstance(values, dict):
        raise CorruptRecord(f"{where}: {path or 'it'} must be an object, got {_short(values)}")
    known = {f.name: f.type for f in fields(kind)}
    head = f"{path}." if path else ""
    for key in known.keys() - values.keys():
        raise CorruptRecord(f"{where}: {head}{key} is missing")
    for key in values.keys() - known.keys():
        raise CorruptRecord(f"{where}: {head}{key} is not a key of a {kind.__name__.lower()}")
    return kind(
        **{key: _value(known[key], values[key], where, head + key, owner or key) for key in known}
    )


def _value(kind: Any, value: Any, where: str, path: str, owner: str) -> Any:
    """Return one value as the field's type has it."""
    whole = kind
    if isinstance(kind, UnionType) and value is not None:
        (kind,) = (one for one in get_args(kind) if one is not NoneType)
    if is_dataclass(kind):
        return load(kind, value, where, path, owner if kind is Interval else None)
    if get_origin(kind) is tuple and isinstance(value, list):
        item = get_args(kind)[0]
        return tuple(_value(item, v, where, f"{path}[{i}]", owner) for i, v in enumerate(value))
    if get_origin(kind) is dict and isinstance(value, dict):
        item = get_args(kind)[1]
        if item is Any:
            return value
        return {k: _value(item, v, where, f"{path}[{k!r}]", owner) for k, v in value.items()}
    if not _fits(value, kind):
        raise CorruptRecord(f"{where}: {path} must be {_words(whole)}, got {_short(value)}")
    if kind in (int, float):
        _check_number(value, where, path, owner)
    return value


def _check_number(value: float, where: str, path: str, owner: str) -> None:
    least = "" if owner in SIGNED else " and positive" if owner in POSITIVE else " and not negative"
    wrong = value <= 0 if owner in POSITIVE else value < 0 and owner not in SIGNED
    if wrong or not _is_finite(value):
        raise CorruptRecord(f"{where}: {path} must be finite{least}, got {_short(value)}")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(kind, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if get_origin(kind) is not None:  # a list or an object, which were looked into before
        return False
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _words(kind: Any) -> str:
    if isinstance(kind, UnionType):
        return " or ".join(_words(one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        return "a list"
    names = {float: "a number", int: "an integer", str: "a string", NoneType: "null"}
    return names.get(kind, "true or false" if kind is bool else "an object")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
