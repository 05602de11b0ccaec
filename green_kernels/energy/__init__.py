"""Joules of what runs in a `with` block: measured by a counter, or None with the reason."""

from green_kernels.energy.coverage import Coverage
from green_kernels.energy.devices import (
    board,
    clocks,
    coverage_test,
    power_limit,
    sensor_profile,
)
from green_kernels.energy.fake import FakeMeter
from green_kernels.energy.measure import (
    MIN_TICKS,
    SUSPENDED,
    Measurement,
    find_meters,
    measure,
    suspended_seconds,
)
from green_kernels.energy.meter import Meter, Unavailable
from green_kernels.energy.nvml import Board, NvmlMeter
from green_kernels.energy.perf import PerfRaplMeter, cpu_meter
from green_kernels.energy.power import Change, NotPermitted
from green_kernels.energy.profile import Profile, profile
from green_kernels.energy.ranks import Gathered, gather, machine_id
from green_kernels.energy.rapl import RaplMeter
from green_kernels.energy.sensor import (
    LEAST_CHANGES,
    TOLERANCE,
    SensorProfile,
    save_profile,
)
from green_kernels.energy.visible import visible_boards

__all__ = [
    "LEAST_CHANGES",
    "MIN_TICKS",
    "SUSPENDED",
    "TOLERANCE",
    "Board",
    "Change",
    "Coverage",
    "FakeMeter",
    "Gathered",
    "Measurement",
    "Meter",
    "NotPermitted",
    "NvmlMeter",
    "PerfRaplMeter",
    "Profile",
    "RaplMeter",
    "SensorProfile",
    "Unavailable",
    "board",
    "clocks",
    "coverage_test",
    "cpu_meter",
    "find_meters",
    "gather",
    "machine_id",
    "measure",
    "power_limit",
    "profile",
    "save_profile",
    "sensor_profile",
    "suspended_seconds",
    "visible_boards",
]
