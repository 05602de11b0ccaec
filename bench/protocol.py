"""How long, how often and how strictly: the two protocols of a run."""

from dataclasses import dataclass

from green_kernels import energy


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
    thorough: bool  # warmed up, idle power measured, buffers beyond the cache

    def window_length(self, tick: float) -> float:
        """Return the least seconds of a window on a counter with this tick."""
        return max(self.window_seconds, self.window_ticks * tick)


# A tick at either end may be missed by the time that the counter is read: 20 ticks bound that error
# even unaligned to 5 %; of aligned ones, `blind` is what is left of it.
QUICK = Protocol("quick", 0.3, 5, 1, 1, 0.5, 20, 0.2, False)
FULL = Protocol("full", 1.0, 11, 10, 30, 5.0, 50, 1.0, True)

FINE = 0.0005  # seconds between polls where a tick is expected
BUSY = 0.99  # least fraction of a window in which the GPU works
DRIFT_CELSIUS = 3.0  # most change of temperature within a window
MISMATCH = energy.TOLERANCE  # most that counter and power reading may differ by
HALF_WIDTH = 0.01  # of the interval, relative: converged
OTHERS = 0.05  # most fraction of a CPU's time that other programs may take within a window
REPEATS = 2  # of a window that a gate refused, before the way is given up
POWER_LIMITED = 0.01  # fraction of a window at the power cap from which a figure is labelled
THROTTLED = 0.001  # most fraction of a window in which heat or the power brake held the clocks
SETTLE_SECONDS = 120.0  # at the most, to stand still in
SETTLE_BLOCK = 5.0  # s whose mean power is compared with that of the next
SETTLE_BLOCKS = 3  # at the least
SETTLED_WATTS = 0.01  # relative change from one block to the next
SETTLED_CELSIUS = 0.5  # change over two blocks


def blind(length: float) -> float:
    """Return the most seconds that a tick's time may be unsure by, at the edges of a window.

    It is a thousandth of the window, but not less than reading a counter may take.
    """
    return max(0.002, length / 1000)
