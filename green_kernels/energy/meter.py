"""What a meter is: one counter of joules that only grows, and the reason where there is none."""

from typing import Protocol


class Unavailable(RuntimeError):
    """Joules cannot be had here; the message is the reason, and what to do where that is known."""


class Meter(Protocol):
    """The energy counter of one device. `measure` subtracts two readings."""

    name: str  # of the interface: "nvml", "rapl", "rapl (perf)"
    device: str  # what the counter is of: "cuda:0", "cpu"
    tick: float  # seconds between two updates of the counter
    read_within: float | None  # seconds within which to read again, or a wrap is missed

    def fresh(self) -> "Meter":
        """Return a meter of the same counter for one window, that owes nothing to older readings.

        It may be itself, unless it remembers a reading so as to count wraps since.
        """

    def read(self) -> float:
        """Return joules since an arbitrary zero; raise Unavailable where that fails."""
