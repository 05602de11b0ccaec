"""Plots of records: bars of time and of joules, the energy roofline, speed against energy."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from . import axes, roofline
from .axes import DASHES, GRID, INK, MUTED
from .figures import Interval
from .palette import Style, styles
from .record import Record
from .words import (
    divided,
    joules_text,
    micro,
    pico_text,
    ratio_text,
    rows,
    seconds_text,
    three_digits,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOT_A_BOUND = "reference line, not a bound"


@dataclass(frozen=True)
class Plot:
    """A figure, and what it is of."""

    section: str  # "time", "pico", "models", "roofline", "speed", "accuracy"
    title: str
    words: str  # what it shows, for those who do not see it
    figure: "Figure"

    def name(self, number: int) -> str:
        """Return a name for its file."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")[:60]
        return f"{number:02d}-{self.section}-{slug}.png"

    def png(self, path: Path) -> None:
        """Write it as it looks on paper."""
        self.figure.savefig(path, format="png", dpi=200, facecolor="white")

    def svg(self) -> str:
        """Return it as an element that takes its colours and its font from the page."""
        return axes.svg(self.figure, self.title)


def plots(records: Sequence[Record], ways: dict[str, Style] | None = None) -> list[Plot]:
    """Return the plots of one run; those of joules only where there are joules.

    ways: the style of each way, if there are more runs on the page.
    """
    ways = ways or styles(r.way for r in records)
    made = []
    for title, row in rows(records).items():
        model = row[0].kind == "model"
        if any(r.times for r in row):
            made.append(_time_bars("models" if model else "time", title, row, ways))
        if any(r.joules is not None for r in row):
            bars = _inference_bars if model else _pico_bars
            made.append(bars("models" if model else "pico", title, row, ways))
    if roof := _roofline(records, ways):
        made.append(roof)
    if speed := _speed(records, ways):
        made.append(speed)
    for kind, figure in (("op", "relative error"), ("model", "1 - mean cosine")):
        if accuracy := _accuracy([r for r in records if r.kind == kind], figure, ways):
            made.append(accuracy)
    return made


def _time_bars(section, title, row, ways) -> Plot:
    bars = [
        axes.Bar(
            r.way,
            r.seconds,
            *(r.spread or (None, None)),
            f"{micro(seconds_text(r.seconds))} · {r.ratio:.2f}×",
        )
        if r.times
        else axes.Bar(r.way, text=r.status)
        for r in row
    ]
    figure = axes.bars(f"{title}: time", bars, _baseline(row, lambda r: r.seconds), ways)
    words = (
        "Shorter is better. Seconds per call, median and quartiles over rounds, and times the "
        "baseline's speed; the dashes are the baseline."
    )
    return Plot(section, f"{title}: time", words, figure)


def _pico_bars(section, title, row, ways) -> Plot:
    def text(r: Record) -> str:
        value = f"{pico_text(r.joules_per_flop)} pJ"
        if r.executed_flops != r.flops and r.joules_per_executed_flop is not None:
            value += f", {pico_text(r.joules_per_executed_flop)} executed"
        return value

    return _joule_bars(section, f"{title}: pJ/FLOP", row, ways, text, lambda r: r.flops)


def _inference_bars(section, title, row, ways) -> Plot:
    def text(r: Record) -> str:
        return micro(joules_text(r.joules))

    return _joule_bars(section, f"{title}: J/inference", row, ways, text, lambda r: 1)


def _joule_bars(section, title, row, ways, text: Callable, by: Callable) -> Plot:
    bars = []
    for r in row:
        interval = divided(r.energy.joules, by(r))
        if interval is None:
            bars.append(axes.Bar(r.way, text=r.status if not r.times else "unavailable"))
            continue
        ratio = r.energy.ratio
        words = text(r) + ("" if ratio is None else f" · {ratio_text(ratio.value)}×")
        bars.append(axes.Bar(r.way, interval.value, interval.low, interval.high, words))
    value = _baseline(row, lambda r: None if r.joules is None else r.joules / (by(r) or 1))
    words = (
        "Gross joules of the whole device, median over windows with its 95 % interval, and times "
        "fewer than the baseline's."
    )
    return Plot(section, title, words, axes.bars(title, bars, value, ways))


def _baseline(row: Sequence[Record], figure: Callable) -> float | None:
    return next((figure(r) for r in row if r.way == r.baseline), None)


