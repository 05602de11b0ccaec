"""What a board's sensors are worth: how often they tick, and whether they agree.

The energy counter is checked once for each board and driver, against the power readings that the
same board gives: this finds a counter that is wrong by its own account, not a gain error that all
its sensors share (to 5 % in https://arxiv.org/abs/2312.02741).
"""

import json
import math
import os
import re
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any

from green_kernels.energy.nvml import AVERAGE, ENERGY, INSTANT, Board, Sample

POLL = 0.001  # s between samples while ticks are timed
STEADY_POLL = 0.005
TOLERANCE = 0.05  # between counter and power, the accuracy that NVML claims for either
LEAST_CHANGES = 5  # of a value, to tell its tick

Load = AbstractContextManager | Callable[[], AbstractContextManager] | None
Reading = tuple[float, Sample]  # time by the caller's clock


@dataclass(frozen=True)
class SensorProfile:
    """What was found of one board's sensors under one driver. None is not known.

    tick_seconds, tick_spread: mean time between two updates of the energy counter, and the
    distance between the 10th and the 90th percentile. joules_per_tick: median, at counter_watts.
    counter_watts, instant_watts, average_watts: of the same steady window.
    disagreement: the larger of |instant / counter - 1| and |average / counter - 1|.
    agrees: whether that is known and within 5 %; if not, reason says why.
    coverage: "full", "partial" or "unknown": the verdict of `coverage_test`.
    loaded: whether a load ran. errors: why a quantity could not be read, by quantity.
    """

    uuid: str
    driver: str
    date: str
    loaded: bool
    tick_seconds: float | None
    tick_spread: float | None
    joules_per_tick: float | None
    instant_tick_seconds: float | None
    average_tick_seconds: float | None
    counter_watts: float | None
    instant_watts: float | None
    average_watts: float | None
    disagreement: float | None
    agrees: bool
    reason: str | None
    coverage: str = "unknown"
    errors: dict[str, str] = field(default_factory=dict)


def sensor_profile(
    board: Board,
    load: Load = None,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    cache: Path | None = None,
    refresh: bool = False,
    tick_seconds: float = 3.0,
    steady_seconds: float = 5.0,
) -> SensorProfile:
    """Return how a board's energy counter ticks, and whether dE/dt agrees with its power.

    load: a context manager, or what returns one, that keeps the board steadily busy; without it
    the board is taken as it is. tick_seconds, steady_seconds: how long ticks are timed, and how
    long the window of the comparison is at least.
    cache: a folder of profiles; `cache_folder()` by default. A profile that agrees is kept there,
    and is measured again if `refresh`, if the driver changed, or if there was no load and is now.
    Raises Unavailable in MIG mode or where NVML fails.
    """
    board.refuse_mig()
    file = _file(board.uuid, board.driver(), cache)
    known = None if refresh else _read(file, board)
    if known is not None and (known.loaded or load is None):
        return known
    with _started(load):
        ticking = _poll(board, tick_seconds, POLL, clock, sleep)
        steady = _poll(board, steady_seconds, STEADY_POLL, clock, sleep)
    profile = _profile(board, ticking, steady, loaded=load is not None)
    if profile.agrees:
        save_profile(profile, cache)
    return profile


def save_profile(profile: SensorProfile, cache: Path | None = None) -> None:
    """Keep a profile, such as one with its coverage filled in, if the folder can be written.

    A reader sees the old file or the new one, never a part.
    """
    file = _file(profile.uuid, profile.driver, cache)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            whole = Path(folder) / file.name
            whole.write_text(json.dumps(asdict(profile), indent=1))
            os.replace(whole, file)
    except OSError:
        pass


