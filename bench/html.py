"""Records as one page that needs nothing else: no script, no request, its plots inside."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .grid import Grid
from .markdown import markdown
from .palette import STYLES, Style, styles
from .plots import Plot, plots
from .protocol import FULL, MISMATCH, blind
from .record import Record
from .report import TITLES, Notes, filled
from .summary import Mean, geometric_means
from .uncertainty import budget
from .words import group, labels, micro, no_joules, no_time, rows, runs, three_digits

TEMPLATE = "report.html.j2"
FIRST = (  # facts of a machine, in the order of a reader's questions; the others follow
    "gpu", "cpu", "cores", "threads", "driver", "cuda", "torch", "triton", "green_kernels", "commit"
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Texts under heads; a row of one text is a heading."""

    heads: list[str]
    rows: list[list[str]]
    notes: dict[str, int] = field(default_factory=dict)  # number by reason


@dataclass(frozen=True)
class Card:
    """How our way of a case compares with its baseline."""

    time: Mean
    joules: Mean | None


@dataclass(frozen=True)
class Part:
    """What the page says of one run."""

    number: int
    name: str
    date: str
    facts: list[tuple[str, str]]
    more_facts: list[tuple[str, str]]
    cards: list[Card]
    plots: dict[str, list[Plot]]  # by section
    tables: dict[str, Table]  # "Models", "Ops"
    budget: Table | None
    no_joules: dict[str, list[str]]  # of what, by reason
    measured: bool


def write(
    records: Sequence[Record], folder: str | Path, *, grams: Grid | None = None
) -> list[Path]:
    """Write report.html, its plots as PNG and tables.md into a folder; return the paths.

    grams: of the grid that joules came from; adds a column, and what it is reckoned by.
    Raises ModuleNotFoundError saying what to install, ValueError where there are no records.
    """
    if not records:
        raise ValueError("records: there are none to report")
    text, drawn = _page(records, grams)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "report.html", folder / "tables.md"]
    written[0].write_text(text, encoding="utf-8")
    written[1].write_text(markdown(records), encoding="utf-8")
    for number, plot in enumerate(drawn, 1):
        written.append(folder / plot.name(number))
        plot.png(written[-1])
    return written


def page(records: Sequence[Record], *, grams: Grid | None = None) -> str:
    """Return the page alone."""
    return _page(records, grams)[0]


def _page(records: Sequence[Record], grams: Grid | None) -> tuple[str, list[Plot]]:
    try:
        import jinja2
    except ImportError:
        raise ModuleNotFoundError(
            'the page needs jinja2: pip install "green_kernels[report]"'
        ) from None
    ways = styles(r.way for r in records)
    parts = [_part(i, run, ways, grams) for i, run in enumerate(runs(records), 1)]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # a record's text may hold markup
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["micro"] = micro
    text = environment.get_template(TEMPLATE).render(
        parts=parts,
        colours=list(enumerate(STYLES)),
        edge=f"{blind(FULL.window_seconds) * 1e3:g} ms",
        systematic=f"{MISMATCH:.0%}",
    )
    return text, [plot for part in parts for of in part.plots.values() for plot in of]


def _part(number: int, run: Sequence[Record], ways: dict[str, Style], grams: Grid | None) -> Part:
    first, more = _facts(run)
    reasons = group((r for r in run if r.joules is None), _why)
    if grams is not None:
        first.append(("carbon", str(grams)))
    return Part(
        number=number,
        name=str(run[0].machine.get("gpu") or run[0].machine.get("cpu")),
        date=run[0].date,
        facts=first,
        more_facts=more,
        cards=_cards(run),
        plots=group(plots(run, ways), lambda plot: plot.section),
        tables={
            title: _table(of_kind, grams)
            for kind, title in TITLES.items()
            if (of_kind := [r for r in run if r.kind == kind])
        },
        budget=_budget(run),
        no_joules={
            reason: [f"{title}: {', '.join(r.way for r in of)}" for title, of in rows(same).items()]
            for reason, same in reasons.items()
        },
        measured=any(r.joules is not None for r in run),
    )


def _why(r: Record) -> str:
    return no_joules(r) if r.times else f"{r.status}: {no_time(r)}"


def _facts(run: Sequence[Record]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return what was measured on what, and what else the records say of the machine."""
    machine = _flat(run[0].machine)
    first = [(key.replace("_", " "), machine.pop(key)) for key in FIRST if machine.get(key)]
    protocols = dict.fromkeys(", ".join(labels(r)[: 3 if r.cold else 2]) for r in run)
    rounds = sorted({len(r.times) for r in run if r.times})
    windows = sorted({len(r.energy.windows) for r in run if r.joules is not None})
    first += [
        ("protocol", "; ".join(protocols)),
        ("seed", ", ".join(str(seed) for seed in sorted({r.seed for r in run}))),
        ("rounds of timing", _range(rounds)),
        ("windows of energy", _range(windows)),
        ("energy counter", ", ".join(sorted({r.energy.source or "" for r in run} - {""}))),
        ("date", run[0].date),
    ]
    more = [(key.replace("_", " "), value) for key, value in machine.items() if value]
    return [(key, value) for key, value in first if value], more


def _flat(values: dict[str, Any], head: str = "") -> dict[str, str]:
    """Return the leaves of nested objects as texts; null is left out."""
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{head}{key} ")
        elif value is not None:
            flat[f"{head}{key}"] = (
                ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            )
    return flat


def _range(counts: list[int]) -> str:
    if not counts:
        return ""
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _cards(run: Sequence[Record]) -> list[Card]:
    """Return a card for each case: of ours, not of the variant that came out best."""
    means = [m for m in geometric_means(run, least_shapes=1) if m.peer == m.baseline]
    cards = []
    for same in group(means, lambda m: (m.case, m.baseline)).values():
        times = {m.ours: m for m in same if m.figure == "time"}
        joules = {m.ours: m for m in same if m.figure == "joules"}
        ours = "ours" if "ours" in times else next(iter(times), None)
        if ours is not None:
            cards.append(Card(times[ours], joules.get(ours)))
    return cards


def _table(records: Sequence[Record], grams: Grid | None) -> Table:
    """Return every figure of these records, as the terminal has them."""
    notes = Notes()
    columns, cells = filled(records, notes, grams)
    table = Table(["way", *(column.head for column in columns)], [], notes.numbers)
    for title, of_row in rows(records).items():
        table.rows.append([title])
        table.rows.extend([r.way, *cells[id(r)]] for r in of_row)
    return table


def _budget(run: Sequence[Record]) -> Table | None:
    """Return the parts of the uncertainty of each way's joules."""
    heads = ["way", "windows", "length", "tick", "quantisation, unaligned", "quantisation, aligned"]
    heads += ["spread", "drift", "half of 95 % interval"]
    table = Table(heads, [])
    for title, of_row in rows(run).items():
        budgets = [(r.way, b) for r in of_row if (b := budget(r)) is not None]
        if budgets:
            table.rows.append([title])
        for way, b in budgets:
            relative = [_percent(part) for part in (b.unaligned, b.aligned, b.spread)]
            relative += ["not known" if b.drift is None else f"{b.drift:+.2%}"]
            relative += [_percent(b.half_width)]
            ticks = [str(b.windows), f"{b.seconds:.2f} s", f"{three_digits(b.tick * 1e3)} ms"]
            table.rows.append([way, *ticks, *relative])
    return table if table.rows else None


def _percent(part: float | None) -> str:
    return "not known" if part is None else f"{part:.2%}"
