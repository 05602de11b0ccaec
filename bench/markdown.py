"""Records as Markdown, for a README: a row for each way of a model, and for each shape of an op."""

from collections.abc import Iterable, Sequence

from .record import Record
from .report import SHORT, extra_lines, machine_line, seconds_text


def markdown(records: Sequence[Record]) -> str:
    """Return the tables of one run, its machine above them."""
    blocks = [f"*{machine_line(records[0])}*"] if records else ["no records"]
    for case, shape in dict.fromkeys((r.case, r.shape) for r in records if r.kind == "model"):
        of_model = [r for r in records if (r.case, r.shape) == (case, shape)]
        blocks.append(_model(case, shape, of_model))
    for case in dict.fromkeys(r.case for r in records if r.kind == "op"):
        blocks.append(_op(case, [r for r in records if r.case == case]))
    blocks += ["\n".join(f"* {line}" for r in records for line in extra_lines(r))]
    reasons = dict.fromkeys(r.energy_reason for r in records if r.times and r.joules is None)
    blocks += [f"Joules: unavailable, {reason}." for reason in reasons]
    return "\n\n".join(blocks) + "\n"


def _model(case: str, shape: str, records: Iterable[Record]) -> str:
    rows = [[f"{case}, {shape}", "dtype", "time", "x baseline", "J/call", "cosine"]]
    for r in records:
        if r.times:
            joules = "" if r.joules is None else f"{r.joules:.3g}"
            cells = [seconds_text(r.seconds), f"{r.ratio:.2f}", joules, f"{1 - r.error:.4f}"]
            rows.append([r.way, SHORT.get(r.dtype, r.dtype), *cells])
    return _table(rows)


def _op(case: str, records: Sequence[Record]) -> str:
    timed = {(r.shape, r.way): r for r in records if r.times}
    ways = list(dict.fromkeys(way for _, way in timed))
    rows = [[case, *ways]]
    for shape in dict.fromkeys(shape for shape, _ in timed):
        found = (timed.get((shape, way)) for way in ways)
        cells = [f"{seconds_text(r.seconds)} ({r.ratio:.2f}x)" if r else "" for r in found]
        rows.append([shape, *cells])
    return _table(rows)


def _table(rows: list[list[str]]) -> str:
    rule = ["---", *["--:"] * (len(rows[0]) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], rule, *rows[1:]))