def cache_folder() -> Path:
    """Return $XDG_CACHE_HOME/green_kernels/sensors, or that in ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "green_kernels" / "sensors"


def _profile(
    board: Board, ticking: list[Reading], steady: list[Reading], loaded: bool
) -> SensorProfile:
    errors = {
        quantity: reason
        for _, sample in ticking + steady
        for quantity, reason in sample.errors.items()
        if quantity in (ENERGY, INSTANT, AVERAGE)
    }
    changes = [] if ENERGY in errors else _changes(ticking, "joules")
    steps = [after - before for (_, before), (_, after) in zip(changes, changes[1:], strict=False)]
    tick, spread = _tick(changes)
    watts = {
        "counter_watts": None if ENERGY in errors else _counter_watts(steady),
        "instant_watts": None if INSTANT in errors else _mean(steady, "instant_watts"),
        "average_watts": None if AVERAGE in errors else _mean(steady, "average_watts"),
    }
    counter, powers = watts["counter_watts"], list(watts.values())[1:]
    apart = [abs(power / counter - 1) for power in powers if power is not None and counter]
    disagreement = max(apart, default=None)
    if ENERGY in errors:
        reason = f"{board}: the energy counter cannot be read: {errors[ENERGY]}"
    elif min(steps, default=0) < 0 or (counter or 0) < 0:
        reason = f"{board}: the energy counter went back"
        tick = spread = None
    elif tick is None or not counter:
        seconds = ticking[-1][0] - ticking[0][0]
        reason = f"{board}: the energy counter changed {len(changes)} times in {seconds:.3g} s"
    elif (drift := _drift(steady, counter)) > TOLERANCE:
        reason = (
            f"{board}: the load was not steady: power changed by {drift:.1%} between the halves "
            "of the window"
        )
    elif disagreement is None:
        causes = "; ".join(f"{name}: {errors[name]}" for name in (INSTANT, AVERAGE))
        reason = f"{board}: the energy counter cannot be checked without power ({causes})"
    elif disagreement > TOLERANCE:
        reason = (
            f"{board}: the energy counter says {counter:.1f} W, the power readings "
            + " and ".join(f"{power:.1f} W" for power in powers if power is not None)
            + f": {disagreement:.1%} apart, more than {TOLERANCE:.0%}"
        )
    else:
        reason = None
    return SensorProfile(
        uuid=board.uuid,
        driver=board.driver(),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        loaded=loaded,
        tick_seconds=tick,
        tick_spread=spread,
        joules_per_tick=median(steps) if tick is not None else None,
        instant_tick_seconds=_tick(_changes(ticking, "instant_watts"))[0],
        average_tick_seconds=_tick(_changes(ticking, "average_watts"))[0],
        **watts,
        disagreement=disagreement,
        agrees=reason is None,
        reason=reason,
        errors=errors,
    )


def _poll(
    board: Board,
    seconds: float,
    interval: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> list[Reading]:
    """Samples of so many seconds, each with the time just before it."""
    readings = []
    end = clock() + seconds
    while (now := clock()) <= end:
        readings.append((now, board.sample()))
        sleep(interval)
    return readings


def _changes(readings: list[Reading], name: str) -> list[tuple[float, float]]:
    """The times at which a quantity was first seen to have changed, and what it changed to."""
    values = [(now, getattr(sample, name)) for now, sample in readings]
    known = [(now, value) for now, value in values if value is not None]
    pairs = zip(known, known[1:], strict=False)
    return [after for before, after in pairs if before[1] != after[1]]


def _tick(changes: list[tuple[float, float]]) -> tuple[float | None, float | None]:
    """Mean time between updates, and its spread; an update that changed nothing is not missed."""
    if len(changes) < LEAST_CHANGES:
        return None, None
    times = [now for now, _ in changes]
    between = [after - before for before, after in zip(times, times[1:], strict=False)]
    usual = median(between)
    ticks = sum(max(round(seconds / usual), 1) for seconds in between)
    deciles = quantiles(between, n=10, method="inclusive")
    return (times[-1] - times[0]) / ticks, deciles[-1] - deciles[0]


def _counter_watts(readings: list[Reading]) -> float | None:
    """dE/dt between the first and the last change of the counter."""
    changes = _changes(readings, "joules")
    if len(changes) < 2:
        return None
    (begin, first), (end, last) = changes[0], changes[-1]
    return (last - first) / (end - begin)


def _mean(readings: list[Reading], name: str) -> float:
    return fmean(getattr(sample, name) for _, sample in readings)


def _drift(readings: list[Reading], watts: float) -> float:
    half = len(readings) // 2
    first, second = _counter_watts(readings[:half]), _counter_watts(readings[half:])
    return math.inf if None in (first, second) else abs(second - first) / watts


def _started(load: Load) -> AbstractContextManager:
    if load is None:
        return nullcontext()
    return load if hasattr(load, "__enter__") else load()


def _file(uuid: str, driver: str, cache: Path | None) -> Path:
    name = re.sub(r"[^\w.-]", "_", f"{uuid} {driver}")
    return (cache_folder() if cache is None else Path(cache)) / f"{name}.json"


def _read(file: Path, board: Board) -> SensorProfile | None:
    """The profile in a file, or None if it is not one of this board and driver that agrees."""
    try:
        profile = SensorProfile(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return profile if _is_sound(profile, board) else None


def _is_sound(profile: SensorProfile, board: Board) -> bool:
    needed = (profile.tick_seconds, profile.counter_watts, profile.disagreement)
    optional = (
        profile.tick_spread,
        profile.joules_per_tick,
        profile.instant_tick_seconds,
        profile.average_tick_seconds,
        profile.instant_watts,
        profile.average_watts,
    )
    return (
        (profile.uuid, profile.driver) == (board.uuid, board.driver())
        and isinstance(profile.date, str)
        and isinstance(profile.loaded, bool)
        and all(map(_is_quantity, needed))
        and all(value is None or _is_quantity(value) for value in optional)
        and profile.tick_seconds > 0
        and profile.disagreement <= TOLERANCE
        and (profile.agrees, profile.reason) == (True, None)
        and profile.coverage in ("unknown", "full", "partial")
        and isinstance(profile.errors, dict)
    )


def _is_quantity(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0
