"""The device under test: who runs its calls, who counts its joules, what must hold meanwhile."""

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from green_kernels import energy

from . import execute

STAT = Path("/proc/stat")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True)
class State:
    """What the device says of itself at one moment; what it cannot say is None."""

    joules: float  # by its energy counter
    celsius: float | None = None
    sm_mhz: float | None = None
    watts: float | None = None  # by its power sensor, averaged over its window
    throttled: dict[str, float] = field(default_factory=dict)  # seconds so far, by reason
    held: frozenset[str] | None = None  # the reasons why its clocks are not higher
    others: float | None = None  # seconds that other programs have had of all its cores
    suspended: float = 0.0  # seconds that the machine has slept so far


@dataclass
class Device:
    """A CPU; and what a GPU has besides. Simulated ones give their own clock and executor."""

    name: str = "cpu"
    executor: execute.Executor = field(default_factory=execute.Cpu)
    meter: energy.Meter | None = None
    no_meter: str = "no meter was looked for"  # why meter is None
    cache_bytes: int | None = None  # of the last level; None: not known
    clock: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep
    others: Callable[[], float | None] = lambda: None  # of a State; None: it cannot tell
    suspended: Callable[[], float] = energy.suspended_seconds
    cores: int = 1
    has_power_sensor: ClassVar[bool] = False  # beside the energy counter, to check it by

    def state(self) -> State:
        """Return what can be read now; raise energy.Unavailable where that fails."""
        return State(self.meter.read(), others=self.others(), suspended=self.suspended())

    def gates(self) -> dict[str, str]:
        """Return the reasons, by gate, why nothing measured now would be this program's alone."""
        return {}

    def facts(self) -> dict[str, Any]:
        """Return what a record keeps of it, as JSON values."""
        return {}

    def sensor(self, wait: Callable[[float], None]) -> energy.SensorProfile | None:
        """Return what is known of the energy counter; None where there is nothing to check.

        wait: lets seconds pass with the device under a steady load, in which to measure it.
        """
        return None


class Gpu(Device):
    """A GPU, by its NVML board."""

    has_power_sensor = True

    def __init__(self, board: energy.Board | None, **more: Any):
        """Take the board, or None and `no_meter` saying why there is none."""
        super().__init__(**more)
        self.board = board

    def state(self) -> State:
        """Return joules, temperature, clock, power, and what held the clocks back so far."""
        if self.board is None:
            return super().state()
        sample = self.board.sample()
        if sample.joules is None:
            raise energy.Unavailable(f"{self.board}: {sample.errors['energy']}")
        watts = sample.average_watts  # None on GA100, whose instant power is an average of its own
        return State(
            joules=sample.joules,
            celsius=self.board.temperature(),
            sm_mhz=self.board.sm_mhz(),
            watts=sample.instant_watts if watts is None else watts,
            throttled=dict(sample.throttled),
            held=self.board.event_reasons(),
            suspended=self.suspended(),
        )

    def gates(self) -> dict[str, str]:
        """Refuse a board that others use."""
        if self.board is None:
            return {}
        if others := _others(self.board.processes()):
            pids = ", ".join(map(str, others))
            return {"alone": f"other processes are on the GPU: PID {pids}"}
        return {}

    def facts(self) -> dict[str, Any]:
        """Return the board's facts."""
        if self.board is None:
            return {}
        return {"gpu_uuid": self.board.uuid, "board": self.board.facts()}

    def sensor(self, wait: Callable[[float], None]) -> energy.SensorProfile | None:
        """Return the profile of this board and driver, measured now if it is not known."""
        if self.board is None:
            return None
        loaded = nullcontext()  # `wait` keeps it so
        profile = energy.sensor_profile(self.board, loaded, clock=self.clock, sleep=wait)
        if profile.tick_seconds is not None:
            self.meter = energy.NvmlMeter(self.board, self.meter.device, profile.tick_seconds)
        return profile


def find(name: str) -> Device:
    """Return this machine's "cpu" or "cuda" device, with its meter or the reason why not."""
    (found,) = energy.find_meters([name]).values()
    missing = str(found) if isinstance(found, energy.Unavailable) else ""
    meter = None if missing else found
    if name == "cpu":
        return Device(
            meter=meter,
            no_meter=missing,
            cache_bytes=_last_cache(),
            others=_others_on_cpu,
            cores=os.cpu_count() or 1,
        )
    return Gpu(
        getattr(meter, "board", None),
        name=name,
        executor=execute.Cuda(name),
        meter=meter,
        no_meter=missing,
        cache_bytes=torch.cuda.get_device_properties(name).L2_cache_size,
    )


def _others(pids: list[int]) -> list[int]:
    """Return the processes that are not this one.

    In a container NVML names processes by the host's numbers: where ours is not listed, and a
    single one is that does not exist here, it is ours.
    """
    if os.getpid() not in pids and len(pids) == 1 and not Path(f"/proc/{pids[0]}").exists():
        return []
    return [pid for pid in pids if pid != os.getpid()]


def _others_on_cpu() -> float | None:
    """Return the seconds that all cores have worked for other processes, since boot."""
    try:
        _, *jiffies = STAT.read_text().partition("\n")[0].split()
        user, nice, system, _, _, irq, softirq, *_ = map(int, jiffies)
    except (OSError, ValueError):
        return None
    own = os.times()
    worked = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
    return worked - own.user - own.system - own.children_user - own.children_system


def _last_cache() -> int | None:
    """Return the bytes of the CPU's largest cache, as Linux has it."""
    sizes = []
    for file in CACHES.glob("index*/size"):
        text = file.read_text().strip()
        number, unit = text[:-1], text[-1:]
        if number.isdecimal() and unit in "KM":
            sizes.append(int(number) * {"K": 2**10, "M": 2**20}[unit])
    return max(sizes, default=None)
