"""Overlap of two masks: Dice, intersection over union, precision and recall, from counts that add.

Voxels marked in ``ignore`` (nobody labelled them) enter no count.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from aequorea.errors import DataError
from aequorea.scores import formulas
from aequorea.volume import Array


@dataclass(frozen=True)
class Counts:
    """Voxels by outcome; counts of blocks and of images add up to those of the whole.

    Attributes
    ----------
    tp, fp, fn, tn
        Voxels that are foreground in both, only in the prediction, only in the truth, in neither.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)

    @property
    def dice(self) -> float:
        """2TP / (2TP + FP + FN); 1 where both masks are empty."""
        return float(formulas.dice(self.tp, self.fp, self.fn))

    @property
    def iou(self) -> float:
        """TP / (TP + FP + FN); 1 where both masks are empty."""
        return float(formulas.iou(self.tp, self.fp, self.fn))

    @property
    def precision(self) -> float:
        """TP / (TP + FP); with an empty prediction 1 if the truth is empty too, else 0."""
        return float(formulas.precision(self.tp, self.fp, self.fn))

    @property
    def recall(self) -> float:
        """TP / (TP + FN); with an empty truth 1 if the prediction is empty too, else 0."""
        return float(formulas.recall(self.tp, self.fp, self.fn))


def count(truth: Array, pred: Array, ignore: Array | None = None) -> Counts:
    """Count the voxels of two masks by outcome.

    Parameters
    ----------
    truth, pred
        Masks of one shape; non-zero is foreground.
    ignore
        Mask of voxels to leave out.

    Raises
    ------
    DataError
        If the shapes differ.
    """
    check_shapes(truth, pred, ignore)
    truth, pred = np.asarray(truth) != 0, np.asarray(pred) != 0
    if ignore is not None:
        known = ~np.asarray(ignore, bool)
        truth, pred = truth[known], pred[known]
    tp = int(np.count_nonzero(truth & pred))
    fp = int(np.count_nonzero(pred)) - tp
    fn = int(np.count_nonzero(truth)) - tp
    return Counts(tp, fp, fn, truth.size - tp - fp - fn)


def count_classes(
    truth: Array, pred: Array, classes: Iterable[int], ignore: Array | None = None
) -> dict[int, Counts]:
    """Count voxels by outcome for each class number of two class images."""
    return {number: count(truth == number, pred == number, ignore) for number in classes}


def dice(truth: Array, pred: Array, ignore: Array | None = None) -> float:
    """Return the Dice coefficient of two masks (Dice 1945); 1 where both are empty."""
    return count(truth, pred, ignore).dice


def iou(truth: Array, pred: Array, ignore: Array | None = None) -> float:
    """Return the intersection over union of two masks (Jaccard 1901); 1 where both are empty."""
    return count(truth, pred, ignore).iou


def precision(truth: Array, pred: Array, ignore: Array | None = None) -> float:
    """Return the share of predicted foreground that is true; see :class:`Counts` for empty masks."""
    return count(truth, pred, ignore).precision


def recall(truth: Array, pred: Array, ignore: Array | None = None) -> float:
    """Return the share of true foreground that is found; see :class:`Counts` for empty masks."""
    return count(truth, pred, ignore).recall


def check_shapes(truth: Array, pred: Array, ignore: Array | None = None) -> None:
    """Raise :class:`DataError` unless all arrays have one shape."""
    shapes = {"truth": np.shape(truth), "prediction": np.shape(pred)}
    if ignore is not None:
        shapes["ignore"] = np.shape(ignore)
    if len(set(shapes.values())) > 1:
        told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise DataError(
            f"arrays of different shapes cannot be compared: {told}; crop or resample one of them"
        )
