"""RAPL by Linux's perf events: 64-bit counts of each CPU package, which do not wrap."""

import ctypes
import os
import platform
import re
import struct
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

from green_kernels.energy.meter import Meter, Unavailable
from green_kernels.energy.rapl import POWERCAP, RaplMeter

EVENT_SOURCES = "/sys/bus/event_source/devices"
SYSCALL = {"x86_64": 298, "aarch64": 241}  # of perf_event_open, by machine
CLOSE_ON_EXEC = 8  # PERF_FLAG_FD_CLOEXEC
ATTRIBUTES = struct.Struct("=IIQQQQQIIQ")  # perf_event_attr as it first was, 64 bytes


def open_event(kind: int, config: int, pid: int, cpu: int) -> int:
    """Open a counting event, and return its file descriptor; read 8 bytes from it for the count.

    kind: the event source's number. config: of the event. pid: -1 for all processes, 0 for this
    one. cpu: -1 for all. Raises OSError as the kernel does, Unavailable on an unknown machine.
    Source: man 2 perf_event_open.
    """
    number = SYSCALL.get(platform.machine())
    if number is None or sys.platform != "linux":
        raise Unavailable(
            f"the system call perf_event_open is not known for {platform.machine()} with "
            f"{platform.system()}; it is for Linux on {' and '.join(SYSCALL)}"
        )
    packed = ATTRIBUTES.pack(kind, ATTRIBUTES.size, config, 0, 0, 0, 0, 0, 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    arguments = map(ctypes.c_long, (pid, cpu, -1, CLOSE_ON_EXEC))
    descriptor = libc.syscall(ctypes.c_long(number), ctypes.c_char_p(packed), *arguments)
    if descriptor < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return descriptor


class PerfRaplMeter:
    """The energy counters of all CPU packages together, one perf event for each.

    root: the folder of event sources. open_event: as the function of this module.
    Raises Unavailable where there is no such event, or where it may not be opened.
    Source: Linux, arch/x86/events/rapl.c; Documentation/admin-guide/perf-security.rst.
    """

    name = "rapl (perf)"
    device = "cpu"
    tick = 0.001
    read_within = None  # 64 bits of 2^-32 J hold 4 GJ, 50 days at 1 kW

    def __init__(
        self,
        root: str | Path = EVENT_SOURCES,
        open_event: Callable[[int, int, int, int], int] = open_event,
    ):
        """Open the event on the first CPU of each package, and read each count once."""
        source = Path(root) / "power"
        event = source / "events" / "energy-pkg"
        if not event.exists():
            raise Unavailable(
                f"no event energy-pkg in {source}: a virtual machine, or a CPU or kernel without "
                "RAPL by perf"
            )
        unit = _text(Path(f"{event}.unit"))
        if unit != "Joules":
            raise Unavailable(f"{source} counts {unit!r}, not Joules")
        self.scale = float(
            _match(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?", source / "events" / "energy-pkg.scale")
        )
        kind = int(_match(r"\d+", source / "type"))
        config = int(_match(r"event=(0x[0-9a-f]+)", source / "events" / "energy-pkg"), 16)
        cpus = _cpus(_match(r"\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*", source / "cpumask"))
        self.events: list[int] = []
        self.close = weakref.finalize(self, _close, self.events)
        try:
            for cpu in cpus:
                self.events.append(open_event(kind, config, -1, cpu))
        except PermissionError:
            self.close()
            raise Unavailable(
                "perf events of the CPU packages may not be opened: they need "
                "kernel.perf_event_paranoid <= 0 or the capability CAP_PERFMON, and a container "
                "that lets perf_event_open through"
            ) from None
        except OSError as error:
            self.close()
            raise Unavailable(f"cannot open the perf event energy-pkg: {error.strerror}") from None
        self.read()

    def fresh(self) -> "PerfRaplMeter":
        """Return itself: no reading depends on another."""
        return self

    def read(self) -> float:
        """Return joules since the events were opened."""
        return sum(map(_count, self.events)) * self.scale


def cpu_meter(powercap: str | Path = POWERCAP, event_sources: str | Path = EVENT_SOURCES) -> Meter:
    """Return the meter of the CPU packages: by perf, which needs no thread, or else by powercap.

    Raises Unavailable with both reasons.
    """
    try:
        return PerfRaplMeter(event_sources)
    except Unavailable as reason:
        no_perf = reason
    try:
        return RaplMeter(powercap)
    except Unavailable as no_powercap:
        raise Unavailable(f"{no_powercap}; and {no_perf}") from None


def _count(event: int) -> int:
    try:
        data = os.read(event, 8)
    except OSError as error:
        raise Unavailable(f"cannot read the perf event energy-pkg: {error.strerror}") from None
    if len(data) != 8:  # the kernel's sign of an event in error
        raise Unavailable("the perf event energy-pkg has no count")
    return int.from_bytes(data, sys.byteorder)


def _close(events: list[int]) -> None:
    while events:
        os.close(events.pop())


def _cpus(mask: str) -> list[int]:
    """Return the CPUs of a list such as 0,18 or 0-1."""
    cpus: list[int] = []
    for part in mask.split(","):
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return cpus


def _match(pattern: str, file: Path) -> str:
    text = _text(file)
    found = re.fullmatch(pattern, text)
    if found is None:
        raise Unavailable(f"{file} holds {text!r}, which is not understood")
    return found[found.lastindex or 0]


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError as error:
        raise Unavailable(f"cannot read {file}: {error.strerror}") from None
