"""A window of energy: the device kept busy from before its first tick until after its last."""

from collections import deque
from itertools import pairwise
from statistics import fmean

from green_kernels import energy

from .device import Device, State
from .execute import Batch, Running
from .figures import Window
from .protocol import (
    BLIND,
    BUSY,
    DRIFT_CELSIUS,
    FINE,
    MISMATCH,
    OTHERS,
    THROTTLED,
    Protocol,
)

COARSE = 0.02  # elsewhere; the device has work for longer than this
STALLED = 1.0  # seconds, and 20 ticks, after which a counter that has not moved never will
JIFFIES = 0.03  # s by which times of the kernel, in hundredths, may be out of step with ours
HEAT_OR_BRAKE = {"thermal (software)", "thermal (hardware)", "power brake"}
POWER_CAP = "power cap"  # the one way of being held back that is legal: it is labelled


class Refused(Exception):
    """A gate that a window, or what surrounds it, did not pass."""

    def __init__(self, gate: str, reason: str):
        """Name the gate, and what was found."""
        super().__init__(reason)
        self.gate, self.reason = gate, reason


class Feed:
    """A load that never ends: batches of one way, some of them always in flight."""

    def __init__(self, device: Device, batch: Batch | None):
        """Take the batch to repeat; None leaves the device idle."""
        self.device, self.batch = device, batch
        self.flight: deque[Running] = deque()
        self.spans: list[tuple[float, float]] = []  # of the batches that have ended

    def pump(self) -> None:
        """Take out what has ended, and start as many batches as are to be in flight."""
        while self.flight and self.flight[0].done():
            self.spans.append(self.flight.popleft().span())
        while self.batch and len(self.flight) < self.device.executor.depth:
            self.flight.append(self.batch.start())

    def wait(self, seconds: float) -> None:
        """Let time pass, the device being fed; on a CPU its calls take the time themselves."""
        self.pump()
        if self.batch is None or self.device.executor.depth > 1:
            self.device.sleep(seconds)

    def run(self, seconds: float) -> None:
        """Keep the device busy for so long."""
        until = self.device.clock() + seconds
        while (left := until - self.device.clock()) > 0:
            self.wait(min(COARSE, left))

    def edge(self) -> tuple[float, float]:
        """Return time and joules of the counter's next tick; raise Refused if none is seen."""
        clock, meter = self.device.clock, self.device.meter
        start = before = clock()
        first = last = meter.read()
        while before - start <= STALLED + 20 * meter.tick:
            self.wait(FINE)
            after, joules = clock(), meter.read()
            if joules < last:
                raise Refused("counter", f"the counter went back by {last - joules:.3g} J")
            # It moved since the last poll, and within a tick: a CPU's polls are far apart.
            earliest = max(before, after - meter.tick)
            if joules > last and after - earliest <= BLIND:
                return (earliest + after) / 2, joules
            before, last = after, joules
        if last == first:
            raise Refused("counter", f"the counter stood still for {before - start:.3g} s")
        raise Refused("edges", "whenever the counter ticked, the host was away: its time is unsure")


def measure(device: Device, batch: Batch | None, protocol: Protocol, cycle: int = 0) -> Window:
    """Return joules and time of a batch repeated between two ticks of the counter.

    joules / seconds is the mean power, and seconds_per_call is by the device's own events, so that
    neither edge of the window nor what the host does there matters. batch: None is the idle device.
    Raises Refused with the first gate that failed.
    """
    try:
        return _measure(Feed(device, batch), protocol, cycle)
    except energy.Unavailable as reason:
        raise Refused("counter", str(reason)) from None
    finally:
        device.executor.synchronize()


