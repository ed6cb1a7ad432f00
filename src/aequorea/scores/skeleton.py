"""clDice: do the centre lines of thin structures lie inside each other? (Shit et al., CVPR 2021).

Skeletons are those of scikit-image: Zhang's in 2-D and for a single plane, Lee's in 3-D. They are taken on
the voxel grid; spacing does not enter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import find_objects, label
from skimage.morphology import skeletonize

from aequorea.scores import formulas
from aequorea.scores.overlap import check_shapes
from aequorea.volume import Array


@dataclass(frozen=True)
class SkeletonCounts:
    """Skeleton voxels of truth and prediction, and those inside the other mask; counts add."""

    truth: int = 0
    truth_covered: int = 0
    pred: int = 0
    pred_covered: int = 0

    def __add__(self, other: SkeletonCounts) -> SkeletonCounts:
        return SkeletonCounts(
            self.truth + other.truth,
            self.truth_covered + other.truth_covered,
            self.pred + other.pred,
            self.pred_covered + other.pred_covered,
        )

    @property
    def cldice(self) -> float:
        """Harmonic mean of the two covered shares; 1 where both skeletons are empty, 0 where one is."""
        return float(formulas.cldice(self.truth, self.truth_covered, self.pred, self.pred_covered))


def skeleton(mask: Array) -> Array:
    """Return the centre line of a mask of axes Y X or Z Y X; one plane counts as 2-D.

    Every connected piece has a centre line: where thinning erases one altogether (Lee's does cubes of
    even size), the voxel nearest to its centroid stands for it.
    """
    mask = np.asarray(mask) != 0
    if mask.ndim == 3 and 1 in mask.shape:
        flat = mask.squeeze(axis=mask.shape.index(1))
        return skeleton(flat).reshape(mask.shape)
    line = np.asarray(skeletonize(mask), bool)
    pieces, n = label(mask, np.ones((3,) * mask.ndim))
    erased = np.bincount(pieces[line], minlength=n + 1) == 0
    erased[0] = False
    boxes = find_objects(pieces) if erased.any() else []
    for number in np.flatnonzero(erased):
        box = boxes[number - 1]
        inside = np.argwhere(pieces[box] == number)
        nearest = inside[np.argmin(((inside - inside.mean(axis=0)) ** 2).sum(axis=1))]
        line[tuple(nearest + [side.start for side in box])] = True
    return line


def skeleton_counts(truth: Array, pred: Array, ignore: Array | None = None) -> SkeletonCounts:
    """Count skeleton voxels and those covered by the other mask.

    Parameters
    ----------
    truth, pred
        Masks of axes Y X or Z Y X.
    ignore
        Voxels whose label is not known; they are taken out of both masks before the skeletons are drawn.
    """
    check_shapes(truth, pred, ignore)
    truth, pred = np.asarray(truth) != 0, np.asarray(pred) != 0
    if ignore is not None:
        known = ~np.asarray(ignore, bool)
        truth, pred = truth & known, pred & known
    lines = skeleton(truth), skeleton(pred)
    return SkeletonCounts(
        int(lines[0].sum()), int((lines[0] & pred).sum()), int(lines[1].sum()), int((lines[1] & truth).sum())
    )


def cldice(truth: Array, pred: Array, ignore: Array | None = None) -> float:
    """Return clDice of two masks; 1 where both are empty, 0 where one is."""
    return skeleton_counts(truth, pred, ignore).cldice
