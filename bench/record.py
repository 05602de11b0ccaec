"""A record is one measurement with everything needed to judge it later; one line of JSON."""

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .figures import Energy
from .protocol import FULL, QUICK
from .schema import CorruptRecord, lines, load, parse

FORMAT = 2  # to be raised when a field changes its meaning
KINDS = ("op", "model")
LEAST_ROUNDS = 3  # of which a spread can be told, and that a mean over shapes may rest on
STATUSES = ("timed", "refused", "unavailable")
PROTOCOLS = {protocol.name: protocol for protocol in (QUICK, FULL)}


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
    data: str  # the recipe of the inputs: "normal", "zeros", "real"
    seed: int
    copies: int  # of the buffers, used in turn; enough of them exceed the cache
    cold: bool  # whether all copies together exceed the device's last cache
    protocol: str  # "quick" or "full"
    status: str  # "timed"; "refused", its result being wrong; "unavailable"
    reason: str | None  # why it was not timed
    error: float | None  # against the baseline's output, by the case's own measure
    tolerance: float | None  # the largest error that is accepted
    flops: int  # per call, of the dense mathematics; for int8 ways, operations
    executed_flops: int  # per call, that this way carries out: fewer where zeros are skipped
    bytes: int  # per call, that must move at the least
    times: tuple[float, ...]  # seconds per call of each round, in order
    calls: int  # in each round
    ratio: float | None  # median over rounds of baseline's seconds / this way's seconds
    ratio_low: float | None  # its lower quartile
    ratio_high: float | None  # its upper quartile
    energy: Energy
    assumed_watts: float | None  # by --assume-watts; an estimate, never a measurement
    estimated_joules: float | None  # per call: assumed_watts * seconds
    date: str  # UTC, ISO 8601
    machine: dict[str, Any]
    items: dict[str, float] = field(default_factory=dict)  # per call: "tokens", "samples"
    quality: dict[str, float] = field(default_factory=dict)  # of a model's output, by metric
    extra: dict[str, float] = field(default_factory=dict)  # more figures of this way, by name
    rank: int = 0  # of the process under torchrun; each has a device of its own
    format: int = FORMAT

    @property
    def seconds(self) -> float | None:
        """Median over rounds of the seconds per call."""
        return statistics.median(self.times) if self.times else None

    @property
    def spread(self) -> tuple[float, float] | None:
        """Lower and upper quartile over rounds of the seconds per call; None of fewer than 3."""
        return quartiles(self.times) if len(self.times) >= LEAST_ROUNDS else None

    @property
    def joules(self) -> float | None:
        """Measured joules per call, gross."""
        return None if self.energy.joules is None else self.energy.joules.value

    @property
    def joules_per_flop(self) -> float | None:
        """Measured joules per operation of the dense mathematics."""
        return None if self.joules is None or not self.flops else self.joules / self.flops

    @property
    def joules_per_executed_flop(self) -> float | None:
        """Measured joules per operation carried out."""
        executed = self.executed_flops
        return None if self.joules is None or not executed else self.joules / executed

    def joules_per(self, item: str) -> float | None:
        """Measured joules per "token" or "sample" of a model."""
        count = self.items.get(f"{item}s")
        return None if self.joules is None or not count else self.joules / count

    def json(self) -> str:
        """Return the record as one line."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, line: str, where: str = "line") -> "Record":
        """Read a line; raise CorruptRecord naming the key that is wrong."""
        values = parse(line, where)
        if not isinstance(values, dict):
            raise CorruptRecord(f"{where}: must be an object, got {type(values).__name__}")
        if values.get("format") != FORMAT:
            raise CorruptRecord(f"{where}: format must be {FORMAT}, got {values.get('format')!r}")
        record = load(cls, values, where)
        record._check(where)
        return record

    def _check(self, where: str) -> None:
        """Refuse values that have the right type and make no sense."""
        for key, allowed in (("kind", KINDS), ("status", STATUSES), ("protocol", PROTOCOLS)):
            if getattr(self, key) not in allowed:
                got = f"must be one of {tuple(allowed)}, got {getattr(self, key)!r}"
                raise CorruptRecord(f"{where}: {key} {got}")
        if (self.status == "timed") != bool(self.times):
            raise CorruptRecord(f"{where}: times must be there if status is timed, and only then")
        if self.energy.status not in ("measured", "unavailable"):
            got = f"must be measured or unavailable, got {self.energy.status!r}"
            raise CorruptRecord(f"{where}: energy.status {got}")
        if (self.energy.joules is None) == (self.energy.status == "measured"):
            raise CorruptRecord(
                f"{where}: energy.joules must be null unless its status is measured"
            )
        if self.energy.joules is None and not self.energy.reason:
            raise CorruptRecord(f"{where}: energy.reason must say why joules is null")
        for key in ("error", "ratio", "ratio_low", "ratio_high"):
            if self.times and getattr(self, key) is None:
                raise CorruptRecord(f"{where}: {key} must be a number if status is timed, got None")


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
    return [Record.from_json(line, f"{path}:{number}") for number, line in lines(path)]
