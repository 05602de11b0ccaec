"""How ways compare over the shapes of a case: geometric means of ratios."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .record import Record
from .words import group


@dataclass(frozen=True)
class Mean:
    """The geometric mean over shapes of one way's figure divided by another's."""

    case: str
    figure: str  # "time" or "joules"
    baseline: str
    ours: str
    peer: str
    ratio: float  # peer's figure / ours: above 1, ours is the better
    least: float
    most: float
    shapes: int

    @property
    def words(self) -> str:
        """The mean in a line."""
        better = "" if self.figure == "time" else " in joules"
        return (
            f"{self.ours} is {self.ratio:.2f}x {self.peer}{better} "
            f"({self.shapes} shapes, {self.least:.2f} to {self.most:.2f})"
        )


def geometric_means(records: Iterable[Record], least_shapes: int = 2) -> list[Mean]:
    """Return how each of our ways compares with each other way, over the shapes of a case.

    least_shapes: cases with fewer are left out.
    """
    means = []
    for (case, baseline, *_), same in group(records, _condition).items():
        for figure, known, ratio in FIGURES:
            found = {(r.way, r.shape): r for r in same if known(r)}
            shapes = list(dict.fromkeys(shape for _, shape in found))
            if len(shapes) < least_shapes:
                continue
            ways = list(dict.fromkeys(way for way, _ in found))
            for ours in (way for way in ways if way.startswith("ours")):
                for peer in (way for way in ways if way != ours):
                    pairs = [(found.get((peer, s)), found.get((ours, s))) for s in shapes]
                    ratios = [ratio(*pair) for pair in pairs if None not in pair]
                    if ratios:
                        mean, names = _mean(ratios), (case, figure, baseline, ours, peer)
                        means.append(Mean(*names, *mean, len(ratios)))
    return means


def mean_lines(records: Sequence[Record]) -> list[str]:
    """Return the geometric means as lines, those of a case under a heading."""
    lines = []
    means = group(geometric_means(records), lambda m: (m.case, m.baseline, m.figure))
    for (case, baseline, figure), same in means.items():
        figure = figure.replace("time", "times")
        lines.append(f"{case} against {baseline}, geometric means of {figure} over shapes:")
        lines += [f"  {mean.words}" for mean in same]
    return lines


def _condition(r: Record) -> tuple[str | int, ...]:
    return r.case, r.baseline, r.data, r.protocol, r.date, r.device, r.rank


def _times(peer: Record, ours: Record) -> float:
    """Median over rounds of peer's seconds / our seconds."""
    if len(peer.times) != len(ours.times):  # of two runs, whose rounds do not belong together
        return peer.seconds / ours.seconds
    return statistics.median(p / o for p, o in zip(peer.times, ours.times, strict=True))


def _joules(peer: Record, ours: Record) -> float:
    return peer.joules / ours.joules


def _mean(ratios: list[float]) -> tuple[float, float, float]:
    return statistics.geometric_mean(ratios), min(ratios), max(ratios)


FIGURES: tuple[tuple[str, Callable, Callable], ...] = (
    ("time", lambda r: r.spread is not None, _times),
    ("joules", lambda r: bool(r.joules), _joules),  # 0 J has no ratio
)
