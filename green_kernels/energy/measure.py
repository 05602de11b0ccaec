"""measure(): a window of time, and the joules that the counters saw pass in it."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from green_kernels.energy.meter import Meter, Unavailable
from green_kernels.energy.nvml import NvmlMeter
from green_kernels.energy.rapl import RaplMeter

MIN_TICKS = 20  # an end of the window is off by up to a tick, so joules by up to 1/20

Device = torch.device | str | int


@dataclass
class Measurement:
    """Joules of one window, filled in when its `with` block ends. Never zero for "not known"."""

    seconds: float | None = None  # wall clock, with the GPU's queue empty at both ends
    joules: float | None = None  # of all parts together; None if any part is not known
    status: str = "unavailable"  # or "measured"
    reason: str | None = "the window is still open"  # why joules is None; None when measured
    source: str | None = None  # "nvml" or "rapl", "nvml+rapl" when both were asked for
    parts: dict[str, float] = field(default_factory=dict)  # joules by GPU or CPU package

    @property
    def watts(self) -> float | None:
        """Mean power in watts, or None where joules are not known."""
        return None if self.joules is None else self.joules / self.seconds


def find_meters(device: Device | Sequence[Device] | None = None) -> list[Meter]:
    """Return the meters of a device, or of several; raise Unavailable with the reason if none.

    A CUDA device has its board's NVML counter, "cpu" the RAPL counters of all packages. None means
    the current CUDA device where torch has one, and the CPU elsewhere.
    """
    devices = [_device(d) for d in _as_list(device)]
    if not devices:
        raise Unavailable("no device was given")
    meters: list[Meter] = []
    boards = sorted({d.index for d in devices if d.type == "cuda"})
    if boards:
        if not torch.cuda.is_available():
            raise Unavailable("torch finds no CUDA device here")
        meters.append(NvmlMeter(boards))
    if any(d.type == "cpu" for d in devices):
        meters.append(RaplMeter())
    for d in devices:
        if d.type not in ("cpu", "cuda"):
            raise Unavailable(f"no energy meter for device {d}; there are meters for cuda and cpu")
    return meters


@contextmanager
def measure(
    device: Device | Sequence[Device] | None = None,
    *,
    meters: Sequence[Meter] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Measurement]:
    """joules = counter(end) - counter(start), of all that the board or package did meanwhile.

        with green_kernels.energy.measure() as window:
            model(x)
        print(window.seconds, window.joules, window.reason)

    device: as for `find_meters`; CUDA devices are synchronised at both ends of the window.
    meters, clock: in place of the machine's own, for tests.

    What cannot be measured does not raise: seconds (s) are there, joules (J) is None, and reason
    says why. A window is refused if it has fewer than 20 ticks of the counter (2 s with NVML), if
    a counter stood still or went back, or if one of the parts could not be read.
    """
    gpus = [d for d in map(_device, _as_list(device)) if d.type == "cuda"]
    window = Measurement()
    try:
        meters = find_meters(device) if meters is None else list(meters)
        unavailable = None
    except Unavailable as reason:
        meters, unavailable = [], str(reason)
    if not meters and unavailable is None:
        unavailable = "no meter was given"
    _synchronize(gpus)
    watch = _Watch(meters, unavailable)
    start = clock()
    try:
        yield window
    except BaseException:
        watch.stop()
        window.reason = "the measured code raised an exception"
        raise
    _synchronize(gpus)
    window.seconds = clock() - start
    try:
        window.parts = watch.joules(window.seconds)
    except Unavailable as reason:
        window.reason = str(reason)
    else:
        window.joules = sum(window.parts.values())
        window.status, window.reason = "measured", None
        window.source = "+".join(meter.name for meter in meters)


class _Watch:
    """The counters of one window: read at the start, often enough, and at the end."""

    def __init__(self, meters: Sequence[Meter], unavailable: str | None):
        self.meters, self.unavailable = meters, unavailable
        self.start: list[dict[str, float]] = []
        self.over = threading.Event()
        self.reader: threading.Thread | None = None
        if unavailable is not None:
            return
        try:
            self.start = [meter.read() for meter in meters]
        except Unavailable as reason:
            self.unavailable = str(reason)
            return
        intervals = [m.read_within for m in meters if m.read_within is not None]
        if intervals:
            self.reader = threading.Thread(target=self._read, args=[min(intervals)], daemon=True)
            self.reader.start()

    def _read(self, interval: float) -> None:
        """Keep reading, so that a meter sees every wrap of its counter in a long window."""
        while not self.over.wait(interval):
            try:
                for meter in self.meters:
                    meter.read()
            except Unavailable as reason:
                self.unavailable = str(reason)
                return

    def stop(self) -> None:
        """End the reading in between."""
        self.over.set()
        if self.reader is not None:
            self.reader.join()

    def joules(self, seconds: float) -> dict[str, float]:
        """Return the joules of each part since the start, or raise Unavailable."""
        self.stop()
        if self.unavailable is not None:
            raise Unavailable(self.unavailable)
        end = [meter.read() for meter in self.meters]
        parts = {}
        for meter, before, after in zip(self.meters, self.start, end, strict=True):
            if seconds < MIN_TICKS * meter.tick:
                raise Unavailable(
                    f"the window of {seconds:.3g} s is too short: {meter.name}'s counter moves "
                    f"every {meter.tick:.3g} s, and {MIN_TICKS} ticks need "
                    f"{MIN_TICKS * meter.tick:.3g} s"
                )
            for part, joules in after.items():
                if joules == before[part]:
                    raise Unavailable(f"the counter of {part} stood still for {seconds:.3g} s")
                if joules < before[part]:
                    raise Unavailable(
                        f"the counter of {part} went back by {before[part] - joules:.3g} J: "
                        "it was reset within the window"
                    )
                parts[part] = joules - before[part]
        if not parts:
            names = ", ".join(meter.name for meter in self.meters)
            raise Unavailable(f"{names} has no counter to read")
        return parts


def _as_list(device: Device | Sequence[Device] | None) -> list[Device]:
    if device is None:
        return ["cuda" if torch.cuda.is_available() else "cpu"]
    return list(device) if isinstance(device, list | tuple) else [device]


def _device(device: Device) -> torch.device:
    """Return the device with its index; "cuda" alone is the current one."""
    device = torch.device(device)
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _synchronize(gpus: Sequence[torch.device]) -> None:
    if torch.cuda.is_available():
        for gpu in gpus:
            torch.cuda.synchronize(gpu)
