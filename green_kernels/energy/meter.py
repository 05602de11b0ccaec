"""What a meter is: counters of joules that only grow, and the reason where there are none."""

from typing import Protocol


class Unavailable(RuntimeError):
    """Joules cannot be had here; the message is the reason, and what to do where that is known."""


class Meter(Protocol):
    """Counters of one kind. `measure` subtracts two readings, part by part."""

    name: str  # "nvml", "rapl": becomes Measurement.source
    tick: float  # seconds between two updates of the counter
    read_within: float | None  # seconds within which to read again, or a wrap is missed

    def read(self) -> dict[str, float]:
        """Return joules by part, from an arbitrary zero; raise Unavailable where a read fails."""
