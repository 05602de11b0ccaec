"""Whether an energy counter sees all of the time, or only a part of each of its ticks.

On A100 and H100 a power reading is a mean of 25 ms of each 100 ms
(https://arxiv.org/abs/2312.02741), and whether the energy counter adds up such readings is not
documented. A load that is on for a quarter of each tick tells: a counter that sees everything
counts the same joules wherever in the tick that quarter lies.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import linear_regression, quantiles

from green_kernels.energy.nvml import Board

FULL, PARTIAL = 0.05, 0.15  # spread over phases below which, and from which, the verdict is clear
LEAST_SWING = 0.2  # of the power under load
SETTLE = 1.0  # s after each change of the wave, for the counter and the power to follow
DUTY = 0.25
LATEST = DUTY / 5  # how late an edge may be, in periods


@dataclass(frozen=True)
class Coverage:
    """What `coverage_test` found.

    period: of the wave, in s. on_watts, off_watts: of the load held on, and off.
    watts: dE/dt by phase of the wave. spread: (most - least watts) / (on_watts - off_watts).
    late_seconds: by how much edges of the wave were late, 95th percentile.
    verdict: "full", "partial", or "unknown" with the reason.
    """

    period: float
    on_watts: float
    off_watts: float
    watts: tuple[float, ...]
    spread: float | None
    late_seconds: float
    verdict: str
    reason: str | None


def coverage_test(
    board: Board,
    square_wave: Callable[[bool], object],
    *,
    tick: float,
    phases: int = 8,
    seconds: float = 5.0,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Coverage:
    """Return whether dE/dt of a square-wave load depends on its phase against the counter's tick.

    square_wave: called with True to start the load and with False to stop it, within 1/20 of a
    tick; the load is off in the end. tick: seconds between updates of the counter, as
    `SensorProfile.tick_seconds`. phases: how many shifts of the wave, over one tick.
    seconds: how long each is held. The board's power must follow the load faster than the tick;
    if its supply smooths a wave this short, a partial counter looks full.
    Raises ValueError for what is out of range, Unavailable in MIG mode or where NVML fails.
    """
    if not tick > 0:
        raise ValueError(f"tick must be above 0 s, not {tick}")
    if phases < 2:
        raise ValueError(f"phases must be 2 or more, not {phases}")
    if seconds < 10 * tick:
        raise ValueError(f"seconds must be at least 10 ticks, {10 * tick:.3g}, not {seconds}")
    board.refuse_mig()
    wave = _Wave(board, square_wave, tick, clock, sleep)
    try:
        on_watts, off_watts = wave.hold(True, seconds), wave.hold(False, seconds)
        wave.origin = clock()
        watts = tuple(wave.run(phase / phases, seconds) for phase in range(phases))
    finally:
        square_wave(False)
    late = quantiles(wave.late, n=20, method="inclusive")[-1]
    swing = on_watts - off_watts
    verdict, spread = "unknown", None
    if late > LATEST * tick:
        reason = (
            f"the wave could not be held: edges were up to {late * 1e3:.1f} ms late, more than "
            f"{LATEST:.0%} of a tick of {tick * 1e3:.0f} ms"
        )
    elif swing < LEAST_SWING * on_watts:
        reason = f"the load makes too little difference: {on_watts:.1f} W on, {off_watts:.1f} W off"
    else:
        spread = (max(watts) - min(watts)) / swing
        if spread <= FULL:
            verdict, reason = "full", None
        elif spread >= PARTIAL:
            verdict, reason = "partial", None
        else:
            reason = (
                f"dE/dt varied by {spread:.1%} of the load's power with the phase: more than "
                f"{FULL:.0%}, less than {PARTIAL:.0%}"
            )
    return Coverage(tick, on_watts, off_watts, watts, spread, late, verdict, reason)


class _Wave:
    """A load switched in time, and the slope of the energy counter meanwhile."""

    def __init__(
        self,
        board: Board,
        switch: Callable[[bool], object],
        period: float,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ):
        self.board, self.switch, self.period = board, switch, period
        self.clock, self.sleep = clock, sleep
        self.origin, self.late = 0.0, []

    def hold(self, on: bool, seconds: float) -> float:
        """Watts of the load held on or off."""
        self.switch(on)
        self.sleep(SETTLE)
        end, readings = self.clock() + seconds, []
        while self.clock() < end:
            readings.append(self._reading())
            self.sleep(self.period / 4)
        return _slope(readings)

    def run(self, phase: float, seconds: float) -> float:
        """Watts of the load on for a quarter of each period, from `phase` periods on."""
        cycle = int((self.clock() - self.origin) / self.period) + 1
        begin = self.origin + (cycle + phase) * self.period
        settle = round(SETTLE / self.period) + 1
        readings = []
        for count in range(settle + round(seconds / self.period)):
            start = begin + count * self.period
            self._edge(start, True)
            self._edge(start + DUTY * self.period, False)
            if count >= settle:
                readings.append(self._reading())
        return _slope(readings)

    def _edge(self, due: float, on: bool) -> None:
        self.sleep(max(due - self.clock(), 0.0))
        self.switch(on)
        self.late.append(self.clock() - due)

    def _reading(self) -> tuple[float, float]:
        return self.clock(), self.board.joules()


def _slope(readings: list[tuple[float, float]]) -> float:
    """Watts: the least-squares line through joules over time."""
    begin, first = readings[0]
    times, joules = zip(*((now - begin, energy - first) for now, energy in readings), strict=True)
    return linear_regression(times, joules).slope
