"""The energy roofline: a chip's watts / peak per dtype, and a fit of joules per FLOP and byte."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Chip:
    """A GPU's board power, and its dense peaks by dtype."""

    name: str
    watts: float  # TDP of the board
    tera: dict[str, float]  # 1e12 FLOP/s, for int8 1e12 op/s, without sparsity

    def picojoules(self) -> dict[str, float]:
        """TDP / peak by dtype, in pJ per FLOP or op: a reference line, not a bound.

        A chip meets its power cap below its peak clock, and may draw less than its TDP.
        """
        return {dtype: self.watts / peak for dtype, peak in self.tera.items()}


HOPPER = {"fp32": 66.9, "tf32": 494.7, "bf16": 989.4, "int8": 1978.9}
AMPERE = {"fp32": 19.5, "tf32": 156, "bf16": 312, "int8": 624}

# From NVIDIA's datasheets, the peaks with sparsity halved. Each chip with the words that a device's
# name must hold and those that it must not; the first that fits.
CHIPS = (
    (("A100", "SXM"), (), Chip("A100 SXM", 400, AMPERE)),
    (("A100", "80GB", "PCIE"), (), Chip("A100 PCIe 80 GB", 300, AMPERE)),
    (("H200", "NVL"), (), Chip("H200 NVL", 600, {"bf16": 835.5, "int8": 1670.5})),
    (("H200",), ("GH200",), Chip("H200 SXM", 700, HOPPER)),
    (("H100", "PCIE"), (), Chip("H100 PCIe", 350, {"bf16": 756, "int8": 1513})),
    (("H100", "HBM3"), ("NVL", "GH100"), Chip("H100 SXM", 700, HOPPER)),
    (("L40S",), (), Chip("L40S", 350, {"bf16": 362, "int8": 733})),
    (("B200",), ("GB200",), Chip("B200", 1000, {"bf16": 2250, "int8": 4500})),
)


def chip(name: str | None) -> Chip | None:
    """Return the chip that a device's name, as the driver gives it, stands for; None if unknown."""
    upper = (name or "").upper()
    for words, others, found in CHIPS:
        if all(word in upper for word in words) and not any(word in upper for word in others):
            return found
    return None


@dataclass(frozen=True)
class Floor:
    """Energy of a call as per_flop * FLOPs + per_byte * bytes."""

    per_flop: float  # pJ
    per_byte: float  # pJ
    intensities: int  # different FLOP/byte that it was fitted to

    def at(self, intensity: float) -> float:
        """Return pJ per FLOP at so many FLOP per byte."""
        return self.per_flop + self.per_byte / intensity


def fit(points: Iterable[tuple[float, float]]) -> Floor | None:
    """Return argmin over a, b >= 0 of sum ((a + b / x - y) / y)^2; None of fewer than 3 x.

    points: (x, y), FLOP per byte and pJ per FLOP. Of points with one x the lowest alone counts:
    a floor is what the best way there needed.
    """
    best: dict[float, float] = {}
    for x, y in points:
        if x > 0 and y > 0:
            best[x] = min(y, best.get(x, y))
    if len(best) < 3:
        return None
    x, y = (np.array(values, dtype=float) for values in zip(*best.items(), strict=True))
    columns = np.stack([1 / y, 1 / (x * y)], axis=1)
    solution = np.linalg.lstsq(columns, np.ones_like(y), rcond=None)[0]
    if solution.min() < 0:  # then the best lies on an edge: one of the two is 0
        alone = (columns.sum(0) / (columns**2).sum(0)) * np.eye(2)
        solution = min(alone, key=lambda one: float(((columns @ one - 1) ** 2).sum()))
    return Floor(float(solution[0]), float(solution[1]), len(best))
