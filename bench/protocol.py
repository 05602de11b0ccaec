"""How long, how often and how strictly: the two protocols of a run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """What a run asks of its timing and of its windows of energy."""

    name: str
    seconds: float  # to time each way of a case for, over all rounds
    rounds: int
    windows: int  # least number for each way
    most_windows: int  # by which it has converged, or is said not to have
    window_seconds: float  # least length of a window
    window_ticks: int  # least ticks of the counter in a window
    lead_seconds: float  # of the way's own load before each of its windows, for power to settle
    thorough: bool  # surroundings checked, warmed up, idle power measured, buffers beyond the cache

    def window_length(self, tick: float) -> float:
        """Return the least seconds of a window on a counter with this tick."""
        return max(self.window_seconds, self.window_ticks * tick)


# A tick at either end may be missed by the time that the counter is read: 20 ticks bound that error
# even unaligned to 5 %, 50 aligned ones to a poll's jitter, some 1 ms in 5 s.
QUICK = Protocol("quick", 0.3, 5, 1, 1, 0.1, 20, 0.2, False)
FULL = Protocol("full", 1.0, 11, 10, 30, 5.0, 50, 1.0, True)

BUSY = 0.99  # least fraction of a window in which the GPU works
DRIFT_CELSIUS = 3.0  # most change of temperature within a window
MISMATCH = 0.05  # most that counter and power reading may differ by: NVML's stated accuracy
HALF_WIDTH = 0.01  # of the interval, relative: converged
REPEATS = 2  # of a window that a gate refused, before the way is given up
THROTTLED = 0.001  # most fraction of a window in which heat or the power brake held the clocks
SETTLE_SECONDS = 120.0  # at the most, to stand still in
SETTLED_WATTS = 0.01  # relative change from one 5 s block to the next
SETTLED_CELSIUS = 0.5  # change in 10 s
