"""Two sets of records: for each way in both, whether time and joules are the same, by intervals."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from . import interval
from .figures import Interval
from .interval import LEAST_EACH
from .protocol import MISMATCH
from .record import Record
from .report import Notes, wide_console
from .words import NOT_KNOWN, device_kind, group, joules_text, no_time, seconds_text

SAME, BETTER, WORSE, UNSURE, MISSING = "SAME", "BETTER", "WORSE", "UNSURE", "MISSING"
STYLES = {SAME: "dim", BETTER: "green", WORSE: "bold red", UNSURE: "yellow", MISSING: "magenta"}


@dataclass(frozen=True)
class Key:
    """What two records must share to be compared."""

    case: str
    shape: str
    way: str
    dtype: str
    data: str
    protocol: str
    device: str  # "cpu" or "cuda"
    rank: int

    @classmethod
    def of(cls, r: Record) -> "Key":
        """Return a record's key."""
        return cls(r.case, r.shape, r.way, r.dtype, r.data, r.protocol, device_kind(r), r.rank)

    def __str__(self) -> str:
        """All of it in words."""
        more = f"{self.dtype}, {self.data} data, {self.protocol}, {self.device}"
        more += f", rank {self.rank}" if self.rank else ""
        return f"{self.case} {self.shape}, {self.way} ({more})"


@dataclass(frozen=True)
class Verdict:
    """One figure of one way: what became of it from A to B."""

    key: Key
    figure: str  # "time" or "joules"; "" if one of the two has no such way
    verdict: str  # SAME, BETTER, WORSE, UNSURE or MISSING
    ratio: Interval | None = None  # B / A, with its 95 % interval: above 1 is more
    a: float | None = None  # seconds or joules per call
    b: float | None = None
    reason: str | None = None  # why UNSURE, or which of the two is missing


