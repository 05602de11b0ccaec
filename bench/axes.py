"""How every plot looks: drawn for a phone's width, in colours that a page can replace by its own.

Only matplotlib's objects are used, nothing of pyplot, so no state is shared. It is imported where
it is used: the bench works without it.
"""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from .figures import Interval
from .palette import STYLES, Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1f2329", "#5b6672", "#d4dae1"
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--rule"}
WIDTH = 4.4  # inches; at 72 to an inch, a phone shows its text as large as it was drawn
TEXT = 10
HEAD, SIDE, LINE = 0.4, 0.08, 0.185  # inches: the title's height, a margin, a line of a legend
DASHES = (0, (4, 3))

Line = str | tuple[float, tuple[float, ...]]  # a line style: "-", or an offset and its dashes


@dataclass(frozen=True)
class Bar:
    """A way with its figure, or with the reason why it has none."""

    way: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    text: str = ""


def bars(
    title: str, of_ways: Sequence[Bar], baseline: float | None, ways: dict[str, Style]
) -> "Figure":
    """Return bars from zero, each under its way's name and figure; a line marks the baseline."""
    figure, ax = _figure(title, HEAD + 0.4 * len(of_ways), left=SIDE, bottom=0.0)
    most = max((bar.high or bar.value or 0 for bar in of_ways), default=0) or 1
    for y, bar in enumerate(of_ways):
        ours = bar.way.startswith("ours")
        ax.text(0, y - 0.14, bar.way, ha="left", va="bottom", color=INK, fontsize=TEXT,
                weight="bold" if ours else "normal", parse_math=False)  # fmt: skip
        ax.text(most, y - 0.14, bar.text, ha="right", va="bottom", fontsize=TEXT, parse_math=False,
                color=MUTED if bar.value is None else INK)  # fmt: skip
        ax.barh(y + 0.08, most, height=0.3, color=GRID, alpha=0.45, zorder=1)
        if baseline is not None and bar.value is not None:
            ax.vlines(baseline, y - 0.1, y + 0.26, color=MUTED, lw=1, ls=(0, (2, 1.5)), zorder=3)
        if bar.value is None:
            continue
        ax.barh(y + 0.08, bar.value, height=0.3, color=ways[bar.way].light, zorder=2)
        if bar.low is not None and bar.high is not None:
            ax.plot([bar.low, bar.high], [y + 0.08] * 2, color=INK, lw=1.6, zorder=4,
                    solid_capstyle="butt")  # fmt: skip
    ax.set_xlim(0, most * 1.005)
    ax.set_ylim(len(of_ways) - 0.65, -0.6)
    ax.axis("off")
    return figure


def square(title: str, x_label: str, y_label: str) -> tuple["Figure", "Axes"]:
    """Return a figure with two axes to be scaled, and a faint grid."""
    figure, ax = _figure(title, HEAD + 4.2, left=0.74, bottom=0.52)
    ax.set_xlabel(x_label, color=INK, fontsize=TEXT)
    ax.set_ylabel(y_label, color=INK, fontsize=TEXT)
    ax.yaxis.set_label_coords(-0.56 / (WIDTH - 0.82), 0.5)  # however long the ticks' numbers are
    ax.grid(True, color=GRID, lw=0.7, zorder=0)
    ax.tick_params(colors=MUTED, labelsize=TEXT - 1, length=0)
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(MUTED)
    return figure, ax


def point(
    ax: "Axes", style: Style, x: float, y: float,
    x_interval: Interval | None = None, y_interval: Interval | None = None,
) -> None:  # fmt: skip
    """Draw a way's marker, with whiskers where there are intervals."""
    for interval, line in ((x_interval, ax.hlines), (y_interval, ax.vlines)):
        if interval is not None and interval.sure:
            line(y if line == ax.hlines else x, interval.low, interval.high, color=style.light,
                 lw=1.3, zorder=3)  # fmt: skip
    ax.plot([x], [y], ls="none", marker=style.marker, ms=7, color=style.light, mec="white",
            mew=0.5, zorder=4)  # fmt: skip


