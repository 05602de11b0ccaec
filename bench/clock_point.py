"""How a way fares at one SM clock, and which of several clocks costs least."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .figures import Interval
from .schema import CorruptRecord, lines, load, parse

FORMAT = 1  # to be raised when a field changes its meaning


@dataclass(frozen=True)
class ClockPoint:
    """One way of a case at one clock. What is not known is None, and reason says why."""

    case: str
    shape: str
    way: str
    gpu_uuid: str
    mhz: int  # that the clock was locked at
    again: bool  # the top clock once more, in the end, to show what drifted meanwhile
    flops: int  # per call
    seconds: Interval | None  # per call, the median over windows
    joules: Interval | None  # per call, gross
    seen_mhz: float | None  # mean over windows of the clock that the board reported
    power_limited: bool | None
    reason: str | None
    date: str  # UTC, ISO 8601, of the sweep
    format: int = FORMAT

    @property
    def joules_per_flop(self) -> float | None:
        """Joules per operation of the dense mathematics."""
        return None if self.joules is None or not self.flops else self.joules.value / self.flops

    def json(self) -> str:
        """Return the point as one line."""
        return json.dumps(asdict(self), allow_nan=False)


@dataclass(frozen=True)
class Choice:
    """The clock to use, against the top one. saved, slowdown: fractions, of joules and of time."""

    point: ClockPoint
    saved: Interval
    slowdown: Interval


def choose(points: Sequence[ClockPoint], slowdown: float) -> Choice | None:
    """Return the clock of least joules per call among those slower than the top by `slowdown`.

    A clock is surely within the bound: with the far ends of both intervals. Clocks whose joules
    cannot be told from the least, the intervals touching, are a tie, which the fastest wins.
    None if the top clock's own figure is not known.
    """
    known = [p for p in points if p.joules is not None and not p.again]
    if not known or known[0] is not points[0]:
        return None
    top = points[0]
    within = [p for p in known if p is top or _over(p.seconds, top.seconds).high - 1 <= slowdown]
    least = min(within, key=lambda p: p.joules.value)
    tied = [p for p in within if _low(p.joules) <= _high(least.joules)]
    best = max(tied, key=lambda p: p.mhz)
    if best is top:
        return Choice(top, Interval(0.0, 0.0, 0.0), Interval(0.0, 0.0, 0.0))
    joules, seconds = _over(best.joules, top.joules), _over(best.seconds, top.seconds)
    return Choice(
        best,
        Interval(1 - joules.value, 1 - joules.high, 1 - joules.low),
        Interval(seconds.value - 1, seconds.low - 1, seconds.high - 1),
    )


def read(path: str | Path) -> list[ClockPoint]:
    """Read a file of points; raise CorruptRecord at the first line that is none."""
    points = []
    for number, line in lines(path):
        where = f"{path}:{number}"
        point = load(ClockPoint, parse(line, where), where)
        if point.format != FORMAT:
            raise CorruptRecord(f"{where}: format must be {FORMAT}, got {point.format}")
        if (point.joules is None) != bool(point.reason) or (point.joules and not point.seconds):
            raise CorruptRecord(f"{where}: joules and seconds, or else a reason, must be there")
        points.append(point)
    return points


def _over(one: Interval, other: Interval) -> Interval:
    """Return one / other with the far ends of both intervals."""
    return Interval(one.value / other.value, _low(one) / _high(other), _high(one) / _low(other))


def _low(of: Interval) -> float:
    return of.low if of.sure else of.value


def _high(of: Interval) -> float:
    return of.high if of.sure else of.value
