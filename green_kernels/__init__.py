"""Low-precision, energy-efficient ops and layers for PyTorch: the same model for fewer joules."""

from importlib.metadata import version

from green_kernels import carbon, energy, nn, ops
from green_kernels.build import build_info
from green_kernels.checkpoint import load, save
from green_kernels.convert import Report, convert
from green_kernels.recipes import Int8, Int8WeightOnly

__version__ = version("green_kernels")
__all__ = [
    "Int8",
    "Int8WeightOnly",
    "Report",
    "build_info",
    "carbon",
    "convert",
    "energy",
    "load",
    "nn",
    "ops",
    "save",
]
