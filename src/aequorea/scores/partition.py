"""Scores of a volume cut into cells: adapted Rand error and variation of information.

They suit tissue in which every voxel belongs to a cell; voxels without a true cell do not count. Both come
from an :class:`~aequorea.scores.matching.OverlapTable`, hence for volumes larger than memory too, and equal
those of scikit-image (whose precision and recall of the Rand error are ours the other way round).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from aequorea.scores.matching import OverlapTable
from aequorea.volume import Array


class RandError(NamedTuple):
    """Adapted Rand error and its two sides: pairs of voxels joined in both among those joined in one."""

    error: float
    precision: float
    recall: float


class Information(NamedTuple):
    """Variation of information in bits: what is added by splits, and by merges; their sum is the distance."""

    split: float
    merge: float


def rand_error(table: OverlapTable) -> RandError:
    """Return the adapted Rand error (Arganda-Carreras et al. 2015); 0 where no voxels are joined."""
    shared, truth, pred = _cells(table)
    both = _pairs(shared)
    in_truth, in_pred = _pairs(truth), _pairs(pred)
    if in_truth + in_pred == 0:
        return RandError(0.0, 1.0, 1.0)
    return RandError(
        1 - 2 * both / (in_truth + in_pred),
        both / in_pred if in_pred else 1.0,
        both / in_truth if in_truth else 1.0,
    )


def variation_of_information(table: OverlapTable) -> Information:
    """Return H(prediction | truth) and H(truth | prediction) in bits (Meila 2007); 0 without labels."""
    shared, truth, pred = _cells(table)
    together = _entropy(shared)
    return Information(together - _entropy(truth), together - _entropy(pred))


def _cells(table: OverlapTable) -> tuple[Array, Array, Array]:
    """Voxels of each pair, each true cell and each predicted label, where there is a true cell."""
    inside = table.truth > 0
    shared = table.voxels[inside].astype(np.float64)
    _, left = np.unique(table.truth[inside], return_inverse=True)
    _, right = np.unique(table.pred[inside], return_inverse=True)
    return shared, np.bincount(left, shared), np.bincount(right, shared)


def _pairs(voxels: Array) -> float:
    return float((voxels * (voxels - 1)).sum())


def _entropy(voxels: Array) -> float:
    if not voxels.size:
        return 0.0
    share = voxels / voxels.sum()
    return float(-(share * np.log2(share)).sum())
