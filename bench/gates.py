"""What a window must hold, for its joules to be what they say: a reason where it does not."""

from collections.abc import Sequence
from statistics import fmean

from green_kernels import energy

from .device import Device, State
from .figures import Window
from .protocol import BUSY, DRIFT_CELSIUS, MISMATCH, OTHERS, THROTTLED

POWER_CAP = "power cap"  # the one way of being held back that is legal: it is labelled
THERMAL = frozenset({"thermal (software)", "thermal (hardware)"})
HEAT_OR_BRAKE = THERMAL | {"power brake"}
LAG = 1.0  # s of load before a board's power reading, a mean of one second, is all of it
JIFFIES = 0.03  # s by which times of the kernel, in hundredths, may be out of step with ours


class Refused(Exception):
    """A gate that a window, or what surrounds it, did not pass."""

    def __init__(self, gate: str, reason: str):
        """Name the gate, and what was found."""
        super().__init__(reason)
        self.gate, self.reason = gate, reason


def surroundings(device: Device) -> None:
    """Raise Refused if others use the device."""
    for gate, reason in device.gates().items():
        raise Refused(gate, reason)


def counter(seen: Sequence[float]) -> None:
    """Raise Refused if one of these readings is below the one before."""
    for before, after in zip(seen, seen[1:], strict=False):
        if not after >= before:
            raise Refused("counter", f"the counter went back by {before - after:.3g} J")


def events(spans: Sequence[tuple[float, float]], seconds: float) -> None:
    """Raise Refused if the device's own times do not cover the window, and hardly more.

    spans: of the batches from the one that ran at its begin to the one that ran at its end.
    """
    covered = spans[-1][1] - spans[0][0]
    least, most = BUSY * seconds, seconds / BUSY + 2 * max(end - begin for begin, end in spans)
    if not least <= covered <= most:
        both = f"{covered:.4g} s of calls by the device, in a window of {seconds:.4g} s"
        raise Refused("events", f"{both}: it waited, or its times are wrong")


def window(w: Window, states: Sequence[tuple[float, State]], device: Device) -> None:
    """Raise Refused where the window of a load does not hold what it must.

    states: of the device in the window, each with its time since the load began.
    """
    if not w.busy >= BUSY:
        raise Refused("busy", f"the device worked {w.busy:.1%} of the window, not {BUSY:.0%}")
    celsius = [state.celsius for _, state in states if state.celsius is not None]
    if celsius and not (drift := max(celsius) - min(celsius)) <= DRIFT_CELSIUS:
        raise Refused("temperature", f"it changed by {drift:.1f} C within the window")
    first, last = states[0][1], states[-1][1]
    if last.suspended - first.suspended > energy.SUSPENDED:
        raise Refused("clock", "the machine was suspended within the window")
    _throttled(w, [state for _, state in states], device.has_power_sensor)
    if device.has_power_sensor:
        _power(w, states)
    if first.others is not None and last.others is not None:
        share = (last.others - first.others - JIFFIES) / (w.seconds * device.cores)
        if share > OTHERS:
            raise Refused("alone", f"other programs took {share:.0%} of the CPU's time")


def _throttled(w: Window, states: Sequence[State], is_gpu: bool) -> None:
    for reason, fraction in w.throttled.items():
        if not fraction >= 0:
            raise Refused("throttle", f"the counter of {reason} went back")
        if reason != POWER_CAP and fraction > THROTTLED:
            raise Refused("throttle", f"{reason} held the clocks for {fraction:.1%} of the window")
    counted = w.throttled.keys() | (THERMAL if "thermal" in w.throttled else set())
    for reason in sorted(HEAT_OR_BRAKE - counted if is_gpu else ()):
        if any(state.held is None for state in states):
            raise Refused("throttle", f"nothing says whether {reason} held the clocks")
        if any(reason in state.held for state in states):
            raise Refused("throttle", f"{reason} held the clocks at times")


def _power(w: Window, states: Sequence[tuple[float, State]]) -> None:
    """Compare the energy counter with the power sensor."""
    late = [state.watts for time, state in states if time >= LAG]
    known = [watts for watts in late if watts is not None and watts > 0]  # as a NaN is not
    if not known:
        raise Refused("sensor", "no power reading to check the energy counter by")
    if not abs(w.watts / (mean := fmean(known)) - 1) <= MISMATCH:
        both = f"{w.watts:.4g} W by the energy counter, {mean:.4g} W by the power sensor"
        raise Refused("sensor", f"{both}: more than {MISMATCH:.0%} apart")
