"""What a record says of joules: windows of the counter, intervals over them, and each gate."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval; low and high are None where one window is all there is."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def sure(self) -> bool:
        """Whether there is an interval, both ends of it."""
        return self.low is not None and self.high is not None


@dataclass(frozen=True)
class Window:
    """One window of one way, between two ticks of the counter."""

    seconds: float
    joules: float  # gross: of all that the device did
    ticks: float  # of the counter, in the window
    seconds_per_call: float  # by the device's own events, in this window
    busy: float | None = None  # fraction of the window in which the device worked
    celsius: tuple[float, ...] = ()  # at the start and at the end
    sm_mhz: tuple[float, ...] = ()  # mean and least
    throttled: dict[str, float] = field(default_factory=dict)  # fraction of the window by reason
    cycle: int = 0  # windows of one cycle of ways are compared with each other

    @property
    def watts(self) -> float:
        """Mean power, gross."""
        return self.joules / self.seconds

    @property
    def joules_per_call(self) -> float:
        """Mean power times the time of a call, which no edge of the window touches."""
        return self.watts * self.seconds_per_call


@dataclass(frozen=True)
class Energy:
    """Joules of one way. Where a gate failed, its figure is None and `failed` says why."""

    status: str = "unavailable"  # or "measured"
    reason: str | None = "not run"  # why joules is None; None when measured
    source: str | None = None  # "nvml", "rapl"
    joules: Interval | None = None  # per call, gross; the median over windows
    net: Interval | None = None  # per call, less the idle power measured between the windows
    difference: Interval | None = None  # per call, this way less the baseline of the same cycle
    ratio: Interval | None = None  # the baseline's joules / this way's, of the same cycle
    idle_watts: float | None = None
    converged: bool | None = None  # half the interval is within 1 % of joules
    power_limited: bool | None = None  # it ran at the board's power limit: legal, but labelled
    net_reason: str | None = None  # why net is None where joules is not
    repeated: int = 0  # windows that a gate refused and that were measured anew
    failed: dict[str, str] = field(default_factory=dict)  # reason by gate, each of joules
    windows: tuple[Window, ...] = ()
