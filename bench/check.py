"""Accept or reject a folder of results by its records alone, without trust in who wrote them."""

import json
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import interval
from .figures import Window
from .protocol import BUSY, DRIFT_CELSIUS, THROTTLED, Protocol
from .record import PROTOCOLS, Record
from .schema import CorruptRecord, lines
from .window import POWER_CAP
from .words import device_kind, group

EXACT = 1e-9  # relative, of joules against the median of its windows
MACHINE = ("cpu", "cores", "gpu", "driver")


@dataclass(frozen=True)
class Problem:
    """Something for which a folder is not accepted."""

    file: Path
    line: int | None  # None: the file as a whole
    what: str

    def __str__(self) -> str:
        """File, line and what is wrong, as a compiler would say it."""
        line = "" if self.line is None else f":{self.line}"
        return f"{self.file}{line}: {self.what}"


@dataclass(frozen=True)
class _Line:
    """A record and where it stands."""

    file: Path
    number: int
    record: Record

    def problem(self, what: str) -> Problem:
        r = self.record
        return Problem(self.file, self.number, f"{r.case} {r.shape}, {r.way}: {what}")


def check(folder: str | Path) -> list[Problem]:
    """Return what is wrong with the results in a folder; nothing means that they are accepted.

    folder: of *.jsonl files with records, all of one machine, and the sensor*.json of its GPUs.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return [Problem(folder, None, "there is no such folder")]
    records: list[_Line] = []
    problems: list[Problem] = []
    for file in sorted(folder.glob("*.jsonl")):
        for found in _read(file):
            (records if isinstance(found, _Line) else problems).append(found)
    if not records and not problems:
        problems.append(Problem(folder, None, "there are no records: *.jsonl with a line in it"))
    problems += _one_machine(records)
    problems += _duplicates(records)
    problems += _sensors(folder, records)
    for line in records:
        problems += [line.problem(what) for check in CHECKS for what in check(line.record)]
    return sorted(problems, key=lambda p: (str(p.file), p.line or 0))


def _read(file: Path) -> Iterator[_Line | Problem]:
    try:
        numbered = list(lines(file))
    except (OSError, CorruptRecord) as error:
        yield Problem(file, None, f"cannot be read: {error}")
        return
    if not numbered:
        yield Problem(file, None, "there is no record in it")
    for number, line in numbered:
        try:
            yield _Line(file, number, Record.from_json(line, "the line"))
        except CorruptRecord as error:
            yield Problem(file, number, f"no record: {error}")


def _one_machine(lines: list[_Line]) -> Iterator[Problem]:
    of_ranks = group(lines, lambda line: line.record.rank)  # each of which has a GPU of its own
    for fact, same in [(f, lines) for f in MACHINE] + [("gpu_uuid", x) for x in of_ranks.values()]:
        values = group(same, lambda line, f=fact: json.dumps(line.record.machine.get(f)))
        first, *others = values or [None]
        for other in others:
            what = f"another machine: {fact} is {other}, and {first} in the records before"
            yield values[other][0].problem(what)


def _duplicates(lines: list[_Line]) -> Iterator[Problem]:
    for same in group(lines, _key).values():
        for line in same[1:]:
            first = f"{same[0].file.name}:{same[0].number}"
            yield line.problem(f"stands twice in one run, first at {first}")


def _key(line: _Line) -> tuple:
    r = line.record
    return r.case, r.shape, r.way, r.dtype, r.data, r.protocol, r.device, r.rank, r.date


def _sensors(folder: Path, lines: list[_Line]) -> Iterator[Problem]:
    """Check the records of the GPUs' energy counters, which joules by NVML stand on."""
    uuids = {_uuid(line.record) for line in lines} - {None}
    files = sorted(folder.glob("sensor*.json"))
    for file in files:
        try:
            sensor = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            yield Problem(file, None, f"cannot be read: {error}")
            continue
        if not isinstance(sensor, dict):
            yield Problem(file, None, f"must be an object, got {type(sensor).__name__}")
            continue
        if sensor.get("device") == "cpu":  # RAPL has no second sensor to agree with
            continue
        if sensor.get("agrees") is not True:
            got = f"agrees is {sensor.get('agrees')!r}"
            yield Problem(file, None, f"the energy counter and the power sensor disagree: {got}")
        if uuids and sensor.get("uuid") not in uuids:
            got = f"{sensor.get('uuid')!r}, the records' is {', '.join(sorted(uuids))}"
            yield Problem(file, None, f"it is of another GPU: its uuid is {got}")
    needs = [x for x in lines if x.record.joules is not None and x.record.energy.source == "nvml"]
    needs = [line for line in needs if line.record.protocol == "full"]
    if needs and not files:
        what = "joules by NVML need a sensor*.json, which says that the counter agrees with power"
        yield needs[0].problem(what)


