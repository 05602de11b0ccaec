"""Joules of the ways of a case: warmed up, in windows turn by turn, each with its interval."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import fmean

from green_kernels import energy

from . import gates, interval
from .device import Device
from .execute import Batch
from .figures import Energy, Interval, Window
from .gates import POWER_CAP, Refused
from .protocol import (
    HALF_WIDTH,
    POWER_LIMITED,
    REPEATS,
    SETTLE_BLOCK,
    SETTLE_BLOCKS,
    SETTLE_SECONDS,
    SETTLED_CELSIUS,
    SETTLED_WATTS,
    Protocol,
    blind,
)
from .window import Feed, measure


def turn(names: list[str], number: int) -> list[str]:
    """Return the order of ways in a round: A B C, C B A, B C A, A C B, C A B, B A C, ..."""
    start = number // 2 % len(names) if names else 0
    order = names[start:] + names[:start]
    return order[::-1] if number % 2 else order


@dataclass
class Joules:
    """The windows of one case while they are measured."""

    device: Device
    protocol: Protocol
    batches: Mapping[str, Batch]  # the baseline first
    deadline: float | None = None  # by the device's clock
    progress: Callable[[str], None] = lambda step: None
    windows: dict[str, list[Window]] = field(default_factory=dict)
    idle: list[Window] = field(default_factory=list)
    failed: dict[str, dict[str, str]] = field(default_factory=dict)  # by way, then gate
    repeated: dict[str, int] = field(default_factory=dict)
    no_idle: str | None = None  # why idle power is not known at the end

    def measure(self) -> dict[str, Energy]:
        """Return the energy of each way, or why there is none."""
        self.windows = {way: [] for way in self.batches}
        self.failed = {way: {} for way in self.batches}
        self.repeated = dict.fromkeys(self.batches, 0)
        try:
            self.device.meter = self.device.meter.fresh()
            self._prepare()
            self._run()
        except Refused as refused:
            for way in self.batches:
                self.failed[way].setdefault(refused.gate, refused.reason)
        return {way: self._energy(way) for way in self.batches}

    def _prepare(self) -> None:
        """Check what surrounds the windows, and warm up; raise Refused."""
        least, left = self.least_seconds(), self._left()
        if left < least:
            raise Refused("budget", f"its windows take {least:.0f} s, and {left:.0f} s are left")
        try:
            gates.surroundings(self.device)  # rather now than after minutes of warming up
        except energy.Unavailable as reason:
            raise Refused("counter", str(reason)) from None
        if self.protocol.thorough:
            self.progress("idle power")
            self.idle.append(self._window(None, 0))
            self._warm_up()

    def _warm_up(self) -> None:
        """Bring the device to a steady state, and have its counter checked there."""
        self.progress("warming up")
        feed = Feed(self.device, next(iter(self.batches.values())))
        try:
            self._settle(feed)
            profile = self.device.sensor(feed.wait)
        except energy.Unavailable as reason:
            raise Refused("counter", str(reason)) from None
        finally:
            self.device.executor.synchronize()
        if profile is not None and not profile.agrees:
            raise Refused("sensor", profile.reason or "counter and power sensor disagree")

    def _settle(self, feed: Feed) -> None:
        """Run until temperature and power stand still."""
        clock, meter = self.device.clock, self.device.meter
        start, watts, celsius = clock(), [], []
        unsure = blind(SETTLE_BLOCK)
        time, joules = feed.edge(unsure)
        while clock() - start < SETTLE_SECONDS:
            if self._left() < self.protocol.windows * self.seconds_of_cycle():
                took = f"{clock() - start:.0f} s of warming up"
                raise Refused("budget", f"{took} left too little time for the windows")
            feed.run(SETTLE_BLOCK - meter.tick)
            now, more = feed.edge(unsure)
            watts.append((more - joules) / (now - time))
            celsius.append(self.device.state().celsius)
            time, joules = now, more
            if _still(watts, celsius):
                return
        took = f"after {clock() - start:.0f} s of warming up"
        raise Refused("settled", f"power or temperature still moved {took}")

    def _run(self) -> None:
        """Measure in cycles, all ways in turn, until all are sure enough or time is up."""
        for cycle in range(self.protocol.most_windows):
            if self._left() < self.seconds_of_cycle():
                break
            for way in turn(list(self.batches), cycle):
                if not self.failed[way]:
                    self.progress(f"window {cycle + 1} of {way}")
                    self._add(way, cycle)
            live = [way for way in self.batches if not self.failed[way]]
            # Looked at seldom: who stops as soon as an interval happens to be narrow, is too sure.
            looked = (cycle + 1) % self.protocol.windows == 0
            if looked and all(self._converged(way) for way in live):
                break
        if self.protocol.thorough:
            try:
                self.idle.append(self._window(None, 0))
            except Refused as refused:  # only what is net of it is lost
                self.no_idle = f"idle power: {refused.reason}"

    def _add(self, way: str, cycle: int) -> None:
        for attempt in range(REPEATS + 1):
            try:
                self.windows[way].append(self._window(way, cycle))
                return
            except Refused as refused:
                if attempt == REPEATS or refused.gate == "counter":
                    self.failed[way][refused.gate] = refused.reason
                    return
                self.repeated[way] += 1

    def _window(self, way: str | None, cycle: int) -> Window:
        batch = None if way is None else self.batches[way]
        return measure(self.device, batch, self.protocol, cycle)

    def least_seconds(self) -> float:
        """Return about how long everything takes at the least, in windows and around them."""
        windows = self.protocol.windows * self.seconds_of_cycle()
        if not self.protocol.thorough:
            return windows
        idle = 2 * self.seconds_of_cycle() / len(self.batches)
        return windows + idle + SETTLE_BLOCKS * SETTLE_BLOCK

    def seconds_of_cycle(self) -> float:
        """Return about how long a window of each way takes."""
        tick = self.device.meter.tick
        length = self.protocol.window_length(tick) + 2 * tick + self.protocol.lead_seconds
        return len(self.batches) * length

    def _left(self) -> float:
        return float("inf") if self.deadline is None else self.deadline - self.device.clock()

    def _converged(self, way: str) -> bool:
        width = interval.half_width(interval.median(_per_call(self.windows[way])))
        return width is not None and width <= HALF_WIDTH

    def _energy(self, way: str) -> Energy:
        """Return what the windows of a way come to."""
        windows, failed = self.windows[way], dict(self.failed[way])
        if not failed and len(windows) < self.protocol.windows:
            many = f"{len(windows)} windows of the {self.protocol.windows} that it takes"
            failed["windows"] = f"{many}: the time was up"
        common = {
            "source": self.device.meter.name,
            "windows": tuple(windows),
            "repeated": self.repeated[way],
            "failed": failed,
        }
        if failed:
            gate, reason = next(iter(failed.items()))
            return Energy(reason=f"{gate}: {reason}", **common)
        joules = interval.median(_per_call(windows))
        width = interval.half_width(joules)
        net, net_reason = self._net(windows)
        capped = [w.throttled[POWER_CAP] for w in windows if POWER_CAP in w.throttled]
        return Energy(
            status="measured",
            reason=None,
            joules=joules,
            net=net,
            net_reason=net_reason,
            idle_watts=fmean(w.watts for w in self.idle) if self.idle else None,
            difference=self._against_baseline(windows, lambda base, own: own - base),
            ratio=self._against_baseline(windows, lambda base, own: base / own),
            converged=None if width is None else width <= HALF_WIDTH,
            power_limited=any(fraction > POWER_LIMITED for fraction in capped) if capped else None,
            **common,
        )

    def _net(self, windows: list[Window]) -> tuple[Interval | None, str | None]:
        """Return joules per call beyond the idle device's, where they can be told from none."""
        if not self.idle:
            return None, "idle power is measured by the full protocol only"
        if self.no_idle is not None:
            return None, self.no_idle
        idle = [w.watts for w in self.idle]
        net = interval.median([(w.watts - fmean(idle)) * w.seconds_per_call for w in windows])
        # Beyond the spread of windows: idle power that changed, and edges whose time is unsure.
        edges = max(blind(w.seconds) / w.seconds * w.watts for w in windows)
        unsure = ((max(idle) - min(idle)) / 2 + edges) * windows[0].seconds_per_call
        if net.low - unsure <= 0:
            return None, "not identified: its power cannot be told from the idle device's"
        return Interval(net.value, net.low - unsure, net.high + unsure), None

    def _against_baseline(
        self, windows: list[Window], compare: Callable[[float, float], float]
    ) -> Interval | None:
        """Return an interval over cycles that have a window of the baseline too."""
        baseline = next(iter(self.batches))
        if self.failed[baseline]:
            return None
        base = {w.cycle: w.joules_per_call for w in self.windows[baseline]}
        pairs = [(base[w.cycle], w.joules_per_call) for w in windows if w.cycle in base]
        return interval.median([compare(*pair) for pair in pairs]) if pairs else None


def _per_call(windows: list[Window]) -> list[float]:
    return [window.joules_per_call for window in windows]


def _still(watts: list[float], celsius: list[float | None]) -> bool:
    """Whether the last two blocks hardly differ in power, nor the last three in temperature."""
    if len(watts) < SETTLE_BLOCKS or abs(watts[-1] / watts[-2] - 1) >= SETTLED_WATTS:
        return False
    if celsius[-1] is None or celsius[-SETTLE_BLOCKS] is None:
        return True
    return abs(celsius[-1] - celsius[-SETTLE_BLOCKS]) < SETTLED_CELSIUS
