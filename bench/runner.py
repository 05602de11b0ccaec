"""Run a case: check each way against the baseline, then time all in turn, then measure joules."""

import datetime
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from . import ranks, ways
from .case import Case, Unavailable, Way
from .device import Device
from .execute import Batch
from .figures import Energy
from .joules import turn
from .protocol import QUICK, Protocol
from .record import Record, quartiles
from .ways import Ready, Refused

LATE = "the time budget was spent before its turn"
CHECKING = 0.6  # of the time left for a case, to build and check its ways in


def utc() -> str:
    """Return the time now, in UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


@dataclass
class Runner:
    """How cases are to be run on one device."""

    device: Device
    protocol: Protocol = QUICK
    ways: Collection[str] = ()  # besides the baseline; empty for all
    dtypes: Collection[str] = ()  # likewise
    recipe: str = "normal"  # of the inputs
    seed: int = 0
    assumed_watts: float | None = None
    machine: Mapping[str, Any] = field(default_factory=dict)
    date: str = field(default_factory=utc)
    progress: Callable[[str], None] = lambda step: None

    @torch.inference_mode()
    def run(
        self, name: str, shape: str, build: Callable[[str], Case], deadline: float | None = None
    ) -> list[Record]:
        """Return a record for each way of a case, timed or with the reason why not.

        build: the case on a device; called again for each copy of its buffers.
        deadline: by the device's clock, after which nothing more is started.
        """
        self.progress("building")
        try:
            cases = [self._build(build, 0)]
            for copy in range(1, self._copies(cases[0])):
                cases.append(self._build(build, copy))
        except (Unavailable, Refused) as reason:  # such as activations of a model not installed
            cases = [Case.unavailable("op", Unavailable(str(reason)))]
        records = _Records(self, name, shape, cases)
        ready = self._check(cases, records, deadline)
        times, batches = self._time(ready, records, deadline)
        for way in ready:
            records.time(way, times[way], batches[way].calls)
        for way in ready:
            if records.qualities[way] is not None and not self._is_late(deadline):
                self.progress(f"quality of {way}")
                records.quality(way)
        if ready:
            found = ways.joules(ready, self.device, self.protocol, deadline, self.progress)
            for way, energy in found.items():
                records.joules(way, energy)
        return records.finish()

    def _build(self, build: Callable[[str], Case], copy: int) -> Case:
        return ways.build(build, self.device, self.recipe, self.seed + copy)

    def _copies(self, case: Case) -> int:
        """Return how many copies of the buffers exceed the cache; one in the quick protocol."""
        if not self.protocol.thorough or case.kind == "model":
            return 1
        return ways.copies(self.device, case.bytes)

    def _check(
        self, cases: Sequence[Case], records: "_Records", deadline: float | None
    ) -> dict[str, Ready]:
        """Return the ways that may be timed; note the error of each, or why it may not.

        cases: the same case on each copy of its buffers
        """
        case = cases[0]
        if deadline is not None:  # or there would be no time left to time what was checked
            now = self.device.clock()
            deadline = now + CHECKING * (deadline - now)
        baseline = next(iter(case.ways))
        expected, ready = None, {}
        for name in sorted(case.ways, key=lambda name: _turn(name, baseline)):
            if self.ways and name not in self.ways and name != baseline:
                continue
            if self._is_late(deadline):
                records.leave(name, "unavailable", LATE)
                continue
            self.progress(f"checking {name}")
            try:
                made = [ways.make(one, name) for one in cases]
                if self.dtypes and made[0].dtype not in self.dtypes and name != baseline:
                    continue
                start = self.device.clock()
                pairs = zip(cases, made, strict=True)
                outputs = [ways.output(one, way, self.device) for one, way in pairs]
                seconds = (self.device.clock() - start) / len(made)
            except Unavailable as reason:
                records.leave(name, "unavailable", str(reason))
                continue
            except Refused as reason:
                records.leave(name, "refused", str(reason))
                continue
            if expected is None:
                if name != baseline:
                    records.leave(name, "refused", f"{baseline} gave nothing to compare with")
                    continue
                expected = [output.clone() for output in outputs]
            if records.check(name, made[0], outputs, expected):
                ready[name] = Ready([way.call for way in made], case.graph, seconds)
                records.qualities[name] = made[0].quality
        return ready

    def _time(
        self, ready: dict[str, Ready], records: "_Records", deadline: float | None
    ) -> tuple[dict[str, list[float]], dict[str, Batch]]:
        """Return seconds per call of each way in each round, and the batches that were timed.

        Rounds start with another way each, and every second one runs backwards, so that a drift
        of the machine's speed meets all ways alike.
        """
        share = self.protocol.seconds / self.protocol.rounds
        batches = {}
        for name, way in list(ready.items()):
            # It is called twice at the least: to warm up, and in a round.
            if batches and self._is_late(deadline, ahead=2 * way.seconds):
                records.leave(name, "unavailable", LATE)
                del ready[name]
                continue
            self.progress(f"warming up {name}")
            try:
                with ways.refusing():
                    batches[name] = way.batch(self.device, share)
            except Refused as reason:
                records.drop(name, reason, ready)
                if not ready:
                    return {}, {}
        times: dict[str, list[float]] = {name: [] for name in ready}
        for number in range(self.protocol.rounds):
            if number and self._is_late(deadline):  # one round is the least there is
                break
            self.progress(f"round {number + 1} of {self.protocol.rounds}")
            for name in turn(list(ready), number):
                if name not in ready:  # the baseline failed in this very round
                    continue
                try:
                    times[name].append(ways.seconds(batches[name], self.device))
                except Refused as reason:
                    records.drop(name, reason, ready)
        return times, batches

    def _is_late(self, deadline: float | None, ahead: float = 0.0) -> bool:
        return deadline is not None and self.device.clock() + ahead >= deadline


class _Records:
    """The records of one case while it runs: fields by way."""

    def __init__(self, runner: Runner, name: str, shape: str, cases: Sequence[Case]):
        self.case, self.runner = cases[0], runner
        case, copies = cases[0], len(cases)
        cache = runner.device.cache_bytes
        self.common = {
            "case": name,
            "kind": case.kind,
            "shape": shape,
            "baseline": next(iter(case.ways)),
            "device": runner.device.name,
            "data": case.data or runner.recipe,
            "seed": runner.seed,
            "copies": copies,
            "cold": cache is not None and copies * case.bytes > cache,
            "protocol": runner.protocol.name,
            "flops": case.flops,
            "bytes": case.bytes,
            "date": runner.date,
            "machine": dict(runner.machine),
            "items": dict(case.items),
            "rank": ranks.rank(),
        }
        self.fields: dict[str, dict[str, Any]] = {}
        self.qualities: dict[str, Callable[[], Mapping[str, float]] | None] = {}

    def leave(self, way: str, status: str, reason: str, **more: Any) -> None:
        """Note that a way is not timed, and why."""
        energy = Energy(reason=f"not timed: {reason}")
        self.fields[way] = {"status": status, "reason": reason, "energy": energy, **more}

    def drop(self, way: str, reason: Refused, ready: dict[str, Ready]) -> None:
        """Note that a way failed while it was timed; without the baseline there are no ratios."""
        baseline = self.common["baseline"]
        for name in list(ready) if way == baseline else [way]:
            words = str(reason) if name == way else f"{baseline} failed: {reason}"
            self.leave(name, "refused", words)
            del ready[name]

    def check(self, name: str, way: Way, outputs: list[Tensor], expected: list[Tensor]) -> bool:
        """Note the error of a way, the largest over the copies; return whether to time it."""
        figures = {
            "tolerance": way.tolerance,
            "extra": dict(way.extra),
            "dtype": way.dtype,
            "executed_flops": way.executed_flops,
        }
        error, reason = ways.error_of(self.case, way, outputs, expected)
        if reason is not None:
            self.leave(name, "refused", reason, error=error, **figures)
            return False
        self.fields[name] = {"status": "timed", "error": error, **figures}
        return True

    def time(self, way: str, times: list[float], calls: int) -> None:
        """Note the times of a way, and their ratios to the baseline's of the same round."""
        watts = self.runner.assumed_watts
        self.fields[way] |= {
            "times": tuple(times),
            "calls": calls,
            "estimated_joules": None if watts is None else watts * statistics.median(times),
        }
        baseline = self.fields[self.common["baseline"]]["times"]
        ratios = [base / own for base, own in zip(baseline, times, strict=True)]
        low, high = quartiles(ratios)
        self.fields[way] |= {
            "ratio": statistics.median(ratios),
            "ratio_low": low,
            "ratio_high": high,
        }

    def quality(self, way: str) -> None:
        """Note how good the answers of a way are."""
        self.fields[way]["quality"] = dict(self.qualities[way]())

    def joules(self, way: str, energy: Energy) -> None:
        """Note the joules of a way, or why there are none."""
        self.fields[way]["energy"] = energy

    def finish(self) -> list[Record]:
        """Return the records, in the order of the case's ways."""
        empty = {
            "dtype": self.case.dtype,
            "reason": None,
            "error": None,
            "tolerance": None,
            "executed_flops": self.case.flops,
            "times": (),
            "calls": 0,
            "ratio": None,
            "ratio_low": None,
            "ratio_high": None,
            "assumed_watts": self.runner.assumed_watts,
            "estimated_joules": None,
        }
        return [
            Record(**{**self.common, **empty, "way": way, **self.fields[way]})
            for way in self.case.ways
            if way in self.fields
        ]


def _turn(name: str, baseline: str) -> int:
    """Return when a way is built: the baseline, ours, peers, and what must be compiled."""
    if name == baseline:
        return 0
    return 3 if "compile" in name else 1 if name.startswith("ours") else 2
