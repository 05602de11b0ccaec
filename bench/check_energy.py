"""What a record says of joules, computed anew from its windows and from its baseline's."""

import math
import statistics
from collections.abc import Iterator, Sequence

from . import interval
from .figures import Interval, Window
from .gates import POWER_CAP
from .protocol import BUSY, DRIFT_CELSIUS, HALF_WIDTH, POWER_LIMITED, THROTTLED, Protocol
from .record import PROTOCOLS, Record
from .words import device_kind

EXACT = 1e-9  # relative, of a figure against what it is made of
MOST_BUSY = 1.001  # the device's events and the host's clock differ a little
MOST_WATTS = 2000.0  # no GPU board draws that


def gates(r: Record) -> Iterator[str]:
    """Check that where a gate failed no figure is given."""
    energy = r.energy
    for gate, reason in energy.failed.items():
        for name in ("joules", "net", "difference", "ratio"):
            if getattr(energy, name) is not None:
                yield f"energy.{name} must be null: the gate {gate} failed ({reason})"


def joules(r: Record) -> Iterator[str]:
    """Check joules and its interval against the windows."""
    found = r.energy.joules
    if found is None:
        return
    values = [w.joules_per_call for w in r.energy.windows]
    if not values:
        yield "energy.joules has no windows to stand on"
        return
    yield from _median("energy.joules", found, values)


def net(r: Record) -> Iterator[str]:
    """Check net joules: gross less idle power, and an interval above 0 around it."""
    net, gross, idle = r.energy.net, r.energy.joules, r.energy.idle_watts
    if net is None or gross is None or not r.energy.windows:
        return
    if not net.value <= gross.value:
        yield f"energy.net is {net.value:g}, more than energy.joules, {gross.value:g}"
    if not net.sure or not 0 < net.low <= net.value <= net.high:
        yield f"energy.net is {net.value:g}, its interval {net.low} - {net.high}"
    if idle is None:
        yield "energy.net needs energy.idle_watts, which is null"
        return
    median = statistics.median((w.watts - idle) * w.seconds_per_call for w in r.energy.windows)
    if not math.isclose(net.value, median, rel_tol=EXACT, abs_tol=EXACT * gross.value):
        yield f"energy.net is {net.value:g}, by its windows and idle_watts it is {median:g}"


def labels(r: Record) -> Iterator[str]:
    """Check converged and power_limited against the interval and the windows."""
    energy = r.energy
    if energy.joules is None:
        return
    width = interval.half_width(energy.joules)
    capped = [w.throttled[POWER_CAP] for w in energy.windows if POWER_CAP in w.throttled]
    labels = {
        "converged": None if width is None else width <= HALF_WIDTH,
        "power_limited": any(share > POWER_LIMITED for share in capped) if capped else None,
    }
    for name, own in labels.items():
        if (said := getattr(energy, name)) != own:
            yield f"energy.{name} is {said}, by its windows it is {own}"


def windows(r: Record) -> Iterator[str]:
    """Check that there are enough windows, one of a cycle, each long enough, busy, and steady."""
    if r.joules is None:
        return
    windows, protocol = r.energy.windows, PROTOCOLS[r.protocol]
    if len(windows) < protocol.windows:
        least = f"at least {protocol.windows} windows"
        yield f"the {protocol.name} protocol has {least}, got {len(windows)}"
    cycles = {w.cycle for w in windows}
    if len(cycles) < len(windows):
        yield f"its {len(windows)} windows are of {len(cycles)} cycles, and each has one of its own"
    cuda = device_kind(r) == "cuda"
    for number, window in enumerate(windows, 1):
        found = [*_window(window, protocol, cuda), *(_board(window) if cuda else ())]
        if cuda and protocol.thorough:
            found += _complete(window)
        yield from (f"window {number}: {what}" for what in found)


