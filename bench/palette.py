"""One colour and one marker for each way, the same on every page, that the colour-blind can tell.

The colours are of Okabe and Ito (Color Universal Design, 2008) and of Tol (SRON/EPS/TN/09-002),
each with a lighter one for a dark page. There are more ways than colour alone can carry: bars name
their way, points have a marker.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from .case import WAYS


@dataclass(frozen=True)
class Style:
    """How a way looks."""

    index: int  # of the page's variable --way-INDEX
    light: str  # on paper and on a light page
    dark: str
    marker: str | tuple[int, int, int]  # of a star: its points, 1, and degrees


STYLES = (
    ("#6e7781", "#9aa4ae", "s"),  # the baseline: grey
    ("#56b4e9", "#56b4e9", "v"),
    ("#0072b2", "#5aa9e6", "^"),
    ("#cc79a7", "#dd9cc0", "P"),
    ("#e69f00", "#e9b23a", "X"),
    ("#d55e00", "#f08a45", "d"),
    ("#882255", "#d06a9c", "p"),
    ("#009e73", "#2cc295", "o"),  # ours: green
    ("#aa4499", "#d67bc8", "*"),
    ("#117733", "#67c587", "D"),
    ("#44aa99", "#6fd0c0", "h"),
    ("#999933", "#c4c45c", "<"),
    ("#332288", "#9f93ea", ">"),
    ("#b3672b", "#d8965f", "H"),
    ("#661100", "#d98371", "8"),
    ("#ddaa33", "#e8c066", (4, 1, 45)),
    ("#004488", "#6699cc", (4, 1, 0)),
    ("#bb5566", "#e08a98", (6, 1, 0)),  # and of ways that come after
    ("#225522", "#88bb88", (8, 1, 0)),
    ("#666633", "#aaaa77", (5, 1, 36)),
)


def styles(ways: Iterable[str]) -> dict[str, Style]:
    """Return the style of each way: by its place among all ways there are, then as they come."""
    order = list(dict.fromkeys([*WAYS, *ways]))
    return {way: Style(i, *STYLES[i % len(STYLES)]) for i, way in enumerate(order)}