def compare(a: Sequence[Record], b: Sequence[Record], *, threshold: float = 0.02) -> list[Verdict]:
    """Return a verdict on time and one on joules for each way of either, in A's order.

    With [l, h] the 95 % interval of B / A: BETTER if h < 1 - threshold, WORSE if l > 1 + threshold,
    SAME if it lies within 1 -+ threshold, UNSURE if neither or if there is no interval. A way whose
    result was right in A and is wrong in B is WORSE. Of what neither has there is no verdict.
    a, b: of several records of a key, the last one counts.
    threshold: the relative change that is of no interest, at least 0 and less than 1.
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold must be at least 0 and less than 1, got {threshold}")
    of_a, of_b = ({Key.of(r): r for r in records} for records in (a, b))
    verdicts = []
    for key in dict.fromkeys([*of_a, *of_b]):
        if key in of_a and key in of_b:
            pair = of_a[key], of_b[key]
            if any(r.times for r in pair):
                verdicts.append(_time(key, *pair, threshold))
            if any(r.joules is not None for r in pair):
                verdicts.append(_joules(key, *pair, threshold))
        else:
            where = "A" if key in of_a else "B"
            verdicts.append(Verdict(key, "", MISSING, reason=f"only in {where}"))
    return verdicts


def warnings(a: Sequence[Record], b: Sequence[Record]) -> list[str]:
    """Return what makes a comparison of these two doubtful, in words."""
    found = []
    for name, fact in (("CPU", "cpu"), ("GPU", "gpu"), ("driver", "driver")):
        of_a, of_b = (_facts(records, lambda r, f=fact: r.machine.get(f)) for records in (a, b))
        if of_a != of_b:
            found.append(f"the {name} differs: A {_words(of_a)}; B {_words(of_b)}")
    cards = [_facts(records, _card) for records in (a, b)]
    if cards[0] != cards[1] and any(r.joules is not None for r in (*a, *b)):
        found.append(
            "absolute joules of different cards: each sensor has a gain error of its own, of "
            f"{MISMATCH * 100:g} % by its maker, which no interval here holds"
        )
    for name, fact in (("data", lambda r: r.data), ("baseline", lambda r: r.baseline)):
        both = [group(records, lambda r: (r.case, r.shape)) for records in (a, b)]
        for case, shape in both[0].keys() & both[1].keys():
            of_a, of_b = (_facts(of[case, shape], fact) for of in both)
            if of_a != of_b:
                where = f"{case} {shape}"
                found.append(f"the {name} of {where} differs: A {_words(of_a)}; B {_words(of_b)}")
    for name, records in (("A", a), ("B", b)):
        several = sum(len(same) > 1 for same in group(records, Key.of).values())
        if several:
            found.append(f"{name} has several records of {several} ways: the last of each counts")
    return sorted(found)


def exit_code(verdicts: Iterable[Verdict]) -> int:
    """Return 1 if any verdict is WORSE."""
    return int(any(v.verdict == WORSE for v in verdicts))


def print_verdicts(
    verdicts: Sequence[Verdict], warnings: Iterable[str] = (), console: Console | None = None
) -> None:
    """Print the warnings, a table of all verdicts, their number, and a line for each WORSE."""
    console = console or wide_console()
    for warning in warnings:
        console.print(f"[bold red]WARNING[/bold red] {escape(warning)}", soft_wrap=True)
    notes = Notes()
    table = Table(title="B against A", title_justify="left")
    for head in ("way", "figure", "A", "B", "B / A", "95 % interval", "verdict"):
        table.add_column(head, no_wrap=True, justify="left" if head in ("way", "verdict") else
                         "right")  # fmt: skip
    for row, same in group(verdicts, _row).items():
        table.add_row(f"[bold]{escape(row)}[/bold]")
        for v in same:
            verdict = f"[{STYLES[v.verdict]}]{v.verdict}[/]"
            verdict += f" {notes(v.reason)}" if v.reason else ""
            way = "" if v.figure == "joules" else f"  {escape(v.key.way)}"
            table.add_row(way, v.figure, *_cells(v), verdict, end_section=v is same[-1])
    console.print(table)
    for note, number in notes.numbers.items():
        console.print(escape(f"({number}) {note}"), soft_wrap=True)
    counts = {name: sum(v.verdict == name for v in verdicts) for name in STYLES}
    console.print(", ".join(f"{count} {name}" for name, count in counts.items()), soft_wrap=True)
    for v in verdicts:
        if v.verdict == WORSE:
            console.print(f"[bold red]WORSE[/bold red] {escape(_line(v))}", soft_wrap=True)


def _time(key: Key, a: Record, b: Record, threshold: float) -> Verdict:
    for name, r in (("A", a), ("B", b)):
        if not r.times:
            wrong = name == "B" and r.status == "refused"  # and A, looked at before it, was timed
            reason = f"{r.status} in {name}: {no_time(r)}"
            return Verdict(key, "time", WORSE if wrong else UNSURE, reason=reason)
    ratio, reason = _resampled(a.times, b.times, "rounds")
    return _judge(Verdict(key, "time", UNSURE, ratio, a.seconds, b.seconds, reason), threshold)


def _joules(key: Key, a: Record, b: Record, threshold: float) -> Verdict:
    for name, r in (("A", a), ("B", b)):
        if not r.joules:
            zero = "0 J, which has no ratio" if r.joules == 0 else None
            reason = f"no joules in {name}: {zero or r.energy.reason or NOT_KNOWN}"
            return Verdict(key, "joules", UNSURE, a=a.joules, b=b.joules, reason=reason)
    windows = [[w.joules_per_call for w in r.energy.windows] for r in (a, b)]
    if all(windows):
        ratio, reason = _resampled(*windows, "windows")
    else:
        ratio, reason = _of_intervals(a.energy.joules, b.energy.joules)
    return _judge(Verdict(key, "joules", UNSURE, ratio, a.joules, b.joules, reason), threshold)


def _resampled(a: Sequence[float], b: Sequence[float], what: str) -> tuple[Interval, str | None]:
    """Return median(b) / median(a), and why it has no interval, if it has none."""
    ratio = interval.ratio(b, a)
    if ratio.sure:
        return ratio, None
    if min(len(a), len(b)) < LEAST_EACH:
        return ratio, f"{len(a)} and {len(b)} {what} give no interval, {LEAST_EACH} each would"
    return ratio, f"{what} of 0 in A leave no interval"


def _of_intervals(a: Interval, b: Interval) -> tuple[Interval, str | None]:
    """Return b / a, as wide as both intervals allow."""
    ratio = b.value / a.value
    if not (a.sure and b.sure) or min(a.low, b.low) <= 0:
        return Interval(ratio), "no interval of joules in one of the two, or one down to 0"
    return Interval(ratio, b.low / a.high, b.high / a.low), None


def _judge(v: Verdict, threshold: float) -> Verdict:
    if v.ratio is None or not v.ratio.sure:
        return v
    low, high = v.ratio.low, v.ratio.high
    if low > 1 + threshold:
        verdict, reason = WORSE, None
    elif high < 1 - threshold:
        verdict, reason = BETTER, None
    elif low >= 1 - threshold and high <= 1 + threshold:
        verdict, reason = SAME, None
    else:
        edge = 1 + threshold if high > 1 + threshold else 1 - threshold
        verdict, reason = UNSURE, f"the interval holds {edge:g}"
    return Verdict(v.key, v.figure, verdict, v.ratio, v.a, v.b, reason)


def _facts(records: Iterable[Record], fact: Callable[[Record], object]) -> list[str]:
    return sorted({str(found) for r in records if (found := fact(r)) is not None})


def _card(r: Record) -> object:
    return r.machine.get("gpu_uuid") or r.machine.get("gpu") or r.machine.get("cpu")


def _words(facts: list[str]) -> str:
    return ", ".join(facts) or "none"


def _row(v: Verdict) -> str:
    key = v.key
    rank = f", rank {key.rank}" if key.rank else ""
    return f"{key.case} {key.shape} ({key.protocol}, {key.data} data, {key.device}{rank})"


def _cells(v: Verdict) -> list[str]:
    text = seconds_text if v.figure == "time" else joules_text
    cells = ["" if value is None else text(value) for value in (v.a, v.b)]
    if v.ratio is None:
        return [*cells, "", ""]
    span = f"{v.ratio.low:.3f} - {v.ratio.high:.3f}" if v.ratio.sure else "none"
    return [*cells, f"{v.ratio.value:.3f}", span]


def _line(v: Verdict) -> str:
    if v.ratio is None:
        return f"{v.figure} of {v.key}: {v.reason}"
    many = f"{v.ratio.value:.3f}x, 95 % interval {v.ratio.low:.3f} - {v.ratio.high:.3f}"
    return f"{v.figure} of {v.key}: {many}"
