"""A meter of known watts, to test what is built on meters where no counter can be read."""

import time
from collections.abc import Callable


class FakeMeter:
    """joules = watts x time, published once per tick: what a real counter would show.

    watts: may be set anew at any time; what passed before stays counted.
    device: the name under which `measure` reports it. identity: of the board, if another's.
    tick: seconds between two updates. clock: seconds, for tests that simulate time.
    """

    name = "fake"
    read_within = None

    def __init__(
        self,
        watts: float = 50.0,
        device: str = "cpu",
        tick: float = 0.001,
        clock: Callable[[], float] = time.perf_counter,
        identity: str | None = None,
    ):
        """Start counting."""
        self.device, self.tick, self.clock = device, tick, clock
        self.identity = device if identity is None else identity
        self._watts, self._joules = watts, 0.0
        self._start = self._time = clock()

    def fresh(self) -> "FakeMeter":
        """Return itself: no reading depends on another."""
        return self

    @property
    def watts(self) -> float:
        """The power drawn now."""
        return self._watts

    @watts.setter
    def watts(self, watts: float) -> None:
        now = self.clock()
        self._joules += self._watts * (now - self._time)
        self._watts, self._time = watts, now

    def read(self) -> float:
        """Return joules up to the last tick."""
        passed = self.clock() - self._start
        tick = self._start + int(passed / self.tick + 1e-6) * self.tick
        return self._joules + self._watts * max(tick - self._time, 0.0)
