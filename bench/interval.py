"""Medians and their ratios, and how sure they are."""

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist

import numpy as np

from .figures import Interval

RESAMPLES = 2000
LEVEL = 0.95
LEAST = 6  # values whose range covers the median in 1 - 2 / 2^6 = 97 % of cases; five have 94 %
# Of each of two, for one of their ratio: of three, the whole range misses in 2 / C(6, 3), a tenth.
LEAST_EACH = 4


def median(values: Sequence[float], seed: int = 0) -> Interval:
    """Return the median and its bootstrap 95 % interval, by percentiles of resampled medians.

    The percentiles are those of the expanded interval, since plain ones of ten values cover the
    truth in 93 of 100 cases only (Hesterberg, What Teachers Should Know About the Bootstrap, The
    American Statistician 69, 2015, section 4.2).
    values: one for each window; of fewer than LEAST there is no interval.
    seed: of the resampling, so that the same values have the same interval.
    """
    values = np.asarray(values, dtype=float)
    middle = float(np.median(values))
    if len(values) < LEAST:
        return Interval(middle)
    return _expanded(middle, _resampled(values, np.random.default_rng(seed)), len(values))


def ratio(b: Sequence[float], a: Sequence[float], seed: int = 0) -> Interval:
    """Return median(b) / median(a) and its bootstrap 95 % interval, the two resampled apart.

    The percentiles are those of `median`, for as many values as the fewer of the two are.
    b, a: not negative. Of fewer than LEAST_EACH, or where a resampled median of a is 0, there
    is no interval.
    seed: of the resampling.
    """
    b, a = (np.asarray(values, dtype=float) for values in (b, a))
    fewer = min(len(b), len(a))
    with np.errstate(divide="ignore", invalid="ignore"):
        middle = float(np.median(b) / np.median(a))
        if fewer < LEAST_EACH:
            return Interval(middle)
        generator = np.random.default_rng(seed)
        below = _resampled(a, generator)
        ratios = _resampled(b, generator) / below
    return Interval(middle) if np.any(below == 0) else _expanded(middle, ratios, fewer)


def half_width(interval: Interval) -> float | None:
    """Return (high - low) / 2 relative to the figure; None without an interval."""
    if not interval.sure or interval.value == 0:
        return None
    return (interval.high - interval.low) / 2 / abs(interval.value)


def _resampled(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the medians of as many values drawn with replacement, RESAMPLES times."""
    picks = generator.integers(0, len(values), (RESAMPLES, len(values)))
    return np.median(values[picks], axis=1)


def _expanded(middle: float, resampled: np.ndarray, n: int) -> Interval:
    """Return the expanded percentile interval of a figure that n values gave."""
    tail = 100 * NormalDist().cdf(-sqrt(n / (n - 1)) * _student(n - 1))
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return Interval(middle, float(low), float(high))


def _student(freedom: int) -> float:
    """Return Student's t that bounds LEVEL of its mass, by Abramowitz and Stegun 26.7.5."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))
