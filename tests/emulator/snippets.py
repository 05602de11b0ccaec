"""The truth that the emulator is tested against: all snippets, and what is asked of them.

The models were written from the PTX ISA manual, version 9.1; each snippet names its section there.
Where the manual leaves a result open (a division by zero, the payload of a NaN), it is not drawn or
not compared.  Where it has only a figure (the metadata of mma.sp), CUTLASS's reordering told it.
"""

from itertools import chain

from . import scalar_snippets as scalar
from . import warp_snippets as warp
from .snippet import (
    SEEDS,
    expected_of,
    first_difference,
    inputs_of,
    kernel_of,
    module_of,
    poisoned,
    ptx_of,
    register,
)

__all__ = [
    "SEEDS",
    "SNIPPETS",
    "expected_of",
    "first_difference",
    "inputs_of",
    "kernel_of",
    "module_of",
    "poisoned",
    "ptx_of",
    "register",
]

FAMILIES = (
    scalar.integers,
    scalar.carries,
    scalar.logic,
    scalar.comparisons,
    scalar.floats,
    scalar.approximations,
    scalar.conversions,
    warp.warps,
    warp.matrices,
    warp.mma,
    warp.copies,
    warp.barriers,
    warp.atomics,
    warp.wgmma,
)
SNIPPETS = list(chain.from_iterable(family() for family in FAMILIES))
assert len({kernel_of(s) for s in SNIPPETS}) == len(SNIPPETS), "two snippets of one name"
