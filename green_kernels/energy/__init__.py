"""Joules of what runs in a `with` block: measured by a counter, or None with the reason."""

from green_kernels.energy.measure import MIN_TICKS, Measurement, find_meters, measure
from green_kernels.energy.meter import Meter, Unavailable
from green_kernels.energy.nvml import NvmlMeter
from green_kernels.energy.rapl import RaplMeter

__all__ = [
    "MIN_TICKS",
    "Measurement",
    "Meter",
    "NvmlMeter",
    "RaplMeter",
    "Unavailable",
    "find_meters",
    "measure",
]
