"""Calls in batches, one after the other without a gap: a loop on the CPU, a CUDA graph on a GPU."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

Call = Callable[[], Any]
GRAPH_CALLS = 2000  # in one graph, which is then replayed as often: more take seconds to capture


class Running(Protocol):
    """A batch that was started."""

    def done(self) -> bool:
        """Return whether all its calls have ended, without waiting."""

    def span(self) -> tuple[float, float]:
        """Return when it began and ended, in seconds of the device's own clock; once done."""


class Batch(Protocol):
    """A number of calls that start together."""

    calls: int

    def start(self) -> Running:
        """Start them behind what the device has to do already."""


class Executor(Protocol):
    """Makes batches for one device."""

    depth: int  # batches to have started at a time, so that the device never waits for the host

    def batch(self, calls: Sequence[Call], count: int, graph: bool = True) -> Batch:
        """Return a batch of at least `count` calls, each of `calls` in turn."""

    def synchronize(self) -> None:
        """Wait until the device has nothing to do."""


class Cpu:
    """Calls on this thread: a batch has ended when `start` returns."""

    depth = 1

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        """Take times from this clock."""
        self.clock = clock

    def batch(self, calls: Sequence[Call], count: int, graph: bool = True) -> "_Loop":
        """Return a batch of a loop over the calls."""
        return _Loop(list(calls) * -(-count // len(calls)), self.clock)

    def synchronize(self) -> None:
        """Return at once: nothing is in flight."""


class _Loop:
    def __init__(self, calls: list[Call], clock: Callable[[], float]):
        self.list, self.calls, self.clock = calls, len(calls), clock

    def start(self) -> "_Ended":
        begin = self.clock()
        for call in self.list:
            call()
        return _Ended(begin, self.clock())


class _Ended:
    def __init__(self, begin: float, end: float):
        self.begin, self.end = begin, end

    def done(self) -> bool:
        return True

    def span(self) -> tuple[float, float]:
        return self.begin, self.end


class Cuda:
    """Calls on a stream of their own, as CUDA graphs where they can be captured."""

    depth = 3

    def __init__(self, device: str):
        """Make the stream."""
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def batch(self, calls: Sequence[Call], count: int, graph: bool = True) -> "_Launches":
        """Return a batch of a graph; of plain launches if the calls cannot be captured."""
        if graph:
            captured = list(calls) * -(-min(count, GRAPH_CALLS) // len(calls))
            replays = -(-count // len(captured))
            try:
                replay = self._capture(captured).replay
            except RuntimeError:  # it synchronises, or allocates where a capture must not
                torch.cuda.synchronize(self.device)
            else:
                return _Launches(self, [replay] * replays, replays * len(captured))
        calls = list(calls) * -(-count // len(calls))
        return _Launches(self, calls, len(calls))

    def _capture(self, calls: list[Call]) -> torch.cuda.CUDAGraph:
        # The outer block puts the stream back also where the end of a capture fails.
        with torch.cuda.stream(self.stream):
            for call in calls[:3]:  # what a first call sets up must not be captured
                call()
            self.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self.stream):
                for call in calls:
                    call()
        return graph

    def synchronize(self) -> None:
        """Wait until the GPU has nothing to do."""
        torch.cuda.synchronize(self.device)


class _Launches:
    def __init__(self, owner: Cuda, launches: list[Call], calls: int):
        self.owner, self.launches, self.calls = owner, launches, calls
        with torch.cuda.stream(owner.stream):
            self.origin = torch.cuda.Event(enable_timing=True)  # from which its times count
            self.origin.record()

    def start(self) -> "_Events":
        with torch.cuda.stream(self.owner.stream):
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            events[0].record()
            for launch in self.launches:
                launch()
            events[1].record()
        return _Events(self.origin, *events)


class _Events:
    def __init__(self, origin: torch.cuda.Event, begin: torch.cuda.Event, end: torch.cuda.Event):
        self.origin, self.begin, self.end = origin, begin, end

    def done(self) -> bool:
        return self.end.query()

    def span(self) -> tuple[float, float]:
        begin = self.origin.elapsed_time(self.begin) / 1e3
        return begin, begin + self.begin.elapsed_time(self.end) / 1e3
