"""Accept or reject a folder of results by its records alone, without trust in who wrote them."""

import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import check_energy
from .check_energy import EXACT
from .protocol import MISMATCH
from .record import Record, quartiles
from .schema import CorruptRecord, lines
from .words import group

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
    ways = {_run(line.record, line.record.way): line.record for line in reversed(records)}
    for line in records:
        r = line.record
        base = ways.get(_run(r, r.baseline))
        problems += [line.problem(what) for check in CHECKS for what in check(r)]
        problems += [line.problem(what) for check in COMPARED for what in check(r, base)]
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
    return *_run(line.record, line.record.way), line.record.dtype


def _run(r: Record, way: str) -> tuple:
    """Return what names this way in the run of a record, whatever its dtype."""
    return r.case, r.shape, way, r.data, r.protocol, r.device, r.rank, r.date


def _sensors(folder: Path, lines: list[_Line]) -> Iterator[Problem]:
    """Check the records of the GPUs' energy counters, which joules by NVML stand on."""
    drivers = group((line.record for line in lines if _uuid(line.record)), _uuid)
    drivers = {uuid: {_driver(r) for r in records} for uuid, records in drivers.items()}
    found = set()
    for file in sorted(folder.glob("sensor*.json")):
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
        found.add(str(sensor.get("uuid")))
        yield from (Problem(file, None, what) for what in _sensor(sensor, drivers))
    for line in lines:
        r = line.record
        nvml = r.joules is not None and r.energy.source == "nvml" and r.protocol == "full"
        if nvml and _uuid(r) not in found:
            what = "joules by NVML need a sensor*.json, which says that the counter agrees with"
            yield line.problem(f"{what} power, of the GPU {_uuid(r)}")
            found.add(_uuid(r))  # once for each GPU


def _sensor(sensor: dict[str, Any], drivers: dict[str, set]) -> Iterator[str]:
    """Check one GPU's sensor; drivers: of the records, by the uuid of their GPU."""
    apart, uuid = sensor.get("disagreement"), str(sensor.get("uuid"))
    disagree = "the energy counter and the power sensor disagree"
    if sensor.get("agrees") is not True:
        yield f"{disagree}: agrees is {sensor.get('agrees')!r}"
    elif type(apart) not in (int, float) or not 0 <= apart <= MISMATCH:
        yield f"{disagree}: disagreement must be 0 to {MISMATCH:g}, got {apart!r}"
    if drivers and uuid not in drivers:
        got = f"{uuid!r}, the records' is {', '.join(sorted(drivers))}"
        yield f"it is of another GPU: its uuid is {got}"
    elif drivers and {sensor.get("driver")} != drivers[uuid]:
        got = f"{sensor.get('driver')!r}, the records' is {', '.join(map(repr, drivers[uuid]))}"
        yield f"it is of another driver: {got}"


def _uuid(r: Record) -> str | None:
    return r.machine.get("gpu_uuid")


def _driver(r: Record) -> str | None:
    board = r.machine.get("board")
    return r.machine.get("driver") or (board.get("driver") if isinstance(board, dict) else None)


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


def _flops(r: Record) -> Iterator[str]:
    if not min(r.flops, 1) <= r.executed_flops <= r.flops:
        yield f"executed_flops is {r.executed_flops}, of {r.flops} flops of the dense mathematics"


def _time_ratio(r: Record, base: Record | None) -> Iterator[str]:
    """Check the ratio and its quartiles against the times of both."""
    if not r.times:
        return
    if base is None or not base.times:
        yield f"its ratio has no times of the baseline, {r.baseline}, in this run to stand on"
        return
    if len(base.times) == len(r.times):
        ratios = [base / own for base, own in zip(base.times, r.times, strict=True)]
        low, high = quartiles(ratios)
        exact = {"ratio": statistics.median(ratios), "ratio_low": low, "ratio_high": high}
        bounds = {name: (value, value) for name, value in exact.items()}
    else:  # whichever rounds belong together
        all_of_them = min(base.times) / max(r.times), max(base.times) / min(r.times)
        bounds = dict.fromkeys(("ratio", "ratio_low", "ratio_high"), all_of_them)
    for name, (low, high) in bounds.items():
        own = getattr(r, name)
        if not low * (1 - EXACT) <= own <= high * (1 + EXACT):
            by = f"{low:.6g}" if low == high else f"within {low:.6g} - {high:.6g}"
            yield f"{name} is {own:.6g}, by its times and the baseline's it is {by}"


CHECKS: tuple[Callable[[Record], Iterator[str]], ...] = (
    _commit,
    _error,
    _flops,
    check_energy.gates,
    check_energy.joules,
    check_energy.net,
    check_energy.labels,
    check_energy.windows,
)
COMPARED: tuple[Callable[[Record, Record | None], Iterator[str]], ...] = (
    _time_ratio,
    check_energy.against_baseline,
)
