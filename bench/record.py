"""A record is one measurement with everything needed to judge it later; one line of JSON."""

import json
import math
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

FORMAT = 1  # to be raised when a field changes its meaning
KINDS = ("op", "model")
STATUSES = ("timed", "refused", "unavailable")


class CorruptRecord(ValueError):
    """A line that is not a record of this format; the message names the file, line and key."""


@dataclass(frozen=True)
class Record:
    """One way of one case on one machine. None is "not known", and a reason stands beside it."""

    case: str
    kind: str  # "op" or "model"
    shape: str
    way: str
    baseline: str  # the way that ratio refers to
    device: str
    dtype: str
    status: str  # "timed"; "refused", its result being wrong; "unavailable"
    reason: str | None  # why it was not timed
    error: float | None  # against the baseline's output, by the case's own measure
    tolerance: float | None  # the largest error that is accepted
    flops: int  # per call; for int8 ways, operations
    bytes: int  # per call, that must move at the least
    times: tuple[float, ...]  # seconds per call of each round, in order
    calls: int  # in each round
    ratio: float | None  # median over rounds of baseline's seconds / this way's seconds
    ratio_low: float | None  # its lower quartile
    ratio_high: float | None  # its upper quartile
    joules: float | None  # per call, measured
    energy_status: str  # "measured" or "unavailable"
    energy_reason: str | None
    energy_source: str | None  # "nvml", "rapl"
    energy_seconds: float | None  # of the window that joules come from
    assumed_watts: float | None  # by --assume-watts; an estimate, never a measurement
    estimated_joules: float | None  # per call: assumed_watts * seconds
    date: str  # UTC, ISO 8601
    machine: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)  # more figures of this way, by name
    format: int = FORMAT

    @property
    def seconds(self) -> float | None:
        """Median over rounds of the seconds per call."""
        return statistics.median(self.times) if self.times else None

    @property
    def spread(self) -> tuple[float, float] | None:
        """Lower and upper quartile over rounds of the seconds per call."""
        return quartiles(self.times) if self.times else None

    @property
    def joules_per_flop(self) -> float | None:
        """Measured joules per floating-point (or integer) operation of the mathematics."""
        return None if self.joules is None or not self.flops else self.joules / self.flops

    def json(self) -> str:
        """Return the record as one line."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, line: str, where: str = "line") -> "Record":
        """Read a line; raise CorruptRecord naming the key that is wrong."""
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:  # too many digits, too many brackets
            raise CorruptRecord(f"{where}: not JSON: {error}") from None
        if not isinstance(values, dict):
            raise CorruptRecord(f"{where}: must be an object, got {type(values).__name__}")
        if values.get("format") != FORMAT:
            raise CorruptRecord(f"{where}: format must be {FORMAT}, got {values.get('format')!r}")
        known = {f.name: f.type for f in fields(cls)}
        for key in known.keys() - values.keys():
            raise CorruptRecord(f"{where}: {key} is missing")
        for key in values.keys() - known.keys():
            raise CorruptRecord(f"{where}: {key} is not a key of a record")
        for key, value in values.items():
            if key == "times" and isinstance(value, list):
                values[key] = value = tuple(value)
            if not _fits(value, known[key]):
                raise CorruptRecord(f"{where}: {key} must be {_words(known[key])}, got {value!r}")
        record = cls(**values)
        record._check(where)
        return record

    def _check(self, where: str) -> None:
        """Refuse values that have the right type and make no sense."""
        if self.kind not in KINDS:
            raise CorruptRecord(f"{where}: kind must be one of {KINDS}, got {self.kind!r}")
        if self.status not in STATUSES:
            raise CorruptRecord(f"{where}: status must be one of {STATUSES}, got {self.status!r}")
        if (self.status == "timed") != bool(self.times):
            raise CorruptRecord(f"{where}: times must be there if status is timed, and only then")
        if (self.joules is None) == (self.energy_status == "measured"):
            raise CorruptRecord(f"{where}: joules must be null unless energy_status is measured")
        for key in ("error", "ratio", "ratio_low", "ratio_high"):
            if self.times and getattr(self, key) is None:
                raise CorruptRecord(f"{where}: {key} must be a number if status is timed, got None")
        self._check_numbers(where)

    def _check_numbers(self, where: str) -> None:
        """Refuse numbers that cannot be computed with."""
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, int | float) and not (_is_finite(value) and value >= 0):
                got = f"finite and not negative, got {value}"
                raise CorruptRecord(f"{where}: {f.name} must be {got}")
        for i, value in enumerate(self.times):
            if not (_is_finite(value) and value > 0):
                raise CorruptRecord(f"{where}: times[{i}] must be finite and positive, got {value}")
        for name, value in self.extra.items():
            if not (_fits(value, float) and _is_finite(value)):
                got = f"a finite number, got {value!r}"
                raise CorruptRecord(f"{where}: extra[{name!r}] must be {got}")


def quartiles(values: Iterable[float]) -> tuple[float, float]:
    """Return the lower and the upper quartile, by linear interpolation."""
    values = list(values)
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def write(records: Iterable[Record], path: str | Path) -> None:
    """Append records to a file, one line each."""
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(record.json() + "\n" for record in records)


def read(path: str | Path) -> list[Record]:
    """Read a file of records; raise CorruptRecord at the first line that is none."""
    return list(_read(Path(path)))


def _read(path: Path) -> Iterator[Record]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CorruptRecord(f"{path}: not text: {error}") from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield Record.from_json(line, f"{path}:{number}")


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(kind, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(item, float) for item in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _words(kind: Any) -> str:
    if isinstance(kind, UnionType):
        return " or ".join(_words(one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        return "a list of numbers"
    names = {float: "a number", int: "an integer", str: "a string", NoneType: "null"}
    return names.get(kind, "an object")