def _uuid(r: Record) -> str | None:
    return r.machine.get("gpu_uuid")


def _commit(r: Record) -> Iterator[str]:
    commit = r.machine.get("commit")
    if not commit or not isinstance(commit, str):
        yield "machine.commit is not known: it was not run from a checkout"
    elif "dirty" in commit:
        yield f"machine.commit is {commit}: the checkout was changed"


def _error(r: Record) -> Iterator[str]:
    if not r.times:
        return
    if r.tolerance is None:
        yield "it was timed, and has no tolerance"
    elif not r.error <= r.tolerance:
        yield f"it was timed, though its error {r.error:g} is above its tolerance {r.tolerance:g}"


def _gates(r: Record) -> Iterator[str]:
    energy = r.energy
    for gate, reason in energy.failed.items():
        for name in ("joules", "net", "difference", "ratio"):
            if getattr(energy, name) is not None:
                yield f"energy.{name} must be null: the gate {gate} failed ({reason})"


def _figures(r: Record) -> Iterator[str]:
    """Check joules and its interval against the windows."""
    joules = r.energy.joules
    if joules is None:
        return
    values = [w.joules_per_call for w in r.energy.windows]
    if not values:
        yield "energy.joules has no windows to stand on"
        return
    median = statistics.median(values)
    if not math.isclose(joules.value, median, rel_tol=EXACT, abs_tol=0):
        yield f"energy.joules is {joules.value:.12g}, the median of its windows {median:.12g}"
    if not joules.sure:
        if len(values) >= interval.LEAST:
            yield f"energy.joules has no interval, and {len(values)} windows give one"
        return
    again = interval.median(values, seed=1)
    if not again.sure:
        yield f"energy.joules has an interval, which {len(values)} windows do not give"
        return
    # Another draw of the bootstrap: its ends jump from one window to the next.
    loose = 0.5 * (again.high - again.low) + 1e-6 * median
    for name in ("low", "high"):
        end, own = getattr(joules, name), getattr(again, name)
        if not abs(end - own) <= loose:
            yield f"energy.joules.{name} is {end:g}, by its windows it is about {own:g}"
    if not joules.low <= joules.value <= joules.high:
        yield f"energy.joules is {joules.value:g}, outside {joules.low:g} - {joules.high:g}"


def _windows(r: Record) -> Iterator[str]:
    """Check that there are enough windows, each long enough, busy, and steady."""
    if r.joules is None:
        return
    windows, protocol = r.energy.windows, PROTOCOLS[r.protocol]
    if len(windows) < protocol.windows:
        least = f"at least {protocol.windows} windows"
        yield f"the {protocol.name} protocol has {least}, got {len(windows)}"
    for number, window in enumerate(windows, 1):
        for what in _window(window, protocol, device_kind(r) == "cuda"):
            yield f"window {number}: {what}"


def _window(w: Window, protocol: Protocol, cuda: bool) -> Iterator[str]:
    full = protocol.thorough
    if w.ticks < protocol.window_ticks:
        yield f"it has {w.ticks:.6g} ticks of the counter, less than {protocol.window_ticks}"
    if w.seconds < protocol.window_seconds:
        yield f"it has {w.seconds:.6g} s, less than {protocol.window_seconds:g} s"
    if w.busy is None:
        if cuda and full:
            yield "it does not say how busy the GPU was"
    elif w.busy < BUSY and cuda:
        yield f"the GPU was busy for {w.busy:.2%} of it, less than {BUSY:.0%}"
    if cuda and full and len(w.celsius) < 2:
        yield "it does not say the temperature at its start and end"
    if w.celsius and abs(drift := w.celsius[-1] - w.celsius[0]) > DRIFT_CELSIUS:
        yield f"the temperature changed by {drift:+.1f} C, more than {DRIFT_CELSIUS:g} C"
    for reason, fraction in w.throttled.items():
        if reason != POWER_CAP and fraction > THROTTLED:
            yield f"{reason} held the clocks for {fraction:.1%} of it"


CHECKS: tuple[Callable[[Record], Iterator[str]], ...] = (
    _commit,
    _error,
    _gates,
    _figures,
    _windows,
)
