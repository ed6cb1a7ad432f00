"""Measures of labelled objects, gathered block by block.

Sums are whole numbers wherever the data are, so that the table does not depend on how the volume was cut.
Intensities of floating-point images are summed in float64, block after block in a fixed order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from aequorea.results import Table
from aequorea.volume import Array, Spacing, Triple

Sums = dict[str, Array]
"""What one block adds to each of its objects; ``id`` names them."""


def measure_block(
    labels: NDArray[np.uint32],
    start: Triple,
    size: Triple,
    probability: NDArray[np.uint8],
    image: Array | None = None,
) -> Sums:
    """Sum over the voxels of each object in one block.

    Parameters
    ----------
    labels
        Object numbers, axes Z Y X, 0 background.
    start
        Where the block begins in the volume.
    size
        Voxels of the whole volume.
    probability
        Foreground probability in 255ths, axes Z Y X.
    image
        Intensities, axes C Z Y X; voxels that are not finite are left out.

    Returns
    -------
    Arrays with the objects along their last axis: ``id``, ``voxels``, ``place`` (3, N) sums of the indices,
    ``border``, ``probability``, and where there is an image ``intensity`` and ``finite`` (C, N).
    """
    inside = np.nonzero(labels)
    present, which = np.unique(labels[inside], return_inverse=True)
    n = len(present)
    voxels = np.bincount(which, minlength=n)
    border = np.zeros(n, bool)
    place = np.zeros((3, n), np.int64)
    for axis, index in enumerate(inside):
        local = np.bincount(which, weights=index, minlength=n).astype(np.int64)  # exact: far below 2^53
        place[axis] = local + start[axis] * voxels
        if size[axis] > 1:
            edge = (index == -start[axis]) | (index == size[axis] - 1 - start[axis])
            border[which[edge]] = True
    sums: Sums = {"id": present, "voxels": voxels.astype(np.int64), "place": place, "border": border}
    sums["probability"] = np.bincount(which, probability[inside], minlength=n).astype(np.int64)
    if image is not None:
        exact = image.dtype.kind in "biu"
        totals, finite = [], []
        for channel in image:
            values = channel[inside].astype(np.float64)
            good = np.isfinite(values)
            totals.append(np.bincount(which, np.where(good, values, 0.0), minlength=n))
            finite.append(np.bincount(which[good], minlength=n))
        sums["intensity"] = np.array(totals, np.int64 if exact else np.float64).reshape(len(image), n)
        sums["finite"] = np.array(finite, np.int64).reshape(len(image), n)
    return sums


def gather(parts: Sequence[Sums]) -> Sums:
    """Put the sums of several blocks side by side; an object may then come more than once."""
    if not parts:
        return {"id": np.empty(0, np.uint32)}
    return {name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]}


def add_up(parts: Iterable[Sums], count: int) -> Sums:
    """Add what the blocks found, in their order, for objects 1 … ``count``."""
    total: Sums = {"id": np.arange(1, count + 1, dtype=np.uint32)}
    for part in parts:
        at = part["id"].astype(np.int64) - 1
        for name, values in part.items():
            if name == "id":
                continue
            if name not in total:
                total[name] = np.zeros((*values.shape[:-1], count), values.dtype)
            add = np.logical_or if values.dtype == bool else np.add
            for row, more in zip(np.atleast_2d(total[name]), np.atleast_2d(values)):
                add.at(row, at, more)  # the rows are views
    return total


def object_table(sums: Sums, spacing: Spacing | None, channels: Sequence[str] = ()) -> Table:
    """Turn sums into a table, one row an object.

    Columns: ``id``; ``z_um, y_um, x_um`` and ``volume_um3`` where the spacing is known; centroid ``z, y,
    x`` and size ``voxels`` in voxels (0-based); ``mean_intensity`` of each channel (``mean_intensity_NAME``
    where there are several); ``touches_border`` of the volume, along axes longer than one voxel;
    ``confidence``, the mean foreground probability inside.
    """
    ids = sums["id"]
    voxels = sums.get("voxels", np.zeros(0, np.int64))
    centroid = sums.get("place", np.zeros((3, len(ids)))) / np.maximum(voxels, 1)
    table: Table = {"id": ids}
    if spacing is not None:
        for name, values, step in zip("zyx", centroid, spacing):
            table[f"{name}_um"] = values * step
    table.update(zip("zyx", centroid))
    if spacing is not None:
        table["volume_um3"] = voxels * float(np.prod(spacing))
    table["voxels"] = voxels
    none = np.zeros((len(channels), len(ids)))
    finite = sums.get("finite", none)
    means = np.where(finite > 0, sums.get("intensity", none) / np.maximum(finite, 1), np.nan)
    for name, values in zip(channels, means):
        table["mean_intensity" if len(channels) == 1 else f"mean_intensity_{name}"] = values
    table["touches_border"] = sums.get("border", np.zeros(0, bool))
    table["confidence"] = sums.get("probability", np.zeros(len(ids))) / np.maximum(voxels, 1) / 255
    return table
