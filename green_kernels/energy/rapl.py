"""RAPL by Linux's powercap files: microjoules of each CPU package, wrapping at a known value."""

import copy
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

from green_kernels.energy.meter import Unavailable

POWERCAP = "/sys/class/powercap"
MAX_WATTS = 1000  # no package draws more; bounds how soon a counter can wrap


class RaplMeter:
    """The energy counters of all CPU packages together: cores, caches and integrated GPU.

    Only package zones count. Subzones (core, uncore, dram) are left out, as most are parts of
    their package, and so are psys, which contains the packages, and mirrors of a zone.
    root: the powercap folder. clock: seconds, to tell a wrap from a counter that was reset.
    Raises Unavailable without package zones, or if any of them cannot be read.
    Source: Linux, Documentation/power/powercap/powercap.rst.
    """

    name = "rapl"
    device = "cpu"
    tick = 0.001

    def __init__(self, root: str | Path = POWERCAP, clock: Callable[[], float] = time.perf_counter):
        """Find the zones, and read each counter once."""
        zones = _package_zones(Path(root))
        if not zones:
            raise Unavailable(
                f"no RAPL package zone in {root}: a virtual machine, a container that hides it, "
                "or a CPU or kernel without RAPL"
            )
        self.zones = {name: zone / "energy_uj" for name, zone in _without_mirrors(zones).items()}
        self.range = {
            name: _microjoules(file.with_name("max_energy_range_uj"))
            for name, file in self.zones.items()
        }
        if not all(self.range.values()):
            raise Unavailable(f"a RAPL zone in {root} says that its counter has no range")
        self.clock = clock
        self.read_within = min(self.range.values()) / 1e6 / MAX_WATTS / 2
        self._start()

    def fresh(self) -> "RaplMeter":
        """Return a meter of the same zones that counts wraps for itself, from now on."""
        meter = copy.copy(self)
        meter._start()
        return meter

    def _start(self) -> None:
        self.last = {name: _microjoules(file) for name, file in self.zones.items()}
        self.passed = 0  # microjoules of all zones since then
        self.time = self.clock()
        self.lock = threading.Lock()  # a long window is also read from a thread of its own

    def read(self) -> float:
        """Return joules since this meter was made. One wrap per zone since the last is counted."""
        with self.lock:
            now = {name: _microjoules(file) for name, file in self.zones.items()}
            before, self.time = self.time, self.clock()
            last, self.last = self.last, now
            seconds = self.time - before
            if seconds > 2 * self.read_within:
                raise Unavailable(
                    f"the RAPL counters were not read for {seconds:.3g} s, "
                    "and may have wrapped more than once"
                )
            most = MAX_WATTS * (seconds + 10 * self.tick) * 1e6
            for name in self.zones:
                passed = (now[name] - last[name]) % self.range[name]
                if passed > most:
                    raise Unavailable(
                        f"the counter of {name} went from {last[name]} to {now[name]} uJ in "
                        f"{seconds:.3g} s: it was reset within the window"
                    )
                self.passed += passed
            return self.passed / 1e6


def _package_zones(root: Path) -> dict[str, Path]:
    """Return top-level package zones by name; one of each name, as intel-rapl-mmio repeats them."""
    zones: dict[str, Path] = {}
    for zone in sorted(root.glob("intel-rapl:*")):
        if re.fullmatch(r"intel-rapl:\d+", zone.name):
            name = _text(zone / "name")
            if name.startswith("package"):
                zones.setdefault(name, zone)
    return zones


def _without_mirrors(zones: dict[str, Path]) -> dict[str, Path]:
    """Drop a zone that shows another's counter under a second name, as some multi-die CPUs do.

    A reading that lies between two readings of another zone, microseconds apart, is that zone's:
    the counters of two packages are joules to kilojoules from each other.
    """
    kept: dict[str, Path] = {}
    for name, zone in zones.items():
        if not any(_is_mirror(zone, other) for other in kept.values()):
            kept[name] = zone
    return kept


def _is_mirror(zone: Path, other: Path) -> bool:
    before = _microjoules(other / "energy_uj")
    between = _microjoules(zone / "energy_uj")
    return before <= between <= _microjoules(other / "energy_uj")


def _microjoules(file: Path) -> int:
    text = _text(file)
    if not text.isdecimal():
        raise Unavailable(f"{file} holds {text!r}, not microjoules")
    return int(text)


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except PermissionError:
        raise Unavailable(
            f"{file} is readable by root only, since its readings can leak secrets (PLATYPUS, "
            "CVE-2020-8694). Where that is acceptable, this opens it until the next boot: "
            f"sudo chmod a+r {file.parent.parent}/intel-rapl:*/energy_uj"
        ) from None
    except OSError as error:
        raise Unavailable(f"cannot read {file}: {error.strerror}") from None
