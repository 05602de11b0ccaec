"""What the energy counter of a device is worth: how often it ticks, and whether power bears it out.

    python -m bench sensor --coverage --json bench/results/NAME/sensor.json
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from green_kernels import energy
from green_kernels.energy.coverage import coverage_test
from green_kernels.energy.sensor import LEAST_CHANGES, TOLERANCE, save_profile, sensor_profile

from . import device
from .device import Gpu
from .report import wide_console
from .runner import BATCH_SECONDS, Ready
from .window import FINE, Feed
from .words import three_digits

SIDE = 4096  # of the square matrices of the load: near full power, and under a millisecond a call
WARM_SECONDS = 15.0  # of load before the counter is judged, for power to come to rest
BURST = 0.01  # of a tick: calls that start together in the square wave, which they make uneven
CPU_SECONDS = 1.0
CPU_POLL = 0.0001
INTERFACES = {"perf": energy.PerfRaplMeter, "powercap": energy.RaplMeter}  # the first is preferred

Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One line of the table. A value that is not known is None, and `meaning` may say why."""

    name: str
    value: Any
    unit: str
    meaning: str


@dataclass(frozen=True)
class GpuSensor:
    """What was found of a GPU's sensors. wave: None where no coverage test was asked for."""

    board: dict[str, Any]
    profile: energy.SensorProfile
    wave: energy.Coverage | None = None

    def json(self) -> dict[str, Any]:
        """Return the profile as a JSON object, with the board's facts and the coverage test."""
        wave = None if self.wave is None else asdict(self.wave)
        return asdict(self.profile) | {"board": self.board, "coverage_test": wave}


@dataclass(frozen=True)
class Interface:
    """One way to the CPU's counters. reason: why joules, or the tick, cannot be had by it."""

    name: str
    meter: str | None
    watts: float | None
    tick_seconds: float | None
    reason: str | None


def run(options: argparse.Namespace) -> int:
    """Print what the device's counter is worth; 1 if it cannot be trusted, 0 if there is none."""
    console = wide_console()
    _check_file(options)
    if options.device == "cpu":
        interfaces = cpu_interfaces(INTERFACES)
        _print("CPU", cpu_rows(interfaces), console)
        used = next((i for i in interfaces if i.meter), None)
        console.print(cpu_verdict(interfaces), markup=False, soft_wrap=True)
        found = {
            "device": "cpu",
            "agrees": None,  # there is no second sensor to check it against
            "meter": used and used.meter,
            "interfaces": [asdict(interface) for interface in interfaces],
        }
        _write(options, found)
        return 0
    tested = device.find(options.device)
    if tested.board is None:
        console.print(f"joules: unavailable, {tested.no_meter}", markup=False, soft_wrap=True)
        return 0
    call = _load(tested.name)
    say = Console(stderr=True).print
    try:
        found = gpu_sensor(tested, call, options.refresh, options.coverage, say)
    except energy.Unavailable as reason:
        console.print(f"joules: unavailable, {reason}", markup=False, soft_wrap=True)
        return 1
    _print(str(tested.board), gpu_rows(found), console)
    console.print(gpu_verdict(found), markup=False, soft_wrap=True)
    _write(options, found.json())
    return 0 if found.profile.agrees else 1


def gpu_sensor(
    tested: Gpu,
    call: Callable[[], Any],
    refresh: bool = False,
    coverage: bool = False,
    say: Say = lambda step: None,
) -> GpuSensor:
    """Return the profile of a GPU's sensors under a steady load, measured unless it is known.

    call: the load, again and again. refresh: measure what is known too. coverage: switch the load
    on and off, to see whether the counter sees all of the time; kept with the profile.
    Raises Unavailable where NVML fails.
    """
    profile = _profile(tested, call, refresh, say)
    wave = None
    if coverage and profile.tick_seconds is not None:
        say("coverage: a load that is on for a quarter of each tick, about a minute")
        wave = _coverage(tested, call, profile.tick_seconds)
        profile = replace(profile, coverage=wave.verdict)
        if profile.agrees:
            save_profile(profile)
    return GpuSensor(tested.facts().get("board", {}), profile, wave)


def _profile(tested: Gpu, call: Callable, refresh: bool, say: Say) -> energy.SensorProfile:
    """Profile the sensors, the load having run for a while when the first one is read."""
    feed = Feed(tested, Ready([call], graph=True).batch(tested, BATCH_SECONDS))
    warm = False

    def wait(seconds: float) -> None:
        nonlocal warm
        if not warm:
            say(f"profile: warming up for {WARM_SECONDS:g} s, then about 8 s of samples")
            feed.run(WARM_SECONDS)
            warm = True
        feed.wait(seconds)

    class Load(nullcontext):
        def __enter__(self) -> None:
            wait(0.0)

    try:
        return sensor_profile(
            tested.board, Load, clock=tested.clock, sleep=wait, refresh=refresh
        )
    finally:
        tested.executor.synchronize()
