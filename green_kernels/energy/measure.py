"""measure(): a window of time, and the joules that the counters saw pass in it."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from green_kernels.energy.devices import (
    board,
    default_device,
    device_name,
    synchronize,
    torch_with_cuda,
)
from green_kernels.energy.meter import Meter, Unavailable
from green_kernels.energy.nvml import NvmlMeter
from green_kernels.energy.perf import cpu_meter

if TYPE_CHECKING:
    from green_kernels.energy.devices import Device

MIN_TICKS = 20  # an end of the window is off by up to a tick, so joules by up to 1/20


@dataclass
class Measurement:
    """One window, filled in when its `with` block ends. What is not known is None, never zero."""

    seconds: float | None = None  # wall clock, with the GPUs' queues empty at both ends
    joules: dict[str, float | None] = field(default_factory=dict)  # by device: "cuda:0", "cpu"
    reasons: dict[str, str] = field(default_factory=dict)  # of the devices whose joules are None
    sources: dict[str, str] = field(default_factory=dict)  # the counter's name: "nvml", "rapl"
    identities: dict[str, str] = field(default_factory=dict)  # a board's UUID, or "cpu"
    status: str = "unavailable(the window is still open)"  # or "measured"

    @property
    def total(self) -> float | None:
        """Joules of all devices, each board once; None if those of any are not known."""
        if not self.joules or None in self.joules.values():
            return None
        return sum({self.identities.get(d, d): j for d, j in self.joules.items()}.values())

    @property
    def watts(self) -> dict[str, float | None]:
        """Mean power by device, None where joules are not known."""
        known = {d: j for d, j in self.joules.items() if j is not None and self.seconds}
        return {d: known[d] / self.seconds if d in known else None for d in self.joules}

    def _refuse(self, reasons: dict[str, str], otherwise: str | None = None) -> None:
        """Set what is not known, and the status; `otherwise` is the reason if nothing was."""
        self.reasons = reasons
        self.joules.update(dict.fromkeys(reasons))
        if not self.joules:
            self.status = f"unavailable({otherwise})"
        elif not reasons:
            self.status = "measured"
        elif len(reasons) == len(self.joules) and len(set(reasons.values())) == 1:
            self.status = f"unavailable({next(iter(reasons.values()))})"
        else:
            all_reasons = "; ".join(f"{device}: {reason}" for device, reason in reasons.items())
            self.status = f"unavailable({all_reasons})"


@contextmanager
def measure(
    devices: "Device | Sequence[Device] | None" = None,
    *,
    meters: Sequence[Meter] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Measurement]:
    """joules = counter(end) - counter(start), of all that each device did meanwhile.

        with green_kernels.energy.measure() as window:
            model(x)
        print(window.seconds, window.joules, window.status)

    devices: as for `find_meters`. CUDA devices are synchronised at both ends of the window.
    meters, clock: in place of the machine's own, for tests.

    What cannot be measured does not raise: seconds (s) are there, the joules (J) of that device
    are None, and `reasons` and `status` say why. A device is refused if the window has fewer than
    20 ticks of its counter (2 s with NVML), or if the counter failed, stood still or went back.
    """
    if meters is None:
        found, empty = find_meters(devices), "no device was given"
    else:
        found, empty = _by_device(meters), "no meter was given"
    window = Measurement(
        sources={d: m.name for d, m in found.items() if not isinstance(m, Unavailable)},
        identities={d: _identity(d, m) for d, m in found.items()},
    )
    window._refuse(dict.fromkeys(found, "the window is still open"), empty)
    synchronize(found)
    watch = _Watch(found)
    start = clock()
    try:
        yield window
        synchronize(found)
    except BaseException:
        watch.stop()
        window._refuse(dict.fromkeys(found, "the measured code raised an exception"), empty)
        raise
    window.seconds = clock() - start
    window.joules.update(watch.joules(window.seconds))
    window._refuse(watch.reasons, empty)


def find_meters(
    devices: "Device | Sequence[Device] | None" = None,
) -> dict[str, Meter | Unavailable]:
    """Return the meter of each device, or the reason why it has none.

    devices: one or several of "cuda", "cuda:1", a torch.device, the index of a CUDA device, and
    "cpu", which stands for all CPU packages. None is the current CUDA device where torch has one,
    and the CPU elsewhere. Names of one device count once. Meters are looked for once per process.
    """
    if devices is None:
        devices = [default_device()]
    elif not isinstance(devices, list | tuple | set):
        devices = [devices]
    return {name: _meter(name) for name in dict.fromkeys(map(device_name, devices))}


SUSPENDED = 0.01  # s, far above what two clocks differ by when they are read in turn


def suspended_seconds() -> float:
    """Return the seconds that this machine has slept since it was booted; 0 where none can tell.

    While it sleeps perf_counter stands still, and counters of joules may not.
    """
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


class _Watch:
    """The counters of one window: read at the start, often enough, and at the end."""

    def __init__(self, found: dict[str, Meter | Unavailable]):
        self.reasons: dict[str, str] = {}
        self.meters: dict[str, Meter] = {}
        self.start: dict[str, float] = {}
        self.over = threading.Event()
        self.reader: threading.Thread | None = None
        self.suspended = suspended_seconds()
        for device, meter in found.items():
            if isinstance(meter, Unavailable):
                self.reasons[device] = str(meter)
                continue
            try:
                self.meters[device] = meter.fresh()
                self.start[device] = self.meters[device].read()
            except Unavailable as reason:
                self.reasons[device] = str(reason)
        wrapping = [d for d in self.start if self.meters[d].read_within is not None]
        if wrapping:
            self.reader = threading.Thread(target=self._read, args=[wrapping], daemon=True)
            self.reader.start()

    def _read(self, devices: list[str]) -> None:
        """Keep reading, so that a meter sees every wrap of its counter in a long window."""
        interval = min(self.meters[device].read_within for device in devices)
        while not self.over.wait(interval):
            for device in devices:
                try:
                    self.meters[device].read()
                except Exception as error:  # whatever it is, a wrap may be missed from now on
                    self.reasons.setdefault(device, str(error))

    def stop(self) -> None:
        """End the reading in between."""
        self.over.set()
        if self.reader is not None:
            self.reader.join()

    def joules(self, seconds: float) -> dict[str, float]:
        """Return the joules of each device since the start; `reasons` has those left out."""
        self.stop()
        joules = {}
        slept = suspended_seconds() - self.suspended
        for device, start in self.start.items():
            meter = self.meters[device]
            try:
                if device in self.reasons:
                    continue
                end = meter.read()
                if slept > SUSPENDED:
                    raise Unavailable(f"the machine was suspended for {slept:.3g} s in the window")
                if seconds < MIN_TICKS * meter.tick:
                    raise Unavailable(
                        f"window of {seconds:.3g} s is shorter than {MIN_TICKS} counter ticks"
                    )
                if end == start:
                    raise Unavailable(f"the counter of {device} stood still for {seconds:.3g} s")
                if end < start:
                    raise Unavailable(
                        f"the counter of {device} went back by {start - end:.3g} J: "
                        "it was reset within the window"
                    )
                joules[device] = end - start
            except Unavailable as reason:
                self.reasons[device] = str(reason)
        return joules


_found: dict[tuple, Meter | Unavailable] = {}  # by process and by what decides which board it is


def _meter(device: str) -> Meter | Unavailable:
    """Return the meter of a device. A forked process looks again: NVML does not survive a fork."""
    settings = os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("CUDA_DEVICE_ORDER")
    key = (os.getpid(), device, settings, torch_with_cuda() is not None)
    if key not in _found:
        try:
            _found[key] = _look_for(device)
        except Unavailable as reason:
            _found[key] = Unavailable(str(reason))
    return _found[key]


def _look_for(device: str) -> Meter:
    if device == "cpu":
        return cpu_meter()
    if device.startswith("cuda:"):
        return NvmlMeter(board(device), device=device)
    raise Unavailable(f"no energy meter for device {device}; there are meters for cuda and cpu")


def _by_device(meters: Sequence[Meter]) -> dict[str, Meter]:
    found = {meter.device: meter for meter in meters}
    if len(found) < len(meters):
        names = ", ".join(f"{meter.name} of {meter.device}" for meter in meters)
        raise ValueError(f"meters: two are of one device, which has one sum of joules: {names}")
    return found


def _identity(device: str, meter: Meter | Unavailable) -> str:
    """Return what two names of one device have in common: its board's UUID, or else the name."""
    of_board = getattr(getattr(meter, "board", None), "uuid", None)
    return getattr(meter, "identity", None) or of_board or device
