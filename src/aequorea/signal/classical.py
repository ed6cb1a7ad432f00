"""The trivial rivals: what a segmentation reaches without learning.

Every table of scores has them in it. They are what most people try first: smooth, threshold, split touching
objects by watershed from distance peaks (Otsu 1979; Vincent and Soille 1991), as scikit-image does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from aequorea.errors import DataError
from aequorea.signal.optics import blur
from aequorea.volume import Array, Spacing

LEVELS = 200
"""Thresholds tried between the darkest and the brightest labelled voxel, at equal shares of voxels."""


def otsu_watershed(
    image: Array, spacing: Spacing | None, *, sigma_um: float = 1.0, min_distance_um: float = 4.0
) -> Array:
    """Segment bright objects by Gaussian, Otsu's threshold and watershed from peaks of the distance map.

    Parameters
    ----------
    image
        Axes Z Y X.
    spacing
        Voxel size in µm; ``None`` counts in voxels, taken as cubes.
    sigma_um
        Standard deviation of the Gaussian, which also smooths the distance map, µm.
    min_distance_um
        Peaks nearer than this to a higher one are no objects of their own, µm.

    Returns
    -------
    Array
        Object numbers 1, 2, ..., int32, axes Z Y X; 0 is background. All 0 for an image without contrast.
    """
    spacing = (1.0, 1.0, 1.0) if spacing is None else spacing
    smooth = blur(np.nan_to_num(np.asarray(image, np.float32)), (sigma_um,) * 3, spacing)
    if smooth.max() <= smooth.min():
        return np.zeros(image.shape, np.int32)
    foreground = smooth > threshold_otsu(smooth)
    distance = ndimage.distance_transform_edt(foreground, sampling=spacing)
    return peak_watershed(distance, foreground, spacing, sigma_um=sigma_um, min_distance_um=min_distance_um)


def peak_watershed(
    height: Array,
    foreground: Array,
    spacing: Spacing | None,
    *,
    sigma_um: float = 0.0,
    min_distance_um: float = 4.0,
) -> Array:
    """Divide a foreground by watershed from the peaks of a height map.

    Parameters
    ----------
    height, foreground
        Axes Z Y X; the mask is bool.
    spacing, sigma_um, min_distance_um
        As in :func:`otsu_watershed`; the Gaussian smooths the height map.

    Returns
    -------
    Array
        Object numbers 1, 2, ..., int32, axes Z Y X; 0 outside the foreground.
    """
    spacing = (1.0, 1.0, 1.0) if spacing is None else spacing
    smooth = blur(np.asarray(height, np.float32), (sigma_um,) * 3, spacing)
    peaks = peak_local_max(smooth, labels=foreground.astype(np.uint8), exclude_border=False)
    peaks = _apart(peaks.reshape(-1, 3), spacing, min_distance_um)  # of a flat map it gives none, of two axes
    seeds = np.zeros(height.shape, np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return np.asarray(watershed(-smooth, seeds, mask=foreground), np.int32)


@dataclass(frozen=True)
class Threshold:
    """A threshold of the smoothed image.

    Attributes
    ----------
    value
        Voxels above are foreground, in the image's counts.
    sigma_um
        Standard deviation of the Gaussian before, µm.
    dice
        Reached on the voxels that it was chosen on.
    """

    value: float
    sigma_um: float
    dice: float

    def apply(self, image: Array, spacing: Spacing | None) -> Array:
        """Return the foreground (bool) of an image, axes Z Y X."""
        above: Array = _smoothed(image, spacing, self.sigma_um) > self.value
        return above


def best_threshold(
    images: Sequence[Array],
    foregrounds: Sequence[Array],
    labelled: Sequence[Array],
    spacing: Spacing | None,
    *,
    sigmas_um: Sequence[float] = (0.0, 0.5, 1.0, 2.0),
) -> Threshold:
    """Choose Gaussian and threshold by Dice on labelled training voxels.

    Parameters
    ----------
    images
        Axes Z Y X each.
    foregrounds, labelled
        Masks (bool) of the same shapes: which voxels are foreground, and which were looked at.
    spacing
        Voxel size in µm; ``None`` counts in voxels.
    sigmas_um
        Gaussians tried, µm.

    Raises
    ------
    DataError
        If no voxel is labelled as foreground.
    """
    truth = np.concatenate([f[m] for f, m in zip(foregrounds, labelled)]).astype(bool)
    if not truth.any():
        raise DataError("no labelled voxel is foreground; paint some, then choose a threshold")
    best: Threshold | None = None
    for sigma in sigmas_um:
        values = np.concatenate([_smoothed(i, spacing, sigma)[m] for i, m in zip(images, labelled)])
        order = np.argsort(values)
        # Of the voxels from each rank on: how many there are, and how many of them are foreground.
        hits = np.append(np.cumsum(truth[order][::-1])[::-1], 0)
        sizes = np.arange(len(values), -1, -1)
        dice = 2 * hits / (sizes + truth.sum())
        for rank in np.unique(np.linspace(0, len(values) - 1, LEVELS).astype(int)):
            value = float(values[order[rank]])
            first = int(np.searchsorted(values[order], value, side="right"))
            if best is None or dice[first] > best.dice:
                best = Threshold(value, float(sigma), float(dice[first]))
    assert best is not None
    return best


def _apart(peaks_N3: Array, spacing: Spacing, distance: float) -> Array:
    """Keep the peaks, highest first, that lie farther than a distance (µm) from every one kept before."""
    places = peaks_N3 * np.array(spacing)
    tree = cKDTree(places)
    near = np.zeros(len(places), bool)
    kept = []
    for number, place in enumerate(places):
        if not near[number]:
            kept.append(number)
            near[tree.query_ball_point(place, distance)] = True
    return peaks_N3[kept]


def _smoothed(image: Array, spacing: Spacing | None, sigma_um: float) -> Array:
    return blur(np.nan_to_num(np.asarray(image, np.float32)), (sigma_um,) * 3, spacing or (1.0, 1.0, 1.0))
