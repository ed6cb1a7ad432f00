"""Scores of many images as one: counts added up, other scores averaged, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from aequorea.scores import bootstrap, formulas
from aequorea.scores.bootstrap import Interval
from aequorea.volume import Array

Row = Mapping[str, float]
"""Scores and counts of one image, by name; ``name.class`` where there are several classes."""


def pool(rows: Sequence[Row], seed: int = 0) -> dict[str, Interval]:
    """Pool the scores of several images.

    A score that is a formula of counts (Dice, IoU, F1, panoptic quality, ...) is the formula of the summed
    counts, so that large images weigh more; one that is not (HD95, say) is the mean over images. The plain
    name of a score with classes is the mean over the classes of their pooled scores. Images are resampled
    whole.

    Parameters
    ----------
    rows
        One per image. A score that an image lacks (a distance in µm where no spacing is known) is pooled
        without that image.
    seed
        Of the resamples.

    Returns
    -------
    dict
        Score and interval by name; counts are not scores and are left out.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    scores = [name for name in names if name.partition(".")[0] not in formulas.COUNTS]
    return {name: _pool_one(rows, name, seed) for name in scores}


def paired(first: Sequence[Row], second: Sequence[Row], name: str, seed: int = 0) -> Interval:
    """Return the mean over images of ``first - second`` in one score, with its interval."""
    return bootstrap.difference([row[name] for row in first], [row[name] for row in second], seed=seed)


def _pool_one(rows: Sequence[Row], name: str, seed: int) -> Interval:
    stem, _, cls = name.partition(".")
    if stem in formulas.FORMULAS:
        formula, parts = formulas.FORMULAS[stem]
        classes = [cls] if cls else _classes(rows[0], stem)
        columns = [f"{part}.{one}" if one else part for one in classes for part in parts]
        if all(column in row for row in rows for column in columns):
            counts = [[row[column] for column in columns] for row in rows]
            return bootstrap.pooled(_mean_over_classes(formula, len(parts)), counts, seed=seed)
    return bootstrap.mean([row.get(name, np.nan) for row in rows], seed=seed)


def _classes(row: Row, stem: str) -> list[str]:
    classes = [name.partition(".")[2] for name in row if name.startswith(f"{stem}.")]
    return classes or [""]


def _mean_over_classes(formula: Callable[..., Array], parts: int) -> Callable[[Array], Array]:
    def statistic(sums: Array) -> Array:
        groups = [sums[:, i : i + parts].T for i in range(0, sums.shape[1], parts)]
        return np.asarray(np.mean([formula(*group) for group in groups], axis=0))

    return statistic