def against_baseline(r: Record, base: Record | None) -> Iterator[str]:
    """Check difference and ratio against the windows of the same cycles of the baseline.

    base: the baseline's record of the same run; None if there is none.
    """
    compared = {
        "difference": (r.energy.difference, lambda base, own: own - base),
        "ratio": (r.energy.ratio, lambda base, own: base / own),
    }
    known = base is not None and base.joules is not None
    of_cycle = {w.cycle: w.joules_per_call for w in base.energy.windows} if known else {}
    windows = [w for w in r.energy.windows if w.cycle in of_cycle and w.joules > 0]
    pairs = [(of_cycle[w.cycle], w.joules_per_call) for w in windows]
    for name, (found, compare) in compared.items():
        if found is None:
            continue
        if pairs:
            yield from _median(f"energy.{name}", found, [compare(*pair) for pair in pairs])
        else:
            of = f"the baseline, {r.baseline},"
            yield f"energy.{name} has no windows of {of} in the same cycles to stand on"


def _median(name: str, found: Interval, values: Sequence[float]) -> Iterator[str]:
    """Check that a figure and its interval are the median of these values and its interval."""
    again = interval.median(values, seed=1)
    scale = max(map(abs, values))  # a difference may be about 0
    if not math.isclose(found.value, again.value, rel_tol=EXACT, abs_tol=EXACT**2 * scale):
        yield f"{name} is {found.value:.12g}, the median of its windows {again.value:.12g}"
    if not found.sure:
        if again.sure:
            yield f"{name} has no interval, and {len(values)} windows give one"
        return
    if not again.sure:
        yield f"{name} has an interval, which {len(values)} windows do not give"
        return
    # Another draw of the bootstrap: its ends jump from one window to the next.
    loose = 0.5 * (again.high - again.low) + 1e-6 * scale
    for end in ("low", "high"):
        said, own = getattr(found, end), getattr(again, end)
        if not abs(said - own) <= loose:
            yield f"{name}.{end} is {said:g}, by its windows it is about {own:g}"
    if not found.low <= found.value <= found.high:
        yield f"{name} is {found.value:g}, outside {found.low:g} - {found.high:g}"


def _window(w: Window, protocol: Protocol, cuda: bool) -> Iterator[str]:
    if w.joules <= 0:
        yield f"{w.joules:g} J: the counter did not count"
    if w.ticks < protocol.window_ticks:
        yield f"it has {w.ticks:.6g} ticks of the counter, less than {protocol.window_ticks}"
    if w.seconds < protocol.window_seconds:
        yield f"it has {w.seconds:.6g} s, less than {protocol.window_seconds:g} s"
    if w.busy is not None and w.busy > MOST_BUSY:
        yield f"the device was busy for {w.busy:.2%} of it, more than all of it"
    if w.busy is not None and w.busy < BUSY and cuda:
        yield f"the GPU was busy for {w.busy:.2%} of it, less than {BUSY:.0%}"
    if w.celsius and abs(drift := w.celsius[-1] - w.celsius[0]) > DRIFT_CELSIUS:
        yield f"the temperature changed by {drift:+.1f} C, more than {DRIFT_CELSIUS:g} C"
    for reason, fraction in w.throttled.items():
        if reason != POWER_CAP and fraction > THROTTLED:
            yield f"{reason} held the clocks for {fraction:.1%} of it"


def _board(w: Window) -> Iterator[str]:
    if w.watts > MOST_WATTS:
        yield f"{w.watts:.4g} W, and no board draws more than {MOST_WATTS:g} W"


def _complete(w: Window) -> Iterator[str]:
    """Check that a window says all that the full protocol asks of a GPU."""
    if w.busy is None:
        yield "it does not say how busy the GPU was"
    if len(w.celsius) < 2:
        yield "it does not say the temperature at its start and end"
    if len(w.sm_mhz) < 2:
        yield "it does not say the mean and the least clock"
    heat = {"thermal"}, {"thermal (software)", "thermal (hardware)"}
    if not any(reasons <= w.throttled.keys() for reasons in heat):
        yield "it does not say for how long heat held the clocks"
    if "power brake" not in w.throttled:
        yield "it does not say for how long the power brake held the clocks"
