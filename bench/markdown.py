"""Records as Markdown, for a README: a row for each way of a model, and for each shape of an op."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from .figures import Interval
from .record import Record, read
from .words import (
    divided,
    dtype_text,
    extra_lines,
    fidelity_text,
    group,
    joules_text,
    known_text,
    labels,
    machine_line,
    no_joules,
    pico_text,
    quantity,
    ratio_text,
    rows,
    runs,
    samples_per_kwh,
    seconds_text,
)

MARKERS = re.compile(r"(<!-- records: (\S+) -->\n)(.*?)(<!-- end of records -->)", re.DOTALL)
BEGIN = "<!-- records:"


def markdown(records: Sequence[Record]) -> str:
    """Return the tables of each run, its machine above them."""
    if not records:
        return "no records\n"
    return "\n\n".join(block for run in runs(records) for block in _run(run)) + "\n"


def update(readme: str | Path) -> bool:
    """Write the tables of records into a Markdown file; return whether that changed it.

    What stands between `<!-- records: PATH -->` and `<!-- end of records -->` is replaced, at each
    such place, by the tables of the records at PATH, which is relative to the file.
    Raises ValueError where there is no marker or one has no end, OSError and CorruptRecord where
    PATH is no records.
    """
    readme = Path(readme)
    text = readme.read_text(encoding="utf-8")
    if BEGIN not in text:
        raise ValueError(f"{readme}: there is no marker {BEGIN} PATH --> in it")
    if text.count(BEGIN) != len(MARKERS.findall(text)):
        raise ValueError(f"{readme}: a marker {BEGIN} PATH --> has no <!-- end of records -->")

    def tables(found: re.Match) -> str:
        begin, path, _, end = found.groups()
        return begin + markdown(read(readme.parent / path)) + end

    new = MARKERS.sub(tables, text)
    if new != text:
        readme.write_text(new, encoding="utf-8")
    return new != text


def _run(records: Sequence[Record]) -> list[str]:
    blocks = [f"*{_plain(machine_line(records[0]))}*"]
    for title, of_model in rows(r for r in records if r.kind == "model").items():
        blocks.append(_model(title, of_model))
    for case, of_case in group((r for r in records if r.kind == "op"), lambda r: r.case).items():
        blocks.append(_op(case, of_case, _time_cell))
        if any(r.joules_per_flop is not None for r in of_case):
            blocks.append(_op(f"{case}, pJ/FLOP", of_case, _pico_cell))
        if any(r.joules and r.executed_flops != r.flops for r in of_case):
            blocks.append(_op(f"{case}, pJ/executed FLOP", of_case, _executed_cell))
    lines = [f"* {_plain(line)}" for r in records for line in extra_lines(r)]
    blocks += ["\n".join(lines)] if lines else []
    return blocks + _remarks(records)


def _remarks(records: Sequence[Record]) -> list[str]:
    """Return what must be read with the figures, and why there are none."""
    measured = [r for r in records if r.joules is not None]
    blocks = []
    if measured:
        blocks.append(
            "Joules: measured, gross, with 95 % intervals over windows. "
            "pJ/FLOP is per operation of the dense mathematics."
        )
    for words, same in group(measured, lambda r: tuple(labels(r))).items():
        names = ", ".join(dict.fromkeys(f"{r.case} {r.shape}, {r.way}" for r in same))
        which = "all ways" if len(same) == len(measured) else names
        blocks.append(_plain(f"{', '.join(words)}: {which}."))
    reasons = group((r for r in records if r.times and r.joules is None), no_joules)
    for reason, same in reasons.items():
        names = "" if not measured else "; ".join(f" {r.case} {r.shape}, {r.way}" for r in same)
        reason = reason.removeprefix("joules: ")
        blocks.append(_plain(f"Joules{names and ' of'}{names}: unavailable, {reason}."))
    return blocks


def _model(title: str, records: Sequence[Record]) -> str:
    """Return a table with a row for each way that was timed."""
    columns: list[tuple[str, Callable[[Record], str]]] = [
        ("dtype", dtype_text),
        ("time", lambda r: seconds_text(r.seconds)),
        ("x baseline", lambda r: ratio_text(r.ratio)),
    ]
    if any(r.joules is not None for r in records):
        columns += [
            ("J/inference", lambda r: _cell(r.energy.joules, joules_text)),
            ("J ratio", lambda r: _cell(r.energy.ratio, ratio_text)),
            ("J/token", lambda r: known_text(r.joules_per("token"), joules_text)),
            ("samples/kWh", lambda r: known_text(samples_per_kwh(r), lambda n: quantity(n, ""))),
        ]
    for metric in dict.fromkeys(name for r in records for name in r.quality):
        columns.append(
            (metric, lambda r, m=metric: known_text(r.quality.get(m), lambda v: f"{v:.4g}"))
        )
    columns.append(("cosine", fidelity_text))
    case, shape = records[0].case, records[0].shape
    head = title.replace(f"{case} {shape}", f"{case}, {shape}", 1)
    body = [[r.way, *(cell(r) for _, cell in columns)] for r in records if r.times]
    return _table([[head, *(name for name, _ in columns)], *body])


def _op(head: str, records: Sequence[Record], cell: Callable[[Record], str]) -> str:
    """Return a table with a row for each shape and a column for each way that was timed."""
    ways = list(dict.fromkeys(r.way for r in records if r.times))
    body = []
    for title, of_row in rows(records).items():
        timed = {r.way: r for r in of_row if r.times}
        if timed:
            name = title.removeprefix(f"{of_row[0].case} ")
            body.append([name, *(cell(timed[way]) if way in timed else "" for way in ways)])
    return _table([[head, *ways], *body])


def _time_cell(r: Record) -> str:
    return f"{seconds_text(r.seconds)} ({r.ratio:.2f}x)"


def _pico_cell(r: Record) -> str:
    return _cell(divided(r.energy.joules, r.flops), pico_text)


def _executed_cell(r: Record) -> str:
    return _cell(divided(r.energy.joules, r.executed_flops), pico_text)


def _cell(interval: Interval | None, text: Callable[[float], str]) -> str:
    if interval is None:
        return ""
    if not interval.sure:
        return text(interval.value)
    return f"{text(interval.value)} ({text(interval.low)} to {text(interval.high)})"


def _table(rows: list[list[str]]) -> str:
    rule = ["---", *["--:"] * (len(rows[0]) - 1)]
    lines = [[_plain(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in (lines[0], rule, *lines[1:]))


def _plain(text: str) -> str:
    """Escape what would end a cell, or be markup."""
    text = " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())
    return text.replace("|", "\\|")
