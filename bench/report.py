"""Records as tables for people."""

import math
import statistics
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .record import Record

TITLES = {"model": "Models", "op": "Ops"}
WIDE = 145  # columns of a console that has room for quartiles
SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


def print_report(records: Sequence[Record], console: Console | None = None) -> None:
    """Print each run: its machine, a table of models and one of ops, and geometric means."""
    console = console or wide_console()
    if not records:
        console.print("no records")
    for run in _by(records, lambda r: (r.date, r.device)).values():
        console.print(f"\n[bold]{escape(machine_line(run[0]))}[/bold]")
        for kind, title in TITLES.items():
            rows = [r for r in run if r.kind == kind]
            if rows:
                _print_table(title, rows, console)
        for line in geometric_means(run):
            console.print(escape(line))


def wide_console(**options) -> Console:
    """Return a console that does not fold the table to 80 columns when output goes to a file."""
    console = Console(**options)
    if not console.is_terminal:
        console = Console(width=180, **options)
    return console


def geometric_means(records: Iterable[Record]) -> list[str]:
    """Return a line for each of our ways against each other way, over the shapes of a case."""
    lines = []
    for (case, baseline), group in _by(records, lambda r: (r.case, r.baseline)).items():
        timed = {(r.way, r.shape): r for r in group if r.times}
        ways = list(dict.fromkeys(way for way, _ in timed))
        shapes = list(dict.fromkeys(shape for _, shape in timed))
        if len(shapes) < 2:
            continue
        lines.append(f"{case} against {baseline}, geometric means of times over shapes:")
        for ours in (way for way in ways if way.startswith("ours")):
            for peer in (way for way in ways if way != ours):
                ratios = [
                    _ratio(timed[peer, shape], timed[ours, shape])
                    for shape in shapes
                    if (peer, shape) in timed and (ours, shape) in timed
                ]
                if ratios:
                    lines.append(
                        f"  {ours} is {statistics.geometric_mean(ratios):.2f}x {peer} "
                        f"({len(ratios)} shapes, {min(ratios):.2f} to {max(ratios):.2f})"
                    )
    return lines


def _ratio(peer: Record, ours: Record) -> float:
    """Median over rounds of peer's seconds / our seconds."""
    if len(peer.times) != len(ours.times):  # of two runs, whose rounds do not belong together
        return peer.seconds / ours.seconds
    return statistics.median(p / o for p, o in zip(peer.times, ours.times, strict=True))


def _print_table(title: str, records: Sequence[Record], console: Console) -> None:
    wide = console.width >= WIDE
    watts = next((r.assumed_watts for r in records if r.estimated_joules is not None), None)
    fidelity = "error" if records[0].kind == "op" else "cosine"
    table = Table(title=title, title_justify="left")
    table.add_column("way")
    columns = ["dtype", "time", "quartiles", "x baseline", "quartiles", "J/call", "pJ/op", fidelity]
    columns += [] if watts is None else [f"estimate at {watts:g} W"]
    for column in columns:
        if wide or column != "quartiles":
            table.add_column(column, justify="right", no_wrap=True)
    notes: dict[str, int] = {}
    for (case, shape), group in _by(records, lambda r: (r.case, r.shape)).items():
        table.add_row(f"[bold]{escape(f'{case} {shape}')}[/bold]")
        for r in group:
            time, spread, ratio, ratio_spread = _times(r, notes)
            times = [time, spread, ratio, ratio_spread] if wide else [time, ratio]
            row = [f"  {escape(r.way)}", escape(SHORT.get(r.dtype, r.dtype)), *times]
            row += [*_joules(r, notes), _fidelity(r)]
            if watts is not None:
                row.append("" if r.estimated_joules is None else f"{r.estimated_joules:.3g} J")
            table.add_row(*row, end_section=r is group[-1])
    console.print(table)
    for note, number in notes.items():
        console.print(escape(f"({number}) {note}"))
    for r in records:
        for line in extra_lines(r):
            console.print(escape(line))


def _times(r: Record, notes: dict[str, int]) -> list[str]:
    if r.seconds is None:
        return [f"{r.status} {_note(r.reason, notes)}", "", "", ""]
    low, high = r.spread
    return [
        seconds_text(r.seconds),
        f"{seconds_text(low)} - {seconds_text(high)}",
        f"{r.ratio:.2f}",
        f"{r.ratio_low:.2f} - {r.ratio_high:.2f}",
    ]


def _joules(r: Record, notes: dict[str, int]) -> list[str]:
    if r.joules is not None:
        pico = r.joules_per_flop
        return [f"{r.joules:.4g}", "" if pico is None else f"{pico * 1e12:.3g}"]
    # A way that was not timed has said why already.
    note = f" {_note(f'joules: {r.energy_reason}', notes)}" if r.times else ""
    return [f"unavailable{note}", ""]


def _fidelity(r: Record) -> str:
    if r.error is None:
        return ""
    return f"{r.error:.1e}" if r.kind == "op" else f"{1 - r.error:.5f}"


def _note(reason: str | None, notes: dict[str, int]) -> str:
    return f"({notes.setdefault(reason or 'no reason given', len(notes) + 1)})"


def extra_lines(r: Record) -> list[str]:
    """Return the further figures of a way as one line; bytes in MB."""
    words = []
    for name, value in r.extra.items():
        if name.endswith("_bytes"):
            words.append(f"{name.removesuffix('_bytes').replace('_', ' ')} {value / 1e6:.2f} MB")
        else:
            words.append(f"{name.replace('_', ' ')} {value:.4g}")
    return [f"{r.case} {r.shape}, {r.way}: {', '.join(words)}"] if words else []


def machine_line(r: Record) -> str:
    """Return the machine, the versions and the date of a record, in words."""
    m = r.machine
    where = f"{m.get('gpu')}, driver {m.get('driver')}" if m.get("gpu") else m.get("cpu")
    return (
        f"{where}, {m.get('threads')} of {m.get('cores')} cores, torch {m.get('torch')}, "
        f"green_kernels {m.get('green_kernels')} at {m.get('commit') or 'no commit'}, {r.date}"
    )


def seconds_text(seconds: float) -> str:
    """Three digits with a unit: 1.23 s, 45.6 ms, 789 us."""
    factor, unit = (1, "s") if seconds >= 1 else (1e3, "ms") if seconds >= 1e-3 else (1e6, "us")
    value = seconds * factor
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 2
    return f"{value:.{max(0, digits)}f} {unit}"


def _by(records, key):
    groups = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups
