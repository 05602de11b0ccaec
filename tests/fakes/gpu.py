"""A simulated GPU for the bench: batches of known seconds and watts on a board of the fake NVML."""

import heapq
from itertools import count

from fakes.clock import Clock
from green_kernels.bench.device import Gpu
from green_kernels.energy import NvmlMeter
from green_kernels.energy.nvml import boards


class EventClock(Clock):
    """A clock that does what is due while time passes."""

    def __init__(self, now=100.0):
        super().__init__(now)
        self.events, self.order = [], count()

    def at(self, time, do):
        """Have something done at a time."""
        heapq.heappush(self.events, (time, next(self.order), do))

    def sleep(self, seconds):
        until = self.now + seconds
        while self.events and self.events[0][0] <= until:
            self.now, _, do = heapq.heappop(self.events)
            do()
        self.now = max(self.now, until)


class FakeCall:
    """What a way calls: it takes `seconds` at `watts` (a number, or a function of the time)."""

    def __init__(self, seconds, watts, output=None):
        self.seconds, self.watts, self.output = seconds, watts, output

    def __call__(self):
        return self.output


class FakeExecutor:
    """Queues batches behind each other on a board.

    gap: seconds between them, in which it idles. scale: what its events show for each second.
    """

    depth = 3

    def __init__(self, clock, board, gap=0.0):
        self.clock, self.board, self.gap, self.scale = clock, board, gap, 1.0
        self.idle_watts, self.free = board.demand, clock()

    def batch(self, calls, count, graph=True):
        return FakeBatch(self, list(calls) * -(-count // len(calls)))

    def synchronize(self):
        self.clock.sleep(max(0.0, self.free - self.clock()))

    def start(self, seconds, watts):
        begin = max(self.clock(), self.free + self.gap)
        end = self.free = begin + seconds
        self.clock.at(begin, lambda: self.board.set_power(watts))
        self.clock.at(end, lambda: self._rest(end))
        return begin, end

    def _rest(self, end):
        if self.free == end or self.gap:
            self.board.set_power(self.idle_watts)


class FakeBatch:
    def __init__(self, executor, calls):
        self.executor, self.list, self.calls = executor, calls, len(calls)
        self.seconds = sum(call.seconds for call in calls)

    def start(self):
        now = self.executor.clock()
        watts = [call.watts(now) if callable(call.watts) else call.watts for call in self.list[:1]]
        return FakeRunning(self.executor, *self.executor.start(self.seconds, watts[0]))


class FakeRunning:
    def __init__(self, executor, begin, end):
        self.executor, self.begin, self.end = executor, begin, end

    def done(self):
        return self.executor.clock() >= self.end

    def span(self):
        return self.begin * self.executor.scale, self.end * self.executor.scale


def fake_gpu(nvml, clock, index=0, gap=0.0):
    """The bench's device on a board of a `FakeNvml` whose clock is an `EventClock`."""
    nvml.nvmlInit()
    board = boards(nvml)[index]
    return Gpu(
        board,
        name="cuda",
        executor=FakeExecutor(clock, nvml.boards[index], gap),
        meter=NvmlMeter(board),
        cache_bytes=50 * 2**20,
        clock=clock,
        sleep=clock.sleep,
    )
