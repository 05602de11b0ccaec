"""A window of energy: the device kept busy from before its first tick until after its last."""

from collections import deque
from statistics import fmean

from green_kernels import energy

from . import gates
from .device import Device, State
from .execute import Batch, Running
from .figures import Window
from .gates import Refused
from .protocol import FINE, Protocol, blind

COARSE = 0.02  # s between polls where no tick is expected; the device has work for longer than this
STALLED = 1.0  # seconds, and 20 ticks, after which a counter that has not moved never will


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
            try:
                self.flight.append(self.batch.start())
            except Exception as error:  # of a peer, which must not end the run
                line = str(error).partition("\n")[0]
                raise Refused("way", f"a call raised {type(error).__name__}: {line}") from error

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

    def edge(self, unsure: float) -> tuple[float, float]:
        """Return time and joules of the counter's next tick; raise Refused if none is seen.

        unsure: the most seconds that its time may be unsure by; other ticks are let pass.
        """
        clock, meter = self.device.clock, self.device.meter
        start = before = clock()
        first = last = meter.read()
        while before - start <= STALLED + 20 * meter.tick:
            self.wait(FINE)
            begin, joules, end = clock(), meter.read(), clock()
            gates.counter([last, joules])
            # It moved since the last reading began, and within a tick: a CPU's polls are far apart.
            earliest = max(before, begin - meter.tick)
            if joules > last and end - earliest <= unsure:
                return (earliest + end) / 2, joules
            before, last = begin, joules
        if last == first:
            raise Refused("counter", f"the counter stood still for {before - start:.3g} s")
        raise Refused("edges", "whenever the counter ticked, the host was away: its time is unsure")

    def finish(self) -> None:
        """Wait for the batch that runs now, and take it out."""
        while self.flight and not self.flight[0].done():
            self.device.sleep(FINE)
        self.pump()


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
    device, tick = feed.device, feed.device.meter.tick
    length = protocol.window_length(tick)
    start = device.clock()
    feed.run(protocol.lead_seconds)
    gates.surroundings(device)
    begin, first = feed.edge(blind(length))
    feed.spans.clear()  # of batches that ended before; the one that runs now is kept
    states = [(device.clock() - start, device.state())]
    # As short before a tick as can be, which is then met in a few polls.
    until = begin + length + max(FINE, tick - 10 * FINE)
    while device.clock() < until:
        feed.run(min(max(tick, COARSE), until - device.clock()))
        states.append((device.clock() - start, device.state()))
    end, last = feed.edge(blind(length))
    states.append((device.clock() - start, device.state()))
    feed.finish()
    gates.surroundings(device)
    gates.counter([first, *(state.joules for _, state in states[:-1]), last])
    window = _window(feed, end - begin, last - first, [state for _, state in states], cycle)
    if window.ticks < protocol.window_ticks:
        need = f"{protocol.window_ticks} are needed"
        raise Refused("length", f"the window has {window.ticks:.0f} ticks of the counter, {need}")
    if feed.batch is not None:  # idle, it cools down, and what its clocks do is its own affair
        gates.window(window, states, device)
    return window


def _window(feed: Feed, seconds: float, joules: float, states: list[State], cycle: int) -> Window:
    """Put what was seen between the edges into one record."""
    if feed.batch is None:
        busy, per_call = None, seconds  # an idle second is a call of its own
    else:
        gates.events(feed.spans, seconds)
        covered = feed.spans[-1][1] - feed.spans[0][0]
        busy = sum(end - begin for begin, end in feed.spans) / covered
        # Gaps are in it: their joules are in the power, too.
        per_call = covered / (len(feed.spans) * feed.batch.calls)
    clocks = [s.sm_mhz for s in states if s.sm_mhz is not None]
    before, after = states[0].throttled, states[-1].throttled
    return Window(
        seconds=seconds,
        joules=joules,
        ticks=seconds / feed.device.meter.tick,
        seconds_per_call=per_call,
        busy=busy,
        celsius=tuple(s.celsius for s in (states[0], states[-1]) if s.celsius is not None),
        sm_mhz=(fmean(clocks), min(clocks)) if clocks else (),
        throttled={
            reason: (after[reason] - before[reason]) / seconds
            for reason in before
            if reason in after
        },
        cycle=cycle,
    )
