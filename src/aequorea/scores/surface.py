"""Distances between the surfaces of two masks, in µm: Hausdorff distance at 95 % and average surface
distance.

A surface voxel is a foreground voxel with a face on the background or on the image border; of a single plane,
with an edge on either. Distances go from
surface voxel centre to nearest surface voxel centre. Surfaces are sets of points, so those of blocks (read
with a margin of one voxel) join to that of a volume larger than memory. On masks without ignored voxels the
numbers are those of MONAI's ``compute_hausdorff_distance(percentile=95)`` and
``compute_average_surface_distance(symmetric=True)``.

Empty masks: two empty masks are at distance 0; one empty and one not are at the diagonal of the image, the
largest distance that could be (MONAI gives NaN or infinity, which no mean over images survives).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_erosion, generate_binary_structure
from scipy.spatial import KDTree

from aequorea.scores.overlap import check_shapes
from aequorea.volume import Array, Region, Spacing, Triple


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances of every surface voxel of one mask to the other's surface, both ways.

    Attributes
    ----------
    to_pred
        From each surface voxel of the truth, in µm (in voxels where the spacing is not known).
    to_truth
        From each surface voxel of the prediction.
    diagonal
        Of the image, in the same unit.
    """

    to_pred: Array
    to_truth: Array
    diagonal: float

    def _empty(self) -> float | None:
        if not self.to_pred.size and not self.to_truth.size:
            return 0.0
        if not self.to_pred.size or not self.to_truth.size:
            return self.diagonal
        return None

    @property
    def hd95(self) -> float:
        """The larger of the two 95th percentiles (Huttenlocher et al. 1993)."""
        empty = self._empty()
        if empty is not None:
            return empty
        return float(max(np.percentile(self.to_pred, 95), np.percentile(self.to_truth, 95)))

    @property
    def average(self) -> float:
        """Mean over all surface voxels of both masks (Heimann et al. 2009)."""
        empty = self._empty()
        if empty is not None:
            return empty
        return float(np.concatenate([self.to_pred, self.to_truth]).mean())


def surface_points(
    mask: Array,
    ignore: Array | None = None,
    origin: Iterable[int] | None = None,
    size: Iterable[int] | None = None,
) -> Array:
    """Return the surface voxels of a mask as an (N, mask.ndim) array of voxel coordinates.

    Parameters
    ----------
    mask
        Non-zero is foreground.
    ignore
        Voxels whose label is not known: they are no surface, and a face on one of them is none either.
    origin
        Coordinates of the first voxel, added to the result.
    size
        Voxels along each axis of the image that the mask is part of; default: the mask is all of it. An axis of one
        voxel has no faces: the surface of a plane is its outline.
    """
    mask = np.asarray(mask) != 0
    solid = mask
    if ignore is not None:
        ignore = np.asarray(ignore, bool)
        mask = mask & ~ignore
        solid = mask | ignore
    flat = [n == 1 for n in (mask.shape if size is None else tuple(size))]
    cross = generate_binary_structure(mask.ndim, 1)
    if not all(flat):
        for axis in np.flatnonzero(flat):
            cross = np.take(cross, [1], axis)
    points = np.argwhere(mask & ~binary_erosion(solid, cross))
    return points if origin is None else points + np.asarray(tuple(origin))


def distances(
    truth_points: Array, pred_points: Array, size: Iterable[int], spacing: Iterable[float] | None
) -> SurfaceDistances:
    """Measure two sets of surface voxels against each other.

    Parameters
    ----------
    truth_points, pred_points
        (N, D) voxel coordinates, as from :func:`surface_points`.
    size
        Voxels of the image along each of the D axes.
    spacing
        Voxel size in µm along each axis; ``None`` gives distances in voxels.
    """
    shape = np.asarray(tuple(size))
    step = np.ones(len(shape)) if spacing is None else np.asarray(tuple(spacing), np.float64)
    diagonal = float(np.linalg.norm((shape - 1) * step))
    if not len(truth_points) or not len(pred_points):
        return SurfaceDistances(np.zeros(len(truth_points)), np.zeros(len(pred_points)), diagonal)
    truth, pred = truth_points * step, pred_points * step
    to_pred, _ = KDTree(pred).query(truth)
    to_truth, _ = KDTree(truth).query(pred)
    return SurfaceDistances(to_pred, to_truth, diagonal)


def surface_distances(
    truth: Array, pred: Array, spacing: Spacing | None = None, ignore: Array | None = None
) -> SurfaceDistances:
    """Measure the surfaces of two masks against each other; see the module for definitions.

    Parameters
    ----------
    truth, pred
        Masks of axes Z Y X (or Y X with a spacing of two numbers).
    spacing
        Voxel size in µm; ``None`` gives distances in voxels.
    ignore
        Mask of voxels whose label is not known.
    """
    check_shapes(truth, pred, ignore)
    return distances(surface_points(truth, ignore), surface_points(pred, ignore), np.shape(truth), spacing)


def hd95(truth: Array, pred: Array, spacing: Spacing | None = None, ignore: Array | None = None) -> float:
    """Return the Hausdorff distance at 95 % of two masks in µm (voxels where ``spacing`` is ``None``)."""
    return surface_distances(truth, pred, spacing, ignore).hd95


def average_surface_distance(
    truth: Array, pred: Array, spacing: Spacing | None = None, ignore: Array | None = None
) -> float:
    """Return the symmetric average surface distance in µm (voxels where ``spacing`` is ``None``)."""
    return surface_distances(truth, pred, spacing, ignore).average


def block_surface(
    mask_with_margin: Array, ignore: Array | None, read: Region, block: Region, size: Triple
) -> Array:
    """Return the surface voxels of ``block`` from a mask that was read with a margin of one voxel.

    Parameters
    ----------
    mask_with_margin
        The voxels of ``read``, axes Z Y X.
    ignore
        The same for voxels whose label is not known.
    read
        ``block`` grown by one voxel and cut to the volume.
    block
        Where surface voxels are wanted; blocks that tile a volume give its surface once.
    size
        Voxels (z, y, x) of the volume.
    """
    points = surface_points(mask_with_margin, ignore, read.start, size)
    return points[np.all((points >= block.start) & (points < block.stop), axis=1)]
