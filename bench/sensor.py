"""What the energy counter of a device is worth: how often it ticks, and whether power bears it out.

python -m bench sensor --coverage --json bench/results/NAME/sensor.json
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from green_kernels import energy

from . import device
from .device import Gpu
from .report import wide_console
from .ways import BATCH_SECONDS, Ready
from .window import Feed
from .words import three_digits

SIDE = 4096  # of the square matrices of the load: near full power, and under a millisecond a call
WARM_SECONDS = 15.0  # of load before the counter is judged, for power to come to rest
BURST = 0.01  # of a tick: what starts at a time in the square wave, whose edges it makes late
CPU_SECONDS = 1.0
CPU_POLL = 0.0001  # seconds
INTERFACES = {"perf": energy.PerfRaplMeter, "powercap": energy.RaplMeter}  # the first is preferred

Call = Callable[[], Any]
Say = Callable[[str], object]


@dataclass(frozen=True)
class Row:
    """A line of the table; a value that is not known is None."""

    name: str
    value: Any
    unit: str
    meaning: str


@dataclass(frozen=True)
class GpuSensor:
    """What was found of a GPU's sensors. wave: the coverage test, where it was asked for."""

    board: dict[str, Any]
    profile: energy.SensorProfile
    wave: energy.Coverage | None = None

    def json(self) -> dict[str, Any]:
        """Return the profile as a JSON object, with the board's facts and the coverage test."""
        wave = None if self.wave is None else asdict(self.wave)
        return asdict(self.profile) | {"board": self.board, "coverage_test": wave}


@dataclass(frozen=True)
class Interface:
    """One way to the CPU's counters. reason: why joules, or their tick, cannot be had by it."""

    name: str
    meter: str | None
    watts: float | None
    tick_seconds: float | None
    reason: str | None


def run(options: argparse.Namespace) -> int:
    """Print what the device's counter is worth; 1 if there is one that is not to be trusted."""
    if options.json is not None:
        _write(options, None)
    console = wide_console()
    if options.device == "cpu":
        interfaces = cpu_interfaces(INTERFACES)
        _print(cpu_rows(interfaces), cpu_verdict(interfaces), console)
        meter = next((one.meter for one in interfaces if one.meter), None)
        found = {"device": "cpu", "meter": meter, "interfaces": [asdict(i) for i in interfaces]}
        _write(options, found)
        return 0
    tested = device.find(options.device)
    if tested.board is None:
        console.print(f"joules: unavailable, {escape(tested.no_meter)}")
        return 0
    say = Console(stderr=True).print
    try:
        found = gpu_sensor(tested, _load(tested.name), options.refresh, options.coverage, say)
    except energy.Unavailable as reason:
        console.print(f"joules: unavailable, {escape(str(reason))}")
        return 1
    _print(gpu_rows(found), gpu_verdict(found), console)
    _write(options, found.json())
    return 0 if found.profile.agrees else 1


def gpu_sensor(
    tested: Gpu,
    load: Call,
    refresh: bool = False,
    coverage: bool = False,
    say: Say = lambda step: None,
) -> GpuSensor:
    """Return the profile of a GPU's sensors under a steady load, measured unless it is known.

    load: called again and again. refresh: measure what is known too. coverage: switch the load on
    and off, to see whether the counter sees all of the time; the verdict is kept with the profile.
    Raises Unavailable where NVML fails.
    """
    profile = _profile(tested, load, refresh, say)
    wave = None
    if coverage and profile.tick_seconds is not None:
        say("coverage: a load that is on for a quarter of each tick, for about a minute")
        wave = _coverage(tested, load, profile.tick_seconds)
        profile = replace(profile, coverage=wave.verdict)
        if profile.agrees:
            energy.save_profile(profile)
    return GpuSensor(tested.board.facts(), profile, wave)


def _profile(tested: Gpu, load: Call, refresh: bool, say: Say) -> energy.SensorProfile:
    feed = Feed(tested, Ready([load], graph=True).batch(tested, BATCH_SECONDS))

    @contextmanager
    def steady() -> Iterator[None]:
        say(f"profile: {WARM_SECONDS:g} s of load to warm up, then 8 s of samples")
        feed.run(WARM_SECONDS)
        yield

    try:
        return energy.sensor_profile(
            tested.board, steady, clock=tested.clock, sleep=feed.wait, refresh=refresh
        )
    finally:
        tested.executor.synchronize()


def _coverage(tested: Gpu, load: Call, tick: float) -> energy.Coverage:
    burst = Ready([load], graph=True).batch(tested, BURST * tick)
    feed = Feed(tested, None)

    def switch(on: bool) -> None:
        feed.batch = burst if on else None
        feed.pump()
        if not on:
            tested.executor.synchronize()

    def wait(seconds: float) -> None:
        until = tested.clock() + seconds
        while (left := until - tested.clock()) > 0:
            feed.wait(left if feed.batch is None else min(BURST * tick, left))

    return energy.coverage_test(tested.board, switch, tick=tick, clock=tested.clock, sleep=wait)


