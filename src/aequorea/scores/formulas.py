"""Scores as formulas of counts, so that one image, many pooled images and bootstrap resamples share them.

Every function takes counts (numbers or arrays of one shape) and returns scores of that shape. Counts of
images are pooled by adding them up. Where a score is 0/0 the rule is: nothing to find and nothing found is
perfect (1); something to find and nothing found, or the reverse, is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from aequorea.volume import Array

Count = float | Array


def ratio(part: Count, whole: Count, empty: Count) -> Array:
    """Return ``part / whole``, and ``empty`` where ``whole`` is 0."""
    some = np.asarray(whole) > 0
    return np.where(some, part / np.where(some, whole, 1.0), empty)


def dice(tp: Count, fp: Count, fn: Count) -> Array:
    """Return 2TP / (2TP + FP + FN), of voxels (Dice) or of objects (F1)."""
    return ratio(2 * tp, 2 * tp + fp + fn, 1.0)


def iou(tp: Count, fp: Count, fn: Count) -> Array:
    """Return TP / (TP + FP + FN), of voxels (IoU) or of objects (average precision)."""
    return ratio(tp, tp + fp + fn, 1.0)


def precision(tp: Count, fp: Count, fn: Count) -> Array:
    """Return TP / (TP + FP); nothing predicted is 1 where there was nothing to find, else 0."""
    return ratio(tp, tp + fp, np.where(np.asarray(fn) > 0, 0.0, 1.0))


def recall(tp: Count, fp: Count, fn: Count) -> Array:
    """Return TP / (TP + FN); nothing to find is 1 where nothing was predicted, else 0."""
    return ratio(tp, tp + fn, np.where(np.asarray(fp) > 0, 0.0, 1.0))


def cldice(truth: Count, truth_covered: Count, pred: Count, pred_covered: Count) -> Array:
    """Return the harmonic mean of the covered shares of two skeletons.

    Parameters
    ----------
    truth, pred
        Voxels of the skeleton of the truth and of the prediction.
    truth_covered, pred_covered
        Those of them that lie inside the other mask.
    """
    both_empty = (np.asarray(truth) == 0) & (np.asarray(pred) == 0)
    sensitivity = ratio(truth_covered, truth, np.where(both_empty, 1.0, 0.0))
    topology_precision = ratio(pred_covered, pred, np.where(both_empty, 1.0, 0.0))
    return ratio(2 * sensitivity * topology_precision, sensitivity + topology_precision, 0.0)


def object_f1(tp: Count, n_truth: Count, n_pred: Count) -> Array:
    """Return 2TP / (2TP + FP + FN) of matched objects."""
    return dice(tp, n_pred - tp, n_truth - tp)


def object_ap(tp: Count, n_truth: Count, n_pred: Count) -> Array:
    """Return TP / (TP + FP + FN) of matched objects."""
    return iou(tp, n_pred - tp, n_truth - tp)


def panoptic_quality(iou_sum: Count, n_truth: Count, n_pred: Count) -> Array:
    """Return the sum of matched IoUs over TP + FP/2 + FN/2 (Kirillov et al., CVPR 2019)."""
    return ratio(iou_sum, (n_truth + n_pred) / 2, 1.0)


def share(part: Count, n_truth: Count) -> Array:
    """Return a share of the true objects; 0 where there are none."""
    return ratio(part, n_truth, 0.0)


def count_error(n_truth: Count, n_pred: Count) -> Array:
    """Return (predicted - true) / true number of objects; with no true object, the number predicted."""
    return np.asarray((n_pred - n_truth) / np.maximum(n_truth, 1.0))


FORMULAS: dict[str, tuple[Callable[..., Array], tuple[str, ...]]] = {
    "dice": (dice, ("tp", "fp", "fn")),
    "iou": (iou, ("tp", "fp", "fn")),
    "precision": (precision, ("tp", "fp", "fn")),
    "recall": (recall, ("tp", "fp", "fn")),
    "cldice": (
        cldice,
        ("skeleton_truth", "skeleton_truth_covered", "skeleton_pred", "skeleton_pred_covered"),
    ),
    "f1_50": (object_f1, ("tp_50", "n_truth", "n_pred")),
    "ap_50": (object_ap, ("tp_50", "n_truth", "n_pred")),
    "f1_75": (object_f1, ("tp_75", "n_truth", "n_pred")),
    "ap_75": (object_ap, ("tp_75", "n_truth", "n_pred")),
    "pq": (panoptic_quality, ("iou_sum", "n_truth", "n_pred")),
    "split_rate": (share, ("n_split", "n_truth")),
    "merge_rate": (share, ("n_merged", "n_truth")),
    "count_error": (count_error, ("n_truth", "n_pred")),
}
"""Each score that can be pooled: its formula and the counts that it takes, by name."""

COUNTS = frozenset(name for _, names in FORMULAS.values() for name in names)
"""Names of the counts, which are added up over images and are no scores themselves."""


def from_counts(counts: dict[str, Any]) -> dict[str, Any]:
    """Return every score whose counts are all given; values may be numbers or arrays of one shape."""
    return {
        name: formula(*(counts[part] for part in parts))
        for name, (formula, parts) in FORMULAS.items()
        if all(part in counts for part in parts)
    }
