"""Scores of found places, e.g. cell centres: matched one to one within a distance in µm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from aequorea.errors import DataError
from aequorea.scores import formulas
from aequorea.scores.assignment import assign
from aequorea.volume import Array, Spacing


@dataclass(frozen=True)
class PointMatching:
    """Places matched one to one.

    Attributes
    ----------
    tp, fp, fn
        Matched pairs, found places left over, true places left over.
    pairs
        (tp, 2) row numbers of the true and the found place of each pair.
    distances
        (tp,) distance of each pair in µm (voxels where the spacing is not known).
    """

    tp: int
    fp: int
    fn: int
    pairs: Array
    distances: Array

    @property
    def f1(self) -> float:
        """2TP / (2TP + FP + FN); 1 where there is nothing to find and nothing found."""
        return float(formulas.dice(self.tp, self.fp, self.fn))

    @property
    def precision(self) -> float:
        """TP / (TP + FP)."""
        return float(formulas.precision(self.tp, self.fp, self.fn))

    @property
    def recall(self) -> float:
        """TP / (TP + FN)."""
        return float(formulas.recall(self.tp, self.fp, self.fn))


def match_points(truth: Array, pred: Array, distance: float, spacing: Spacing | None = None) -> PointMatching:
    """Match places one to one: most pairs first, then the least sum of distances.

    Parameters
    ----------
    truth, pred
        (N, 3) and (M, 3) places z, y, x in voxels.
    distance
        Largest distance of a pair, in µm (in voxels where ``spacing`` is ``None``).
    spacing
        Voxel size in µm (z, y, x).

    Raises
    ------
    DataError
        If ``distance`` is not positive.
    """
    if not distance > 0:
        raise DataError(f"the distance within which points match must be positive; got {distance}")
    step = np.ones(3) if spacing is None else np.asarray(spacing, np.float64)
    truth = np.asarray(truth, np.float64).reshape(-1, 3) * step
    pred = np.asarray(pred, np.float64).reshape(-1, 3) * step
    near = np.zeros(0, dtype=[("i", np.intp), ("j", np.intp), ("v", np.float64)])
    if len(truth) and len(pred):
        near = KDTree(truth).sparse_distance_matrix(KDTree(pred), distance, output_type="ndarray")
    left, right, apart = near["i"], near["j"], near["v"]
    chosen = assign(left, right, 1 - apart / distance)
    tp = len(chosen)
    pairs = np.stack([left[chosen], right[chosen]], axis=1)
    order = np.argsort(pairs[:, 0])
    return PointMatching(tp, len(pred) - tp, len(truth) - tp, pairs[order], apart[chosen][order])
