"""Run a case: check each way against the baseline, then time all in turn, then meter each."""

import datetime
import statistics
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from green_kernels import energy

from .case import Case, Unavailable, Way
from .record import Record, quartiles

FAULTS = (RuntimeError, ImportError, AssertionError, TypeError, ValueError)
WARM_SECONDS = 0.05  # of calls before a way is timed: caches, pools and clocks settle


def utc() -> str:
    """Return the time now, in UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def find_meter(device: str) -> energy.Meter | str:
    """Return the device's meter, or the reason why it has none."""
    try:
        return energy.find_meters(device)[0]
    except energy.Unavailable as reason:
        return str(reason)


@dataclass
class Runner:
    """How cases are to be run on one machine."""

    device: str
    meter: energy.Meter | str  # or the reason why there is none
    seconds: float = 1.0  # to time each way of a case for, over all rounds
    rounds: int = 7
    ways: Collection[str] = ()  # besides the baseline; empty for all
    assumed_watts: float | None = None
    machine: Mapping[str, Any] = field(default_factory=dict)
    date: str = field(default_factory=utc)
    clock: Callable[[], float] = time.perf_counter
    progress: Callable[[str], None] = lambda step: None

    @torch.inference_mode()
    def run(self, name: str, shape: str, case: Case) -> list[Record]:
        """Return a record for each way of a case, timed or with the reason why not."""
        records = _Records(self, name, shape, case)
        calls = self._check(case, records)
        timed = {way: self._calls(calls[way].call) for way in calls}
        times = self._time(calls, timed)
        for way in calls:
            records.time(way, times[way], timed[way])
        for way in calls:
            self.progress(f"joules of {way}")
            records.joules(way, *self._joules(calls[way].call, timed[way]))
        return records.finish()

    def _check(self, case: Case, records: "_Records") -> dict[str, Way]:
        """Return the ways that may be timed; note the error of each, or why it may not."""
        baseline = next(iter(case.ways))
        expected, right = None, {}
        for name, build in case.ways.items():
            if self.ways and name not in self.ways and name != baseline:
                continue
            self.progress(f"checking {name}")
            try:
                way = _build(build)
                output = case.output(way.call())
            except Unavailable as reason:
                records.leave(name, "unavailable", str(reason))
                continue
            except FAULTS as error:  # of a peer, which must not end the run
                records.leave(name, "refused", f"{type(error).__name__}: {_first_line(error)}")
                continue
            if expected is None:
                if name != baseline:
                    records.leave(name, "refused", f"{baseline} gave nothing to compare with")
                    continue
                expected = output.clone()
            if records.check(name, way, output, expected):
                right[name] = way
        return right

    def _calls(self, call: Callable[[], Any]) -> int:
        """Warm up; return how many calls fill a round's share of the time."""
        done, start = 0, self.clock()
        while True:
            call()
            self._synchronize()
            done += 1
            passed = self.clock() - start
            if passed >= WARM_SECONDS:
                break
        # One call at a time includes a synchronisation that a round of many has once.
        return max(1, round(self.seconds / self.rounds / (passed / done)))

    def _time(self, ways: Mapping[str, Way], calls: Mapping[str, int]) -> dict[str, list[float]]:
        """Seconds per call of each way in each round.

        Rounds start with another way each, and every second one runs backwards, so that a drift
        of the machine's speed meets all ways alike.
        """
        times: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(self.rounds):
            self.progress(f"round {number + 1} of {self.rounds}")
            for name in turn(list(ways), number):
                call = ways[name].call
                self._synchronize()
                start = self.clock()
                for _ in range(calls[name]):
                    call()
                self._synchronize()
                times[name].append((self.clock() - start) / calls[name])
        return times

    def _joules(
        self, call: Callable[[], Any], calls: int
    ) -> tuple[energy.Measurement | None, int, str | None]:
        """Return a window of the meter, the calls in it, and the reason where there is none."""
        if isinstance(self.meter, str):
            return None, 0, self.meter
        done, long = 0, 1.1 * energy.MIN_TICKS * self.meter.tick
        with energy.measure(self.device, meters=[self.meter], clock=self.clock) as window:
            start = self.clock()
            while self.clock() - start < long:
                for _ in range(calls):
                    call()
                self._synchronize()
                done += calls
        return window, done, window.reason

    def _synchronize(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)