def _roofline(records: Sequence[Record], ways: dict[str, Style]) -> Plot | None:
    """FLOP/byte against pJ/FLOP, with the chip's TDP / peak and the fit of pJ per byte."""
    found = [r for r in records if r.joules_per_flop and r.bytes and r.energy.joules.value]
    if not found:
        return None
    points = [(r.flops / r.bytes, r.joules_per_flop * 1e12) for r in found]
    figure, ax = axes.square("Energy roofline", "FLOP / byte", "pJ / FLOP")
    for r, (x, y) in zip(found, points, strict=True):
        axes.point(ax, ways[r.way], x, y, y_interval=divided(r.energy.joules, r.flops / 1e12))
    low, high = min(x for x, _ in points) / 2, max(x for x, _ in points) * 2
    high *= (high / low) ** 0.22  # room for the names of the lines
    values = [y for _, y in points]
    chip, notes = roofline.chip(records[0].machine.get("gpu")), []
    for dtype, pico in chip.picojoules().items() if chip else ():
        axes.horizontal(ax, pico, f"{dtype} {three_digits(pico)}")
        values.append(pico)
    if chip:
        notes.append((f"{chip.watts:g} W / peak of {chip.name}: {NOT_A_BOUND}", DASHES))
    floor = roofline.fit(points)
    if floor:
        steps = [low * (high / low) ** (i / 60) for i in range(61)]
        ax.plot(steps, [floor.at(x) for x in steps], color=INK, lw=1.2, zorder=2)
        best = f"{floor.per_flop:.2g} pJ/FLOP + {floor.per_byte:.3g} pJ/byte"
        notes.append((f"fit to the best way of each intensity: {best}", "-"))
    axes.log(ax.xaxis, low, high)
    axes.log(ax.yaxis, min(values) / 1.5, max(values) * 1.5)
    axes.legend(figure, [ways[r.way] for r in found], [r.way for r in found], notes)
    words = "Picojoules per FLOP of each way and shape over its FLOPs per byte."
    return Plot("roofline", "Energy roofline", words, figure)


def _speed(records: Sequence[Record], ways: dict[str, Style]) -> Plot | None:
    """Times faster than the baseline against times fewer joules."""
    found = [r for r in records if r.times and r.way != r.baseline and r.energy.ratio]
    found = [r for r in found if r.energy.ratio.value > 0]
    if not found:
        return None
    labels = "times the baseline's speed", "times fewer joules than baseline"
    figure, ax = axes.square("Speed and energy", *labels)
    for r in found:
        across = Interval(r.ratio, r.ratio_low, r.ratio_high)
        axes.point(ax, ways[r.way], r.ratio, r.energy.ratio.value, across, r.energy.ratio)
    values = [1.0, *(r.ratio for r in found), *(r.energy.ratio.value for r in found)]
    low, high = min(values) / 1.4, max(values) * 1.4
    axes.log(ax.xaxis, low, high)
    axes.log(ax.yaxis, low, high)
    ax.axhline(1, color=MUTED, lw=0.9, zorder=1)
    ax.axvline(1, color=MUTED, lw=0.9, zorder=1)
    ax.plot([low, high], [low, high], color=MUTED, lw=0.9, ls=DASHES, zorder=1)
    for x, y, text, at in (
        (0.98, 0.03, "faster, more joules", "right"),
        (0.02, 0.96, "slower, fewer joules", "left"),
    ):
        ax.text(x, y, text, transform=ax.transAxes, ha=at, va="center", color=MUTED, fontsize=8)
    notes = [("as many watts as the baseline", DASHES)]
    axes.legend(figure, [ways[r.way] for r in found], [r.way for r in found], notes)
    words = (
        "Each way and shape: times the baseline's speed, times fewer joules. Up right is better."
    )
    return Plot("speed", "Speed and energy", words, figure)


def _accuracy(records: Sequence[Record], figure_name: str, ways: dict[str, Style]) -> Plot | None:
    """Error against times fewer joules, or against speed where there are no joules."""
    joules = any(r.energy.ratio and r.way != r.baseline for r in records)
    found = [r for r in records if r.times and r.way != r.baseline]
    found = [r for r in found if not joules or (r.energy.ratio and r.energy.ratio.value > 0)]
    if not found:
        return None
    gain = "times fewer joules than baseline" if joules else "times the baseline's speed"
    kind = "ops" if records[0].kind == "op" else "models"
    title = f"Accuracy of {kind}"
    figure, ax = axes.square(title, gain, figure_name)
    errors = [r.error for r in found if r.error] or [1e-3]
    exact = min(errors) / 4
    values = []
    for r in found:
        time = Interval(r.ratio, r.ratio_low, r.ratio_high)
        x = r.energy.ratio if joules else time
        values.append(x.value)
        axes.point(ax, ways[r.way], x.value, r.error or exact, x_interval=x)
    lowest = min(errors)
    if not all(r.error for r in found):
        lowest = exact
        ax.axhline(exact, color=GRID, lw=0.9, zorder=1)
        ax.text(1, exact, "no error ", transform=ax.get_yaxis_transform(), ha="right", va="bottom",
                color=MUTED, fontsize=8)  # fmt: skip
    axes.log(ax.xaxis, min([1.0, *values]) / 1.4, max([1.0, *values]) * 1.4)
    axes.log(ax.yaxis, lowest / 2, max(errors) * 2)
    ax.axvline(1, color=MUTED, lw=0.9, zorder=1)
    axes.legend(figure, [ways[r.way] for r in found], [r.way for r in found], [])
    words = f"The {figure_name} of each way and shape, and {gain}. Down right is better."
    return Plot("accuracy", title, words, figure)