def gpu_rows(found: GpuSensor) -> list[Row]:
    """Return the table of a GPU: its facts, and what each figure of its sensors means."""
    board, p, wave = found.board, found.profile, found.wave
    rows = [
        Row("board", board["name"], "", board["uuid"]),
        Row("driver", board["driver"], "", f"VBIOS {board['vbios'] or 'not known'}"),
        Row("power limit", board["power_limit_watts"], "W", "that is enforced now"),
        Row("most SM clock", board["max_sm_mhz"], "MHz", "that the board can reach"),
        Row("ECC", _yes(board["ecc"]), "", "memory with error correction draws more"),
        Row("persistence", _yes(board["persistence"]), "", "off: the driver unloads when idle"),
        Row("profile", p.date, "", "when it was measured: kept for this board and driver"),
        Row("tick", _times(p.tick_seconds, 1e3), "ms", "between two updates of the energy counter"),
        Row("tick spread", _times(p.tick_spread, 1e3), "ms", "10th to 90th percentile"),
        Row("joules per tick", p.joules_per_tick, "J", "the least that can be told apart"),
        Row("counter", p.counter_watts, "W", "its slope, dE/dt, under a steady load"),
        Row("instant power", p.instant_watts, "W", "NVML's, of the last instants, meanwhile"),
        Row("average power", p.average_watts, "W", "NVML's, of one second, meanwhile"),
        Row("power tick", _times(p.instant_tick_seconds, 1e3), "ms", "of the instant power"),
        Row("disagreement", _percent(p.disagreement), "%", f"at most {energy.TOLERANCE:.0%}"),
        Row("coverage", p.coverage, "", (wave and wave.reason) or COVERAGE[p.coverage]),
    ]
    if wave is not None:
        rows += [
            Row("wave spread", _percent(wave.spread), "%", "of the load's power, by phase"),
            Row("wave late", wave.late_seconds * 1e3, "ms", "edges of the wave, 95th percentile"),
        ]
    return rows + [Row(f"no {name}", None, "", why) for name, why in p.errors.items()]


COVERAGE = {
    "full": "the counter sees all of the time",
    "partial": "it samples: loads that change within a tick are counted wrongly, steady ones not",
    "unknown": "--coverage tests whether the counter sees all of the time",
}


def gpu_verdict(found: GpuSensor) -> str:
    """Return in a line whether joules by this counter can be trusted."""
    p = found.profile
    if not p.agrees:
        return f"joules: not to be trusted, {p.reason}"
    return (
        f"joules: counter and power agree to {p.disagreement:.2%}; an error that both share, of up "
        f"to {energy.TOLERANCE:.0%} by NVIDIA's account, cannot be seen from inside"
    )


def cpu_interfaces(
    makers: Mapping[str, Callable[[], energy.Meter]],
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Interface]:
    """Return what each interface to the CPU's counters gives, polled for a second.

    makers: what makes the meter of an interface, by its name.
    """
    return [_interface(name, make, clock, sleep) for name, make in makers.items()]


def _interface(
    name: str,
    make: Callable[[], energy.Meter],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Interface:
    try:
        meter = make()
        readings = [(clock(), meter.read())]
        while readings[-1][0] - readings[0][0] < CPU_SECONDS:
            sleep(CPU_POLL)
            readings.append((clock(), meter.read()))
    except energy.Unavailable as reason:
        return Interface(name, None, None, None, str(reason))
    seconds = readings[-1][0] - readings[0][0]
    pairs = zip(readings, readings[1:], strict=False)
    changes = [after for before, after in pairs if after[1] != before[1]]
    watts = (readings[-1][1] - readings[0][1]) / seconds
    if len(changes) < energy.LEAST_CHANGES:
        why = f"no tick can be told: the counter changed {len(changes)} times in {seconds:.3g} s"
        return Interface(name, meter.name, watts, None, why)
    tick = (changes[-1][0] - changes[0][0]) / (len(changes) - 1)
    poll = seconds / (len(readings) - 1)
    if tick < 2 * poll:
        why = f"no tick can be told: it is below two polls, of {poll * 1e3:.2g} ms each"
        return Interface(name, meter.name, watts, None, why)
    return Interface(name, meter.name, watts, tick, None)


def cpu_rows(interfaces: Sequence[Interface]) -> list[Row]:
    """Return the table of a CPU: each interface with what it gives, or why it gives nothing."""
    rows = []
    for one in interfaces:
        if one.meter is None:
            rows.append(Row(one.name, None, "", one.reason))
            continue
        tick = one.reason or "between two updates of the counter"
        rows += [
            Row(one.name, one.watts, "W", "of all CPU packages, while it was polled"),
            Row(f"{one.name} tick", _times(one.tick_seconds, 1e3), "ms", tick),
        ]
    return rows


def cpu_verdict(interfaces: Sequence[Interface]) -> str:
    """Return in a line by which interface joules are counted, if by any."""
    used = next((one for one in interfaces if one.meter), None)
    if used is None:
        return "joules: unavailable by either interface"
    return f"joules: counted by {used.name}; there is no second sensor to check it against"


def _load(name: str) -> Call:
    """Return a call that keeps a GPU near its full power."""
    a, b = torch.randn(2, SIDE, SIDE, device=name).half()
    c = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=c)


def _print(rows: Sequence[Row], verdict: str, console: Console) -> None:
    table = Table("", "value", "unit", "what it means")
    for row in rows:
        value = three_digits(row.value) if isinstance(row.value, float) else row.value
        shown = ("unavailable", "") if value is None else (str(value), row.unit)
        table.add_row(*map(escape, (row.name, *shown, row.meaning)))
    console.print(table)
    console.print(escape(verdict))


def _write(options: argparse.Namespace, found: dict[str, Any] | None) -> None:
    """Write the JSON object if a file is named; None only makes its folder, before the work."""
    if options.json is None:
        return
    try:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        if found is not None:
            options.json.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        options.error(f"argument --json: cannot write {options.json}: {error.strerror}")


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.2f}"


def _yes(value: bool | None) -> str | None:
    return None if value is None else "on" if value else "off"
