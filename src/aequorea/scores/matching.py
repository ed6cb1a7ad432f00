"""Scores of instance segmentation: objects matched one to one by their overlap.

Read in this order: :class:`OverlapTable` (which object shares how many voxels with which, sparse, adding up
over blocks), :func:`match` (pairs and counts), :func:`instance_scores` (all numbers at once). Rand error and
variation of information of the same table are in :mod:`aequorea.scores.partition`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from aequorea.errors import DataError
from aequorea.scores import formulas
from aequorea.scores.assignment import assign
from aequorea.scores.overlap import check_shapes
from aequorea.volume import Array

IGNORED = -1
PART_OF_LARGEST = 0.1
_KEEP_PENDING = 1 << 21


@dataclass(frozen=True)
class OverlapTable:
    """Voxels shared by each pair of labels that meet; background (0) is a label like any other.

    Attributes
    ----------
    truth, pred
        (N,) labels of each pair, ordered by truth, then prediction. The truth of an ignored voxel is
        ``IGNORED``.
    voxels
        (N,) voxels that carry both.
    """

    truth: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    pred: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    voxels: Array = field(default_factory=lambda: np.zeros(0, np.int64))

    @classmethod
    def from_arrays(cls, truth: Array, pred: Array, ignore: Array | None = None) -> OverlapTable:
        """Tabulate two label arrays of one shape.

        Parameters
        ----------
        truth, pred
            Object numbers, 0 for background.
        ignore
            Mask of voxels whose label is not known.

        Raises
        ------
        DataError
            If shapes differ, or labels are negative or no whole numbers.
        """
        check_shapes(truth, pred, ignore)
        left, right = _labels(truth, "truth"), _labels(pred, "prediction")
        if ignore is not None:
            left = np.where(np.asarray(ignore, bool).ravel(), IGNORED, left)
        if not left.size:
            return cls()
        # Labels come in long runs: one entry for each run makes the sort below short.
        ends = np.flatnonzero((left[1:] != left[:-1]) | (right[1:] != right[:-1]))
        ends = np.append(ends, left.size - 1)
        return cls._sum(left[ends], right[ends], np.diff(ends, prepend=-1))

    @classmethod
    def from_blocks(cls, blocks: Iterable[tuple[Array, Array, Array | None]]) -> OverlapTable:
        """Tabulate a volume from blocks ``(truth, pred, ignore)`` that tile it, in any order."""
        tables: list[OverlapTable] = []
        pending, settled = 0, 0
        for truth, pred, ignore in blocks:
            tables.append(cls.from_arrays(truth, pred, ignore))
            pending += len(tables[-1].voxels)
            if pending > max(_KEEP_PENDING, settled):
                tables = [cls.total(tables)]
                pending, settled = 0, len(tables[0].voxels)
        return cls.total(tables)

    @classmethod
    def total(cls, tables: Sequence[OverlapTable]) -> OverlapTable:
        """Return the sum of tables of parts of one volume (object numbers must mean the same in all)."""
        if not tables:
            return cls()
        return cls._sum(
            np.concatenate([table.truth for table in tables]),
            np.concatenate([table.pred for table in tables]),
            np.concatenate([table.voxels for table in tables]),
        )

    @classmethod
    def _sum(cls, truth: Array, pred: Array, voxels: Array) -> OverlapTable:
        order = np.lexsort((pred, truth))
        truth, pred, voxels = truth[order], pred[order], voxels[order]
        first = np.ones(len(truth), bool)
        first[1:] = (truth[1:] != truth[:-1]) | (pred[1:] != pred[:-1])
        starts = np.flatnonzero(first)
        total = np.add.reduceat(voxels, starts) if len(starts) else voxels
        return cls(truth[starts], pred[starts], total.astype(np.int64))

    def __add__(self, other: OverlapTable) -> OverlapTable:
        return OverlapTable.total([self, other])

    def known(self) -> OverlapTable:
        """Return the table of the labelled voxels alone.

        A predicted object with more than half of its voxels among the ignored ones cannot be judged: it is
        dropped, and what is left of it counts as background. Ignored voxels are then taken out of both sides.
        """
        ignored = self.truth == IGNORED
        if not ignored.any():
            return self
        ids, index = np.unique(self.pred, return_inverse=True)
        size = np.bincount(index, self.voxels, len(ids))
        hidden = np.bincount(index[ignored], self.voxels[ignored], len(ids))
        dropped = (2 * hidden > size) & (ids != 0)
        pred = np.where(dropped[index], 0, self.pred)
        return OverlapTable._sum(self.truth[~ignored], pred[~ignored], self.voxels[~ignored])


@dataclass(frozen=True)
class Matching:
    """Objects matched one to one.

    Attributes
    ----------
    tp, fp, fn
        Matched pairs, predicted objects left over, true objects left over.
    pairs
        (tp, 2) numbers of the true and the predicted object of each pair, by true object.
    ious
        (tp,) intersection over union of each pair.
    """

    tp: int
    fp: int
    fn: int
    pairs: Array
    ious: Array

    @property
    def f1(self) -> float:
        """2TP / (2TP + FP + FN); 1 where there are no objects on either side."""
        return float(formulas.dice(self.tp, self.fp, self.fn))

    @property
    def ap(self) -> float:
        """TP / (TP + FP + FN); 1 where there are no objects on either side."""
        return float(formulas.iou(self.tp, self.fp, self.fn))

    @property
    def panoptic_quality(self) -> float:
        """Sum of IoUs / (TP + FP/2 + FN/2); 1 where there are no objects on either side."""
        return float(formulas.panoptic_quality(self.ious.sum(), self.tp + self.fn, self.tp + self.fp))


@dataclass(frozen=True)
class Overlaps:
    """Objects on both sides and the pairs of them that share voxels; what :func:`match` works on.

    Attributes
    ----------
    truth_ids, pred_ids
        Numbers of the objects, ascending.
    truth_sizes, pred_sizes
        Their labelled voxels.
    left, right
        (N,) indices into the two lists, one for each pair of objects that meet.
    shared
        (N,) voxels of each pair.
    """

    truth_ids: Array
    pred_ids: Array
    truth_sizes: Array
    pred_sizes: Array
    left: Array
    right: Array
    shared: Array

    @classmethod
    def of(cls, table: OverlapTable) -> Overlaps:
        """Take the objects out of a table: background removed, ignored voxels handled."""
        table = table.known()
        truth_ids, truth_sizes = _sizes(table.truth, table.voxels)
        pred_ids, pred_sizes = _sizes(table.pred, table.voxels)
        meet = (table.truth > 0) & (table.pred > 0)
        left = np.searchsorted(truth_ids, table.truth[meet])
        right = np.searchsorted(pred_ids, table.pred[meet])
        return cls(truth_ids, pred_ids, truth_sizes, pred_sizes, left, right, table.voxels[meet])

    @property
    def ious(self) -> Array:
        """Intersection over union of each pair."""
        union = self.truth_sizes[self.left] + self.pred_sizes[self.right] - self.shared
        return np.asarray(self.shared / union)

    def match(self, threshold: float = 0.5) -> Matching:
        """Match one to one: most pairs of IoU >= ``threshold`` first, then the largest sum of IoU."""
        if not 0 < threshold <= 1:
            raise DataError(f"a threshold of IoU lies in (0, 1]; got {threshold}")
        ious = self.ious
        good = np.flatnonzero(ious >= threshold)
        chosen = good[assign(self.left[good], self.right[good], ious[good])]
        pairs = np.stack([self.truth_ids[self.left[chosen]], self.pred_ids[self.right[chosen]]], axis=1)
        tp = len(chosen)
        return Matching(tp, len(self.pred_ids) - tp, len(self.truth_ids) - tp, pairs, ious[chosen])

    def split(self) -> Array:
        """Return the numbers of the true objects that are split.

        Parts of a true object are the predicted objects with more than half of their voxels inside it; parts
        under a tenth of its largest part are debris and do not count. It is split if two or more parts count.
        """
        inside = 2 * self.shared > self.pred_sizes[self.right]
        parts = _in_parts(self.left[inside], self.shared[inside], len(self.truth_ids))
        return np.asarray(self.truth_ids[parts > 1])

    def merged(self) -> Array:
        """Return the numbers of the true objects that share one predicted object with another.

        The same rule the other way round: the parts of a predicted object are the true objects with more than
        half of their voxels inside it, without debris under a tenth of the largest; two or more are merged.
        """
        inside = np.flatnonzero(2 * self.shared > self.truth_sizes[self.left])
        parts = _in_parts(self.right[inside], self.shared[inside], len(self.pred_ids))
        largest = _largest(self.right[inside], self.shared[inside], len(self.pred_ids))
        counts = self.shared[inside] >= PART_OF_LARGEST * largest[self.right[inside]]
        mixed = (parts[self.right[inside]] > 1) & counts
        return np.asarray(self.truth_ids[np.sort(self.left[inside[mixed]])])


def match(truth: Array, pred: Array, threshold: float = 0.5, ignore: Array | None = None) -> Matching:
    """Match the objects of two label arrays one to one.

    Parameters
    ----------
    truth, pred
        Object numbers of one shape, 0 for background.
    threshold
        Least intersection over union of a pair. Above 0.5 no object has two candidates; from 0.5 down the
        assignment with most pairs, and among those the largest sum of IoU, is found
        (``scipy.optimize.linear_sum_assignment``).
    ignore
        Mask of voxels whose label is not known; see :meth:`OverlapTable.known`.
    """
    return Overlaps.of(OverlapTable.from_arrays(truth, pred, ignore)).match(threshold)


def instance_scores(truth: Array, pred: Array, ignore: Array | None = None) -> dict[str, float]:
    """Return all scores of two label arrays; see :func:`table_scores`."""
    return table_scores(OverlapTable.from_arrays(truth, pred, ignore))


def table_scores(table: OverlapTable) -> dict[str, float]:
    """Return all instance scores of an overlap table.

    Returns
    -------
    dict
        ``f1_50``, ``ap_50``, ``f1_75``, ``ap_75``, ``pq`` (at IoU 0.5), ``split_rate`` and ``merge_rate``
        (shares of the true objects), ``count_error`` ((predicted - true) / true), and the counts that pool
        them: ``n_truth``, ``n_pred``, ``tp_50``, ``tp_75``, ``iou_sum``, ``n_split``, ``n_merged``.
    """
    overlaps = Overlaps.of(table)
    half, strict = overlaps.match(0.5), overlaps.match(0.75)
    counts = {
        "n_truth": float(len(overlaps.truth_ids)),
        "n_pred": float(len(overlaps.pred_ids)),
        "tp_50": float(half.tp),
        "tp_75": float(strict.tp),
        "iou_sum": float(half.ious.sum()),
        "n_split": float(len(overlaps.split())),
        "n_merged": float(len(overlaps.merged())),
    }
    return {name: float(value) for name, value in formulas.from_counts(counts).items()} | counts


def f1_curve(table: OverlapTable, thresholds: Sequence[float]) -> list[tuple[float, float]]:
    """Return (threshold of IoU, F1) for each threshold."""
    overlaps = Overlaps.of(table)
    return [(float(threshold), overlaps.match(threshold).f1) for threshold in thresholds]


def _labels(labels: Array, side: str) -> Array:
    flat = np.asarray(labels).ravel()
    if flat.dtype.kind not in "biu":
        raise DataError(f"{side}: object numbers are whole numbers, not {flat.dtype}")
    if flat.dtype.kind == "i" and flat.size and flat.min() < 0:
        raise DataError(
            f"{side}: negative object numbers; mark unlabelled voxels with the 'unlabelled' value instead"
        )
    return flat.astype(np.int64)


def _sizes(labels: Array, voxels: Array) -> tuple[Array, Array]:
    ids, index = np.unique(labels, return_inverse=True)
    sizes = np.bincount(index, voxels, len(ids)).astype(np.int64)
    return ids[ids > 0], sizes[ids > 0]


def _largest(whole: Array, shared: Array, n: int) -> Array:
    largest = np.zeros(n)
    np.maximum.at(largest, whole, shared)
    return largest


def _in_parts(whole: Array, shared: Array, n: int) -> Array:
    """Return how many parts each of ``n`` objects has that are no debris."""
    counts = shared >= PART_OF_LARGEST * _largest(whole, shared, n)[whole]
    return np.bincount(whole[counts], minlength=n)