def turn(names: list[str], number: int) -> list[str]:
    """Return the order of ways in a round: A B C, C B A, B C A, A C B, C A B, B A C, ..."""
    start = number // 2 % len(names) if names else 0
    order = names[start:] + names[:start]
    return order[::-1] if number % 2 else order


class _Records:
    """The records of one case while it runs: fields by way."""

    def __init__(self, runner: Runner, name: str, shape: str, case: Case):
        self.case, self.runner = case, runner
        self.common = {
            "case": name,
            "kind": case.kind,
            "shape": shape,
            "baseline": next(iter(case.ways)),
            "device": runner.device,
            "flops": case.flops,
            "bytes": case.bytes,
            "date": runner.date,
            "machine": dict(runner.machine),
        }
        self.fields: dict[str, dict[str, Any]] = {}

    def leave(self, way: str, status: str, reason: str, **more: Any) -> None:
        """Note that a way is not timed, and why."""
        self.fields[way] = {"status": status, "reason": reason, **more}

    def check(self, name: str, way: Way, output: Tensor, expected: Tensor) -> bool:
        """Note the error of a way; return whether it may be timed."""
        tolerance = self.case.tolerance if way.tolerance is None else way.tolerance
        figures = {"tolerance": tolerance, "extra": dict(way.extra)}
        figures["dtype"] = way.dtype or self.case.dtype
        if output.shape != expected.shape:
            shapes = f"{tuple(output.shape)}, not {tuple(expected.shape)}"
            self.leave(name, "refused", f"its output has shape {shapes}", **figures)
            return False
        error = self.case.error(output, expected)
        if not error <= tolerance:  # as a NaN is not
            reason = f"off by {error:.3g}, more than {tolerance:.3g}"
            self.leave(name, "refused", reason, error=_finite(error), **figures)
            return False
        # Rounding may take an error measured as a difference from one just below zero.
        self.fields[name] = {"status": "timed", "error": max(0.0, error), **figures}
        return True

    def time(self, way: str, times: list[float], calls: int) -> None:
        """Note the times of a way, and their ratios to the baseline's of the same round."""
        seconds = statistics.median(times)
        watts = self.runner.assumed_watts
        self.fields[way] |= {
            "times": tuple(times),
            "calls": calls,
            "estimated_joules": None if watts is None else watts * seconds,
        }
        baseline = self.fields[self.common["baseline"]]["times"]
        ratios = [base / own for base, own in zip(baseline, times, strict=True)]
        low, high = quartiles(ratios)
        self.fields[way] |= {
            "ratio": statistics.median(ratios),
            "ratio_low": low,
            "ratio_high": high,
        }

    def joules(
        self, way: str, window: energy.Measurement | None, calls: int, reason: str | None
    ) -> None:
        """Note the joules of a way, or why there are none."""
        self.fields[way]["energy_reason"] = reason
        if window is not None:
            self.fields[way] |= {
                "joules": None if window.joules is None else window.joules / calls,
                "energy_status": window.status,
                "energy_source": window.source,
                "energy_seconds": window.seconds,
            }

    def finish(self) -> list[Record]:
        """Return the records, in the order of the case's ways."""
        empty = {
            "dtype": self.case.dtype,
            "reason": None,
            "error": None,
            "tolerance": None,
            "times": (),
            "calls": 0,
            "ratio": None,
            "ratio_low": None,
            "ratio_high": None,
            "joules": None,
            "energy_status": "unavailable",
            "energy_reason": "not run",
            "energy_source": None,
            "energy_seconds": None,
            "assumed_watts": self.runner.assumed_watts,
            "estimated_joules": None,
        }
        return [
            Record(**{**self.common, **empty, "way": way, **fields})
            for way, fields in self.fields.items()
        ]


def _build(build: Callable[[], Way | Callable[[], Any]]) -> Way:
    # Weights made under inference_mode would be inference tensors, which some peers cannot change.
    with torch.inference_mode(False), torch.no_grad():
        way = build()
    return way if isinstance(way, Way) else Way(way)


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "no message")


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
