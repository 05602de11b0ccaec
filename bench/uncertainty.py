"""Where the uncertainty of a record's joules comes from, part by part."""

import math
import statistics
from dataclasses import dataclass

from . import interval
from .protocol import blind
from .record import Record


@dataclass(frozen=True)
class Budget:
    """Relative parts of the uncertainty of joules per call; None is not known."""

    windows: int
    seconds: float  # median length of a window
    tick: float  # seconds
    unaligned: float  # sd in one window, if its ends fell anywhere between ticks
    aligned: float  # sd in one window whose ends were ticks seen by polls, at the most
    spread: float | None  # sd between windows
    drift: float | None  # from the first window to the last, by the least-squares line
    half_width: float | None  # of the 95 % interval of the median


def budget(r: Record) -> Budget | None:
    """Return the parts of the uncertainty of measured joules; None of 0 J or of no windows.

    A counter that moves each tau seconds, read at two moments that have nothing to do with its
    ticks, misses two independent times uniform in [0, tau): relative sd tau / (sqrt(6) T).
    Of a tick that a poll saw, the time is known to within BLIND: the same sd, with that for tau.
    """
    windows = r.energy.windows
    if not r.joules or not windows:
        return None
    seconds = statistics.median(w.seconds for w in windows)
    tick = statistics.median(w.seconds / w.ticks for w in windows)
    values = [w.joules_per_call for w in windows]
    return Budget(
        windows=len(windows),
        seconds=seconds,
        tick=tick,
        unaligned=tick / (math.sqrt(6) * seconds),
        aligned=blind(seconds) / (math.sqrt(6) * seconds),
        spread=statistics.stdev(values) / statistics.mean(values) if len(values) > 1 else None,
        drift=_drift(values),
        half_width=interval.half_width(r.energy.joules),
    )


def _drift(values: list[float]) -> float | None:
    """The change along the least-squares line through the values, relative to their mean."""
    if len(values) < 3:  # two always lie on a line
        return None
    slope, _ = statistics.linear_regression(range(len(values)), values)
    return slope * (len(values) - 1) / statistics.mean(values)
