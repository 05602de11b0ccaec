"""profile(): joules of each layer, by replaying what it was called with until they can be read."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import TYPE_CHECKING, Any

from green_kernels.energy.layers import (
    arguments,
    copy_of,
    devices_of,
    record,
    select_layers,
    signature,
    unchanged,
)
from green_kernels.energy.measure import MIN_TICKS, Measurement, find_meters, measure
from green_kernels.energy.meter import Meter, Unavailable

if TYPE_CHECKING:
    from torch import nn

    from green_kernels.energy.devices import Device

TIMED = 0.2  # seconds of a window that no counter can measure, and that only needs a time
MOST_CALLS = 10_000  # of a layer without the clock moving, before it is taken to stand still


@dataclass(frozen=True)
class Row:
    """What one layer takes of one forward pass of the model. None is not known."""

    name: str  # in the model, as named_modules() has it
    kind: str  # the class
    calls: int  # in one forward pass
    seconds: float | None
    joules: float | None
    reason: str | None = None  # why joules is None
    same_as: str | None = None  # the layer that was measured in place of this one


@dataclass(frozen=True)
class Profile:
    """Joules and seconds of one forward pass by layer; print it for a table.

    whole - sum(layers) = residual: what runs between the layers (functions, Python, launches),
    less what a layer takes more of when it runs alone, so that it may be negative.
    """

    layers: tuple[Row, ...]
    residual: Row
    whole: Row
    sources: dict[str, str] = field(default_factory=dict)  # the counter's name by device

    @property
    def rows(self) -> tuple[Row, ...]:
        """The layers, the residual and the whole model."""
        return (*self.layers, self.residual, self.whole)

    @property
    def reasons(self) -> dict[str, list[str]]:
        """Why joules are not known, with the names of the rows, each reason once."""
        rows: dict[str, list[str]] = {}
        for row in self.rows:
            if row.reason is not None:
                rows.setdefault(row.reason, []).append(row.name)
        return rows

    def __str__(self) -> str:
        """Return the table."""
        return _table(self)


def profile(
    model: "nn.Module",
    inputs: Any,
    *,
    devices: "Device | Sequence[Device] | None" = None,
    meters: Sequence[Meter] | None = None,
    seconds: float = 5.0,
    clock: Callable[[], float] = time.perf_counter,
    module_filter: "Callable[[str, nn.Module], bool] | None" = None,
    share: bool = False,
) -> Profile:
    """joules(layer) = joules of a steady window of replays / replays in it, for every layer.

        print(green_kernels.energy.profile(model, x))

    One forward pass records what each layer is called with. Then each layer runs alone on that,
    all its calls in sequence, for `seconds` and for 20 ticks of the counter at the least, and at
    last the whole model does. The model is left as it was found, and runs in the mode it is in.

    inputs: of the model: a tuple of arguments, a dict of keyword arguments, or the one argument.
    devices, meters, clock: as for `measure`; None is the devices that hold the model.
    seconds: of each window. Where no meter is to be had, windows are short and give times only.
    module_filter: (name, module) -> whether it is a layer; None takes the modules without
    children. A module within a layer is part of it.
    share: measure layers of one type, configuration and shape of inputs once for all of them.

    Alone, a layer finds its weights and inputs in the cache if they fit, and takes less than in
    the model; the residual shows by how much. Recording holds a copy of every layer's inputs.
    Raises ValueError where no layer is called.
    """
    import torch

    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    if not 0 < seconds < math.inf:
        raise ValueError(f"seconds must be positive and finite, got {seconds}")
    args, kwargs = arguments(inputs)
    if devices is None and meters is None:
        devices = devices_of(model, (args, kwargs))
    target = _window_seconds(devices, meters, seconds)
    with torch.no_grad(), unchanged(model):
        calls = record(model, args, kwargs, select_layers(model, module_filter))
        if not calls:
            raise ValueError("module_filter: no module that it selects is called by the model")

        def window(name: str, run: Callable[[], None]) -> tuple[Measurement, int]:
            return _steady_window(name, run, target, devices, meters, clock)

        layers: list[Row] = []
        measured: dict[Any, Row] = {}
        for name, (module, recorded) in calls.items():
            key = signature(module, recorded) if share else name
            if key not in measured:
                measured[key] = _row(name, module, recorded, window)
                layers.append(measured[key])
            else:
                row = measured[key]
                layers.append(
                    Row(name, row.kind, row.calls, row.seconds, row.joules, row.reason, row.name)
                )
        args, kwargs = copy_of((args, kwargs))
        whole, count = window("the model", lambda: model(*args, **kwargs))
    total = _taken("whole model", type(model).__name__, 1, whole, count)
    return Profile(tuple(layers), _residual(layers, total), total, whole.sources)


def _row(name: str, module: "nn.Module", recorded: list[tuple], window: Callable) -> Row:
    def run() -> None:
        for args, kwargs in recorded:
            module(*args, **kwargs)

    kind = type(module).__name__
    try:
        measurement, count = window(name, run)
    except (RuntimeError, TypeError) as error:
        reason = f"it does not run alone: {type(error).__name__}: {error}"
        return Row(name, kind, len(recorded), None, None, reason)
    return _taken(name, kind, len(recorded), measurement, count)


def _taken(name: str, kind: str, calls: int, window: Measurement, count: int) -> Row:
    joules = None if window.total is None else window.total / count
    reason = "; ".join(dict.fromkeys(window.reasons.values())) or None
    if joules is None and reason is None:
        reason = window.status
    return Row(name, kind, calls, window.seconds / count, joules, reason)


def _residual(layers: list[Row], whole: Row) -> Row:
    def rest(part: str) -> float | None:
        values = [getattr(row, part) for row in (whole, *layers)]
        return None if None in values else values[0] - math.fsum(values[1:])

    joules = rest("joules")
    unknown = next((row.reason for row in (whole, *layers) if row.joules is None), None)
    return Row("residual", "", 0, rest("seconds"), joules, unknown if joules is None else None)


def _steady_window(
    name: str,
    run: Callable[[], None],
    target: float,
    devices: Any,
    meters: Sequence[Meter] | None,
    clock: Callable[[], float],
) -> tuple[Measurement, int]:
    """Run over and over for `target` seconds; return the window and how often it ran."""
    run()  # what happens once only, as choosing an algorithm, is not in the window
    count = 1
    while True:
        with measure(devices, meters=meters, clock=clock) as window:
            for _ in range(count):
                run()
        if window.seconds >= target:
            return window, count
        if window.seconds == 0 and count >= MOST_CALLS:
            raise ValueError(f"clock: it stands still while {name} runs")
        # A short trial says little of the time of a call, so the next is at most ten times longer.
        wanted = 1.02 * target / max(window.seconds, target / 1e6)
        count = max(count + 1, math.ceil(count * min(wanted, 10.0)))


def _window_seconds(devices: Any, meters: Sequence[Meter] | None, seconds: float) -> float:
    found = find_meters(devices).values() if meters is None else meters
    ticks = [meter.tick for meter in found if not isinstance(meter, Unavailable)]
    return max(seconds, 1.1 * MIN_TICKS * max(ticks)) if ticks else min(seconds, TIMED)


def _table(profile: Profile) -> str:
    from rich.console import Console
    from rich.table import Table

    def figure(value: float | None, of: float | None) -> tuple[str, str]:
        if value is None:
            return "unknown", ""
        milli = 1e3 * value
        text = f"{milli:.0f}" if abs(milli) >= 1e3 else f"{milli:.4g}"
        return text, f"{100 * value / of:.1f}" if of else ""

    table = Table("layer", "type")
    for column in ("calls", "ms", "% of ms", "mJ", "% of mJ"):
        table.add_column(column, justify="right")
    for row in profile.rows:
        if row is profile.residual:
            table.add_section()
        calls = str(row.calls) if row.calls else ""
        name = row.name if row.same_as is None else f"{row.name} (as {row.same_as})"
        table.add_row(
            name,
            row.kind,
            calls,
            *figure(row.seconds, profile.whole.seconds),
            *figure(row.joules, profile.whole.joules),
        )
    notes = []
    for reason, names in profile.reasons.items():
        which = "" if len(names) == len(profile.rows) else f" of {', '.join(names)}"
        notes.append(f"joules{which}: {reason}")
    notes += [f"joules of {device} by {name}" for device, name in profile.sources.items()]
    out = StringIO()
    width = 80 + max(len(row.name + row.kind + (row.same_as or "")) for row in profile.rows)
    Console(file=out, width=width, color_system=None, markup=False).print(table)
    return out.getvalue() + "\n".join(notes)