def _measure(feed: Feed, protocol: Protocol, cycle: int) -> Window:
    device = feed.device
    tick = device.meter.tick
    feed.run(protocol.lead_seconds)
    begin, first = feed.edge()
    feed.spans.clear()  # of batches that ended before
    states = [device.state()]
    # As short before a tick as can be, which is then met in a few polls.
    until = begin + protocol.window_length(tick) + max(FINE, tick - 10 * FINE)
    while device.clock() < until:
        feed.run(min(max(tick, COARSE), until - device.clock()))
        states.append(device.state())
    end, joules = feed.edge()
    spans = list(feed.spans)
    seen = [first, *(state.joules for state in states), joules]
    states.append(device.state())
    for before, after in pairwise(seen):
        if after < before:
            raise Refused("counter", f"the counter went back by {before - after:.3g} J")
    window = _window(feed, begin, end, joules - first, spans, states, cycle)
    _gate(window, states, idle=feed.batch is None, protocol=protocol, cores=device.cores)
    return window


def _window(
    feed: Feed,
    begin: float,
    end: float,
    joules: float,
    spans: list[tuple[float, float]],
    states: list[State],
    cycle: int,
) -> Window:
    """Put what was seen between the edges into one record."""
    seconds = end - begin
    if feed.batch is None:
        busy, per_call = None, seconds  # an idle second is a call of its own
    elif not spans:
        raise Refused("length", f"no batch of calls ended within the window of {seconds:.3g} s")
    else:
        worked = sum(b - a for a, b in spans)
        busy = worked / (spans[-1][1] - spans[0][0])
        per_call = worked / (len(spans) * feed.batch.calls)
    clocks = [s.sm_mhz for s in states if s.sm_mhz is not None]
    celsius = [s.celsius for s in (states[0], states[-1]) if s.celsius is not None]
    return Window(
        seconds=seconds,
        joules=joules,
        ticks=seconds / feed.device.meter.tick,
        seconds_per_call=per_call,
        busy=busy,
        celsius=tuple(celsius),
        sm_mhz=(fmean(clocks), min(clocks)) if clocks else (),
        throttled={
            reason: (states[-1].throttled[reason] - since) / seconds
            for reason, since in states[0].throttled.items()
            if reason in states[-1].throttled
        },
        cycle=cycle,
    )


def _gate(window: Window, states: list[State], idle: bool, protocol: Protocol, cores: int) -> None:
    """Raise Refused where the window's figure would not be what it says."""
    if window.ticks < protocol.window_ticks:
        need = f"{protocol.window_ticks} are needed"
        raise Refused("length", f"the window has {window.ticks:.0f} ticks of the counter, {need}")
    if idle:  # it cools down, and what its clocks do is its own affair
        return
    if window.busy is not None and window.busy < BUSY:
        raise Refused("busy", f"the device worked {window.busy:.1%} of the window, not {BUSY:.0%}")
    if window.celsius and abs(drift := window.celsius[-1] - window.celsius[0]) > DRIFT_CELSIUS:
        raise Refused("temperature", f"it changed by {drift:+.1f} C within the window")
    for reason, fraction in window.throttled.items():
        if fraction < 0:
            raise Refused("throttle", f"the counter of {reason} went back")
        if reason != POWER_CAP and fraction > THROTTLED:
            raise Refused("throttle", f"{reason} held the clocks for {fraction:.1%} of the window")
    others = [s.others for s in (states[0], states[-1])]
    if None not in others:
        share = (others[1] - others[0] - JIFFIES) / (window.seconds * cores)
        if share > OTHERS:
            raise Refused("alone", f"other programs took {share:.0%} of the CPU's time")
    held = frozenset().union(*(s.held for s in states)) & HEAT_OR_BRAKE
    for reason in sorted(held - window.throttled.keys()):  # whose time nothing counts
        raise Refused("throttle", f"{reason} held the clocks at times")
    watts = [s.watts for s in states if s.watts is not None]
    if watts and abs(window.watts / (seen := fmean(watts)) - 1) > MISMATCH:
        both = f"{window.watts:.4g} W by the energy counter, {seen:.4g} W by the power sensor"
        raise Refused("sensor", f"{both}: more than {MISMATCH:.0%} apart")
