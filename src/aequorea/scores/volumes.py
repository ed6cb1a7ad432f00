"""Scores of a predicted label volume against labels, read block by block: what ``Task.score`` calls.

Counts, overlaps and surfaces add up over blocks, so nothing here holds a whole volume, except skeletons:
above ``SKELETON_VOXELS`` they are drawn block by block, which cuts centre lines at block faces on both sides
alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from aequorea.annotations import LabelImage
from aequorea.errors import DataError
from aequorea.scores import formulas, partition
from aequorea.scores.matching import OverlapTable, table_scores
from aequorea.scores.overlap import Counts, count
from aequorea.scores.skeleton import SkeletonCounts, skeleton_counts
from aequorea.scores.surface import block_surface, distances
from aequorea.volume import Array, Region, Triple, Volume

BLOCK: Triple = (64, 256, 256)
SKELETON_VOXELS = 1 << 27
_MARGIN = (1, 1, 1)


def class_scores(pred: Volume, truth: LabelImage, classes: Mapping[int, str]) -> dict[str, float]:
    """Score a volume of class numbers.

    Parameters
    ----------
    pred
        One channel of class numbers on the grid of the labels.
    truth
        The labels; voxels of their ``unlabelled`` value do not count.
    classes
        Name of each class number to score (without background).

    Returns
    -------
    dict
        ``dice``, ``iou``, ``precision``, ``recall``, ``cldice``, ``hd95_um`` and ``surface_distance_um``
        (``hd95_voxels`` and ``surface_distance_voxels`` where no spacing is known), and the counts that pool
        them. With several classes each name is followed by ``.class``, and the plain name is the mean over
        classes.

    Raises
    ------
    DataError
        If the two grids differ.
    """
    _check_grids(pred, truth)
    per_class = {name: _one_class(pred, truth, number) for number, name in classes.items()}
    if len(per_class) == 1:
        return next(iter(per_class.values()))
    scores: dict[str, float] = {}
    for name in next(iter(per_class.values()), {}):
        if name not in formulas.COUNTS:
            scores[name] = float(np.mean([values[name] for values in per_class.values()]))
    for cls, values in per_class.items():
        scores.update({f"{name}.{cls}": value for name, value in values.items()})
    return scores


def object_scores(pred: Volume, truth: LabelImage) -> dict[str, float]:
    """Score a volume of object numbers.

    Parameters
    ----------
    pred
        One channel of object numbers on the grid of the labels.
    truth
        The labels; voxels of their ``unlabelled`` value do not count. Where that value is 0, 1 is background
        and objects begin at 2.

    Returns
    -------
    dict
        What :func:`aequorea.scores.matching.table_scores` gives; ``dice``, ``iou``, ``precision``, ``recall``
        of the foreground (any object) with their counts; ``rand_error``, ``voi_split`` and ``voi_merge`` of
        :mod:`aequorea.scores.partition`.

    Raises
    ------
    DataError
        If the two grids differ.
    """
    table = overlap_table(pred, truth)
    information = partition.variation_of_information(table)
    foreground = {
        "tp": float(table.voxels[(table.truth > 0) & (table.pred > 0)].sum()),
        "fp": float(table.voxels[(table.truth == 0) & (table.pred > 0)].sum()),
        "fn": float(table.voxels[(table.truth > 0) & (table.pred == 0)].sum()),
    }
    voxels = {name: float(value) for name, value in formulas.from_counts(foreground).items()}
    return (
        table_scores(table)
        | voxels
        | foreground
        | {
            "rand_error": partition.rand_error(table).error,
            "voi_split": information.split,
            "voi_merge": information.merge,
        }
    )


def overlap_table(pred: Volume, truth: LabelImage) -> OverlapTable:
    """Tabulate two label volumes block by block; raises :class:`DataError` if the two grids differ."""
    _check_grids(pred, truth)
    return OverlapTable.from_blocks(
        read_objects(pred, truth, region) for region in Region.whole(pred.size).split(BLOCK)
    )


def read_objects(pred: Volume, truth: LabelImage, region: Region) -> tuple[Array, Array, Array | None]:
    """Return true and predicted object numbers of a region and the mask of its unlabelled voxels."""
    labels, found, ignore = _read(pred, truth, region)
    if truth.unlabelled == 0:
        labels = np.maximum(labels.astype(np.int64) - 1, 0)
    return labels, found, ignore


def _one_class(pred: Volume, truth: LabelImage, number: int) -> dict[str, float]:
    voxels = Counts()
    surfaces: tuple[list[Array], list[Array]] = ([], [])
    for block in Region.whole(pred.size).split(BLOCK):
        region = block.grow(_MARGIN).clip(pred.region)
        labels, found, ignore = _read(pred, truth, region)
        inner = block.relative_to(region).slices
        masks = labels == number, found == number
        voxels += count(masks[0][inner], masks[1][inner], None if ignore is None else ignore[inner])
        for points, mask in zip(surfaces, masks):
            points.append(block_surface(mask, ignore, region, block, pred.size))
    lines = SkeletonCounts()
    for block in _skeleton_blocks(pred):
        labels, found, ignore = _read(pred, truth, block)
        lines += skeleton_counts(labels == number, found == number, ignore)
    spacing = truth.spacing or pred.spacing
    apart = distances(np.concatenate(surfaces[0]), np.concatenate(surfaces[1]), pred.size, spacing)
    unit = "voxels" if spacing is None else "um"
    counts = {
        "tp": float(voxels.tp),
        "fp": float(voxels.fp),
        "fn": float(voxels.fn),
        "skeleton_truth": float(lines.truth),
        "skeleton_truth_covered": float(lines.truth_covered),
        "skeleton_pred": float(lines.pred),
        "skeleton_pred_covered": float(lines.pred_covered),
    }
    scores = {name: float(value) for name, value in formulas.from_counts(counts).items()}
    return scores | {f"hd95_{unit}": apart.hd95, f"surface_distance_{unit}": apart.average} | counts


def _skeleton_blocks(pred: Volume) -> Iterator[Region]:
    whole = Region.whole(pred.size)
    if whole.voxels <= SKELETON_VOXELS:
        yield whole
    else:
        yield from whole.split((256, 256, 256))


def _read(pred: Volume, truth: LabelImage, region: Region) -> tuple[Array, Array, Array | None]:
    labels, found = truth.volume.read(region)[0], pred.read(region)[0]
    if truth.unlabelled is None:
        return labels, found, None
    ignore = labels == truth.unlabelled
    return np.where(ignore, 0, labels), found, ignore


def _check_grids(pred: Volume, truth: LabelImage) -> None:
    if pred.size != truth.volume.size:
        raise DataError(
            f"{truth.volume.name}: labels of {truth.volume.size} voxels (z, y, x) cannot be compared with a "
            f"result of {pred.size}; give the labels that belong to this image"
        )
