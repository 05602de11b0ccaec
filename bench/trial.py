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
SCREENING = replace(QUICK, seconds=0.1, rounds=3)
FINALISTS = 4
WORTH = 1.01  # least gain that a row of a table is worth


@dataclass(frozen=True)
class Verdict:
    """What a trial comes to."""

    best: str  # IN_USE where no other is surely WORTH it
    gain: Interval | None  # time, or joules, in use / of the best of the others; None: not known
    tried: int
    wrong: Mapping[str, str]  # why a candidate was not timed


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
    wrong: dict[str, str] = field(default_factory=dict)

    @torch.inference_mode()
    def run(self) -> Verdict:
        """Return which is best; raise Refused where the one in use gives no right result."""
        ready = {name: self._checked(name) for name in self.calls if not self._is_late()}
        ready = {name: calls for name, calls in ready.items() if calls is not None}
        if IN_USE not in ready:
            raise Refused(self._why("the time was up"))
        tried, times = len(ready) - 1, self._times(ready, SCREENING)
        fastest = sorted(times, key=lambda name: statistics.median(times[name]))
        finalists = [IN_USE, *(name for name in fastest if name != IN_USE)][: 1 + FINALISTS]
        gains = self._gains({name: ready[name] for name in finalists})
        if not gains:
            return Verdict(IN_USE, None, tried, self.wrong)
        best = max(gains, key=lambda name: gains[name].value)
        sure = gains[best].sure and gains[best].low > WORTH
        return Verdict(best if sure else IN_USE, gains[best], tried, self.wrong)

    def _checked(self, name: str) -> Ready | None:
        """Return a candidate whose results are right; None, and the reason noted, if not."""
        self.progress(f"checking {name}")
        try:
            with ways.refusing():
                outputs = [call() for call in self.calls[name]]
                self.device.executor.synchronize()
        except Refused as reason:
            self.wrong[name] = str(reason)
            return None
        if not all(map(torch.equal, outputs, self.expected)):
            self.wrong[name] = "its result is not the reference's, bit for bit"
            return None
        return Ready(self.calls[name], graph=True)

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
                self.wrong[name] = str(reason)
        for number in range(protocol.rounds):
            self.progress(f"round {number + 1} of {protocol.rounds}")
            for name in turn(list(times), number):
                try:
                    times[name].append(ways.seconds(batches[name], self.device))
                except Refused as reason:
                    self.wrong[name] = str(reason)
                    del times[name]
        if IN_USE not in times:
            raise Refused(self._why())
        return times

    def _gains(self, ready: Mapping[str, Ready]) -> dict[str, Interval]:
        """Return what is in use / each other finalist, of those that are known."""
        if len(ready) == 1 or self._is_late():
            return {}
        if self.by == "joules":
            found = ways.joules(ready, self.device, self.protocol, self.deadline, self.progress)
            self.wrong |= {n: e.reason for n, e in found.items() if e.reason is not None}
            gains = {name: energy.ratio for name, energy in found.items()}
        else:
            times = self._times(ready, self.protocol)
            own = times[IN_USE]
            gains = {
                name: interval.median([a / b for a, b in zip(own, other, strict=True)])
                for name, other in times.items()
            }
        return {n: gain for n, gain in gains.items() if n != IN_USE and gain is not None}

    def _why(self, otherwise: str = "") -> str:
        return f"what is in use: {self.wrong.get(IN_USE, otherwise)}"

    def _is_late(self) -> bool:
        return self.deadline is not None and self.device.clock() >= self.deadline
