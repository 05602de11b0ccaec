"""Records as tables for a terminal, or for a pipe."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from .grid import Grid
from .record import Record
from .summary import mean_lines
from .words import (
    divided,
    dtype_text,
    extra_lines,
    fidelity_text,
    joules_text,
    known_text,
    labels,
    machine_line,
    no_joules,
    no_net,
    no_time,
    pico_text,
    quantity,
    ratio_text,
    rows,
    runs,
    samples_per_kwh,
    seconds_text,
    span_text,
    three_digits,
)

TITLES = {"model": "Models", "op": "Ops"}
PIPE = 10_000  # columns of what is no terminal: nothing is folded


def print_report(
    records: Sequence[Record], console: Console | None = None, *, grams: Grid | None = None
) -> None:
    """Print each run: its machine, a table of models and one of ops, and geometric means.

    console: the default is stdout, without folding or colour where that is no terminal.
    grams: of the grid that joules came from; adds a column, and what it is reckoned by.
    """
    console = console or wide_console()
    if not records:
        console.print("no records")
    for run in runs(records):
        console.print(f"\n[bold]{escape(machine_line(run[0]))}[/bold]", soft_wrap=True)
        for kind, title in TITLES.items():
            of_kind = [r for r in run if r.kind == kind]
            if of_kind:
                _print_table(title, of_kind, console, grams)
        for line in mean_lines(run):
            console.print(escape(line), soft_wrap=True)
    if grams is not None:
        console.print(escape(str(grams)), soft_wrap=True)


def report_text(records: Sequence[Record], *, grams: Grid | None = None) -> str:
    """Return what `print_report` prints to a pipe."""
    file = io.StringIO()
    print_report(records, wide_console(file=file), grams=grams)
    return file.getvalue()


def wide_console(**options: Any) -> Console:
    """Return a console that folds nothing and colours nothing when output goes to a file.

    options: of rich's Console.
    """
    console = Console(**options)
    if not console.is_terminal:
        console = Console(width=PIPE, highlight=False, **options)
    return console


@dataclass
class Notes:
    """Reasons, each numbered where it first came up."""

    numbers: dict[str, int] = field(default_factory=dict)

    def __call__(self, reason: str) -> str:
        """Return the number of a reason, to stand beside what is missing."""
        return f"({self.numbers.setdefault(reason, len(self.numbers) + 1)})"


@dataclass(frozen=True)
class Column:
    """A figure of each record; a column of nothing is not printed."""

    head: str
    cell: Callable[[Record], str]
    leave: int = 0  # the larger, the sooner it goes where the terminal has no room; 0: never


def _print_table(
    title: str, records: Sequence[Record], console: Console, grams: Grid | None
) -> None:
    notes = Notes()
    columns, cells = filled(records, notes, grams)
    shown, left = list(range(len(columns))), []
    while True:
        table = _table(title, records, columns, cells, shown)
        free = console.options.update(width=PIPE)
        if Measurement.get(console, free, table).maximum <= console.width:
            break
        spare = [i for i in shown if columns[i].leave]
        if not spare:
            break
        left.append(max(spare, key=lambda i: columns[i].leave))
        shown.remove(left[-1])
    console.print(table)
    for note, number in notes.numbers.items():
        console.print(escape(f"({number}) {note}"), soft_wrap=True)
    if left:
        names = ", ".join(columns[i].head for i in sorted(left))
        console.print(escape(f"left out for want of width, a pipe has it: {names}"), soft_wrap=True)
    for r in records:
        for line in extra_lines(r):
            console.print(escape(line), soft_wrap=True)


def _table(title, records, columns, cells, shown) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("way", no_wrap=True)
    for i in shown:
        table.add_column(escape(columns[i].head), justify="right", no_wrap=True)
    for row, of_row in rows(records).items():
        table.add_row(f"[bold]{escape(row)}[/bold]")
        for r in of_row:
            texts = [escape(cells[id(r)][i]) for i in shown]
            table.add_row(f"  {escape(r.way)}", *texts, end_section=r is of_row[-1])
    return table


def filled(
    records: Sequence[Record], notes: Notes, grams: Grid | None
) -> tuple[list[Column], dict[int, list[str]]]:
    """Return the columns of a table that have something in them, and their cells by id(record).

    records: all of ops, or all of models. notes: takes the reasons of what is missing.
    """
    columns = _columns(records, notes, grams)
    cells = {id(r): [column.cell(r) for column in columns] for r in records}
    used = [i for i in range(len(columns)) if any(of[i] for of in cells.values())]
    shown = {key: [of[i] for i in used] for key, of in cells.items()}
    return [columns[i] for i in used], shown


def _columns(records: Sequence[Record], notes: Notes, grams: Grid | None) -> list[Column]:
    model = records[0].kind == "model"
    watts = next((r.assumed_watts for r in records if r.estimated_joules is not None), None)
    measured = any(r.joules is not None for r in records)
    columns = [
        Column("dtype", dtype_text, 1),
        Column("time", lambda r: _time(r, notes)),
        Column("quartiles", _quartiles, 8),
        Column("x baseline", lambda r: ratio_text(r.ratio) if r.times else ""),
        Column("quartiles", _ratio_quartiles, 9),
    ]
    if not model:
        columns.append(Column("TOPS", _tera, 3))
    columns.append(Column("J/inference" if model else "J/call", lambda r: _joules(r, notes)))
    if measured:
        columns += [
            Column("95 % interval", lambda r: _span(r, r.energy.joules, joules_text), 6),
            Column("net of idle", lambda r: _net(r, notes), 5),
            Column("J ratio", _joules_ratio, 2),
            Column("95 % interval", lambda r: _span(r, r.energy.ratio, ratio_text), 7),
        ]
        columns += _model_columns() if model else _op_columns()
    if grams is not None:
        head = "gCO2e/1k inferences" if model else "gCO2e/1e18 FLOP"
        columns.append(Column(head, lambda r: _grams(r, grams), 1))
    if model:
        metrics = dict.fromkeys(name for r in records for name in r.quality)
        columns += [Column(name, lambda r, name=name: _quality(r, name)) for name in metrics]
    columns.append(Column("cosine" if model else "error", fidelity_text))
    if watts is not None:
        columns.append(Column(f"estimate at {watts:g} W", _estimate))
    return [*columns, Column("labels", lambda r: ", ".join(labels(r)), 4)]


def _op_columns() -> list[Column]:
    return [
        Column("pJ/FLOP", lambda r: _pico(r.joules_per_flop)),
        Column("95 % interval", lambda r: _pico_span(r), 3),
        Column("pJ/executed", _executed),
    ]


def _model_columns() -> list[Column]:
    return [
        Column("J/token", lambda r: known_text(r.joules_per("token"), joules_text)),
        Column("samples/kWh", lambda r: known_text(samples_per_kwh(r), lambda n: quantity(n, ""))),
    ]


def _time(r: Record, notes: Notes) -> str:
    return seconds_text(r.seconds) if r.times else f"{r.status} {notes(no_time(r))}"


def _quartiles(r: Record) -> str:
    return " - ".join(seconds_text(end) for end in r.spread) if r.spread else _few(r)


def _ratio_quartiles(r: Record) -> str:
    return f"{r.ratio_low:.2f} - {r.ratio_high:.2f}" if r.spread else ""


def _tera(r: Record) -> str:
    return three_digits(r.flops / r.seconds / 1e12) if r.times and r.flops else ""


def _few(r: Record) -> str:
    return f"none of {len(r.times)} rounds" if r.times else ""


def _joules(r: Record, notes: Notes) -> str:
    if r.joules is not None:
        return joules_text(r.joules)
    # A way that was not timed has said why already.
    return f"unavailable {notes(no_joules(r))}" if r.times else "unavailable"


def _span(r: Record, interval, text: Callable[[float], str]) -> str:
    return "" if interval is None else span_text(interval, text, len(r.energy.windows))


def _pico_span(r: Record) -> str:
    return _span(r, divided(r.energy.joules, r.flops), pico_text)


def _net(r: Record, notes: Notes) -> str:
    if r.joules is None:
        return ""
    if r.energy.net is None:
        return f"not identified {notes(no_net(r))}"
    return joules_text(r.energy.net.value)


def _joules_ratio(r: Record) -> str:
    return "" if r.energy.ratio is None else ratio_text(r.energy.ratio.value)


def _executed(r: Record) -> str:
    return "" if r.executed_flops == r.flops else _pico(r.joules_per_executed_flop)


def _grams(r: Record, grams: Grid) -> str:
    if r.joules is None:
        return ""
    if r.kind == "model":
        return three_digits(1e3 * grams(r.joules))
    return known_text(r.joules_per_flop, lambda joules: three_digits(grams(joules * 1e18)))


def _quality(r: Record, name: str) -> str:
    return known_text(r.quality.get(name), lambda value: f"{value:.4g}")


def _estimate(r: Record) -> str:
    return known_text(r.estimated_joules, joules_text)


def _pico(joules: float | None) -> str:
    return known_text(joules, pico_text)