def horizontal(ax: "Axes", y: float, text: str) -> None:
    """Draw a reference line across, named in the margin, where no point can lie on its name."""
    ax.axhline(y, color=MUTED, lw=0.9, ls=DASHES, zorder=1)
    ax.text(0.995, y, text, transform=ax.get_yaxis_transform(), ha="right", va="bottom",
            color=MUTED, fontsize=TEXT - 1.5)  # fmt: skip


def log(axis: "Axis", low: float, high: float) -> None:
    """Make an axis logarithmic, with ticks at 1, 2 and 5 of each decade, or of many at 1."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis.axes.set(**{f"{axis.axis_name}scale": "log", f"{axis.axis_name}lim": (low, high)})
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1,) if math.log10(high / low) > 3 else (1, 2, 5)
    ticks = [m * 10.0**e for e in range(first, last + 1) for m in steps]
    axis.set_major_locator(FixedLocator([t for t in ticks if low <= t <= high]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def legend(
    figure: "Figure",
    of_ways: Sequence[Style],
    names: Sequence[str],
    notes: Sequence[tuple[str, Line]],
) -> None:
    """Name each way's marker once, and each line, below the axes; the figure grows by as much.

    notes: (text, line style) of each line.
    """
    from matplotlib.lines import Line2D

    named = dict(zip(names, of_ways, strict=True))
    markers = [
        Line2D([], [], ls="none", marker=style.marker, ms=7, color=style.light, label=name)
        for name, style in named.items()
    ]
    lines = [
        Line2D([], [], color=INK if line == "-" else MUTED, lw=1, ls=line, label=text)
        for text, line in notes
    ]
    _grow(figure, LINE * (-(-len(markers) // 2) + len(lines)) + 0.08)
    height = figure.get_figheight()
    common = {"loc": "lower left", "frameon": False, "fontsize": TEXT - 1, "borderpad": 0}
    common |= {"handletextpad": 0.6, "labelspacing": 0.45, "borderaxespad": 0}
    boxes = [
        figure.legend(handles=lines, bbox_to_anchor=(0.02, 0.05 / height), ncols=1, **common),
        figure.legend(handles=markers, ncols=2, columnspacing=1.5, **common,
                      bbox_to_anchor=(0.02, (0.05 + LINE * len(lines)) / height)),
    ]  # fmt: skip
    for text in (text for box in boxes for text in box.get_texts()):
        text.set(color=INK, parse_math=False)


def _grow(figure: "Figure", inches: float) -> None:
    """Make room at the foot; all else stays as large as it was."""
    [ax] = figure.axes
    before = figure.get_figheight()
    figure.set_figheight(before + inches)
    left, bottom, width, height = ax.get_position().bounds
    scale = before / (before + inches)
    ax.set_position((left, bottom * scale + (1 - scale), width, height * scale))


def svg(figure: "Figure", title: str) -> str:
    """Return a figure as an SVG element: its text is text, its colours are the page's variables."""
    import matplotlib

    file = io.StringIO()
    salt = re.sub(r"\W", "", title)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for i, (light, _, _) in enumerate(STYLES):
        text = text.replace(light, f"var(--way-{i})")
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r"font: ([^;\"]*?)'[^;\"]*", r"font: \1var(--sans)", text)
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)  # of groups: no one refers to them
    [size] = re.findall(r'<svg [^>]*?viewBox="([-\d. ]*)"', text)
    head = f'<svg viewBox="{size}" role="img" aria-label="{escape(title)}">'
    return head + text[text.index(">") + 1 :]


def _figure(title: str, height: float, left: float, bottom: float) -> tuple["Figure", "Axes"]:
    """Return a figure and axes, all sizes in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ModuleNotFoundError(
            'plots need matplotlib: pip install "green_kernels[report]"'
        ) from None
    figure = Figure(figsize=(WIDTH, height))
    inside = WIDTH - left - SIDE, height - HEAD - bottom
    ax = figure.add_axes((left / WIDTH, bottom / height, inside[0] / WIDTH, inside[1] / height))
    figure.text(SIDE / WIDTH, 1 - 0.08 / height, title, ha="left", va="top", color=INK,
                fontsize=TEXT + 1.5, weight="bold", parse_math=False, wrap=True)  # fmt: skip
    return figure, ax
