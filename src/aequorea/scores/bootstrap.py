"""Bootstrap intervals: how far a mean would move with other images of the same kind (Efron 1979).

Images (or specimens, or blocks of one volume) are drawn with replacement, and the percentiles of the
resampled score bound the interval. The units must be independent: draw specimens, not crops of one specimen.
With one unit there is no interval (NaN); with fewer than about ten it is too narrow, since the percentile
interval is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from aequorea.errors import DataError
from aequorea.volume import Array


class Interval(NamedTuple):
    """A score, the bounds of its interval (NaN with fewer than two units), and the number of units."""

    value: float
    low: float
    high: float
    n: int


def mean(values: ArrayLike, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """Return the mean over units and its percentile interval; units that are NaN are left out."""
    column = np.asarray(values, np.float64).ravel()
    column = column[np.isfinite(column)]
    if not column.size:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    return pooled(
        lambda total: total[:, 0] / total[:, 1],
        np.stack([column, np.ones_like(column)], 1),
        level,
        resamples,
        seed,
    )


def difference(
    first: ArrayLike, second: ArrayLike, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return the mean of ``first - second`` over paired units and its interval.

    Raises
    ------
    DataError
        If the two do not hold the same number of units.
    """
    a, b = np.asarray(first, np.float64).ravel(), np.asarray(second, np.float64).ravel()
    if a.shape != b.shape:
        raise DataError(f"paired scores need the same images on both sides: {a.size} and {b.size} given")
    return mean(a - b, level, resamples, seed)


def pooled(
    statistic: Callable[[Array], Array],
    counts: ArrayLike,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return a score of summed counts and its interval.

    Parameters
    ----------
    statistic
        From sums of axes (samples, columns) to one score for each sample.
    counts
        Axes (units, columns): the counts of each unit.
    level
        Share of the resampled scores inside the interval.
    resamples
        Number of resamples.
    seed
        Of the draws; equal seeds give equal intervals.
    """
    table = np.asarray(counts, np.float64)
    n = len(table)
    value = float(statistic(table.sum(axis=0, keepdims=True))[0])
    if n < 2:
        return Interval(value, float("nan"), float("nan"), n)
    generator = np.random.Generator(np.random.Philox(seed))
    weights = generator.multinomial(n, np.full(n, 1 / n), size=resamples)
    scores = statistic(weights @ table)
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), n)
