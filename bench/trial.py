"""Which of several ways to launch one product is best: all right, then fast, then surely better.

Each candidate must give the reference's bits. All are timed in turn, briefly; the fastest come into
a final, where they are timed, or their joules measured, by the full protocol beside the one that is
in use. So the best of many is not taken for better where it was lucky once.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from . import interval, ways
from .device import Device
from .figures import Interval
from .joules import turn
from .protocol import FULL, QUICK, Protocol
from .ways import Ready, Refused

IN_USE = "in use"  # the name of what is launched where nothing is tuned
HEAT = 8  # candidates timed beside it at a time: the CUDA graph of each keeps memory
SCREENING = replace(QUICK, seconds=0.1, rounds=3)
FINALISTS = 4
# Of the time there is: when checking ends, which may compile each candidate, and when the heats do.
CHECKED, SCREENED = 0.5, 0.7
WORTH = 1.01  # least gain that a row of a table is worth


@dataclass(frozen=True)
class Verdict:
    """What a trial comes to."""

    best: str  # IN_USE where no other is surely WORTH it
    gain: Interval | None  # time, or joules, in use / of the best of the others
    reason: str | None  # why gain is None
    timed: int  # candidates
    left: int  # for which there was no time
    wrong: Sequence[str]  # those with other bits than the reference
    failed: Mapping[str, str]  # why those that raised did


@dataclass
class Trial:
    """Candidates for one product on one device."""

    device: Device
    calls: Mapping[str, Sequence[Callable[[], Tensor]]]  # by name: one for each copy of its buffers
    expected: Sequence[Tensor]  # of each copy
    by: str  # "time" or "joules"
    protocol: Protocol = FULL  # of the final
    deadline: float | None = None  # by the device's clock
    progress: Callable[[str], None] = lambda step: None
    wrong: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    _start: float = 0.0  # by the device's clock

    @torch.inference_mode()
    def run(self) -> Verdict:
        """Return which is best; raise Refused where the one in use gives no right result."""
        self._start = self.device.clock()
        ready = {name: way for name in self.calls if (way := self._checked(name))}
        if IN_USE in self.wrong:
            raise Refused("the result of what is in use is not the reference's, bit for bit")
        if IN_USE not in ready:
            raise Refused(f"what is in use: {self.failed[IN_USE]}")
        speeds = self._screened(ready)
        fastest = sorted(speeds, key=speeds.get, reverse=True)[:FINALISTS]
        gains, reason = self._gains({name: ready[name] for name in (IN_USE, *fastest)})
        best = max(gains, key=lambda name: gains[name].value, default=None)
        sure = best is not None and gains[best].sure and gains[best].low > WORTH
        return Verdict(
            best if sure else IN_USE,
            gains.get(best),
            None if gains else reason,
            len(speeds),
            len(self.calls.keys() - {IN_USE} - speeds.keys() - self.failed.keys() - {*self.wrong}),
            self.wrong,
            self.failed,
        )

    def _checked(self, name: str) -> Ready | None:
        """Return a candidate whose results are right; None, and it noted, if not."""
        if name != IN_USE and self._is_late(CHECKED):
            return None
        self.progress(f"checking {name}")
        try:
            with ways.refusing():
                outputs = [call() for call in self.calls[name]]
                self.device.executor.synchronize()
        except Refused as reason:
            self.failed[name] = str(reason)
            return None
        if not all(map(torch.equal, outputs, self.expected)):
            self.wrong.append(name)
            return None
        return Ready(self.calls[name], graph=True)

    def _screened(self, ready: Mapping[str, Ready]) -> dict[str, float]:
        """Return how fast each candidate is, to what is in use, in heats."""
        others, speeds = [name for name in ready if name != IN_USE], {}
        for i in range(0, len(others), HEAT):
            heat = {name: ready[name] for name in (IN_USE, *others[i : i + HEAT])}
            times = self._times(heat, SCREENING)
            own = statistics.median(times.pop(IN_USE))
            speeds |= {name: own / statistics.median(other) for name, other in times.items()}
            if self._is_late(SCREENED):
                break
        return speeds

    def _times(self, ready: Mapping[str, Ready], protocol: Protocol) -> dict[str, list[float]]:
        """Return seconds of a call in each round, of those that went through all rounds."""
        share, batches = protocol.seconds / protocol.rounds, {}
        times: dict[str, list[float]] = {}
        for name, way in ready.items():
            self.progress(f"warming up {name}")
            try:
                with ways.refusing():
                    batches[name] = way.batch(self.device, share)
                times[name] = []
            except Refused as reason:
                self.failed[name] = str(reason)
        for number in range(protocol.rounds):
            self.progress(f"round {number + 1} of {protocol.rounds}")
            for name in turn(list(times), number):
                try:
                    times[name].append(ways.seconds(batches[name], self.device))
                except Refused as reason:
                    self.failed[name] = str(reason)
                    del times[name]
        if IN_USE not in times:
            raise Refused(f"what is in use: {self.failed[IN_USE]}")
        return times

    def _gains(self, ready: Mapping[str, Ready]) -> tuple[dict[str, Interval], str | None]:
        """Return what is in use / each other finalist, and why none is known."""
        if self._is_late():
            return {}, "the time was up"
        if self.by == "joules":
            found = ways.joules(ready, self.device, self.protocol, self.deadline, self.progress)
            gains = {name: energy.ratio for name, energy in found.items() if energy.ratio}
            reasons = {name: energy.reason for name, energy in found.items() if energy.reason}
            self.failed |= {name: reasons[name] for name in reasons if name != IN_USE}
            reason = next(iter(reasons.values()), None)
        else:
            times, reason = self._times(ready, self.protocol), None
            own = times[IN_USE]
            gains = {
                name: interval.median([a / b for a, b in zip(own, other, strict=True)])
                for name, other in times.items()
            }
        gains.pop(IN_USE, None)
        return gains, reason or "no other could be timed"

    def _is_late(self, part: float = 1.0) -> bool:
        """Whether this part of the time for the trial is over."""
        if self.deadline is None:
            return False
        return self.device.clock() - self._start >= part * (self.deadline - self._start)
