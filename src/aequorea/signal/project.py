"""Projection of a stack to one plane: the brightest voxel, or only what lies at a smooth surface.

The surface is found by the energy of local contrast, as in extended depth of field: it is where fine structure is
sharpest along z, made smooth by a median and a Gaussian. What lies off the surface does not get into the picture.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from aequorea.volume import Array, Spacing


def maximum(image: Array, spacing: Spacing | None = None) -> Array:
    """Return the largest value along z; axes Z Y X to 1 Y X."""
    return np.asarray(np.max(np.asarray(image, np.float32), axis=0, keepdims=True))


def surface_height(
    image: Array, *, detail: float = 4.0, energy: float = 5.0, median: int = 41, smooth: float = 8.0
) -> Array:
    """Return the height (in planes, not rounded) of the surface, axes Y X.

    Parameters
    ----------
    image
        Axes Z Y X.
    detail
        What is finer than this Gaussian's standard deviation counts as structure, pixels.
    energy
        Standard deviation of the Gaussian that averages the squared structure, pixels.
    median
        Side of the median of heights, pixels; 1: none.
    smooth
        Standard deviation of the Gaussian of heights, pixels.
    """
    values = np.asarray(image, np.float32)
    structure = values - ndimage.gaussian_filter(values, (0, detail, detail))
    contrast = ndimage.gaussian_filter(structure * structure, (0, energy, energy))
    height = contrast.argmax(axis=0)
    # Heights are few whole numbers, of which scipy's rank filter of integers is fast.
    rough = ndimage.median_filter(height.astype(np.int16), median).astype(np.float32)
    return np.asarray(ndimage.gaussian_filter(rough, smooth))


def at_surface(image: Array, height: Array, *, around: int = 1) -> Array:
    """Return the largest value within ``around`` planes of a height; axes Z Y X and Y X to 1 Y X."""
    values = np.asarray(image, np.float32)
    middle = np.rint(height).astype(np.intp)
    planes = np.clip(middle + np.arange(-around, around + 1)[:, None, None], 0, len(values) - 1)
    return np.asarray(np.take_along_axis(values, planes, axis=0).max(axis=0, keepdims=True))


def smooth_surface(
    image: Array,
    spacing: Spacing | None = None,
    *,
    detail: float = 4.0,
    energy: float = 5.0,
    median: int = 41,
    smooth: float = 8.0,
    around: int = 1,
) -> Array:
    """Project a stack at its surface; parameters as in :func:`surface_height` and :func:`at_surface`."""
    height = surface_height(image, detail=detail, energy=energy, median=median, smooth=smooth)
    return at_surface(image, height, around=around)
