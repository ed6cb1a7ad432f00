"""Interpolation to smaller voxels: the rival of isotropic restoration (along z) and of super-resolution (y, x).

Pixels are divided: a new one lies where its share of an old one lies. Planes are added: the old ones stay, and new ones
lie between them. Borders are continued by their outermost values.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from aequorea.errors import DataError
from aequorea.volume import Array, Spacing, Triple


def interpolated(image: Array, size: Triple, *, order: int = 1) -> Array:
    """Return an image of the same extent with ``size`` voxels (z, y, x), float32.

    Parameters
    ----------
    image
        Axes Z Y X.
    size
        Voxels along each axis.
    order
        1 linear, 3 cubic.
    """
    values = np.asarray(image, np.float32)
    for axis, (n, m) in enumerate(zip(values.shape, size)):
        if n == m:
            continue
        # The spline of each unit vector makes a matrix, whose product is far faster than a spline of volumes.
        weights = ndimage.zoom(
            np.eye(n), (m / n, 1), order=order if n > 1 else 0, mode="nearest", grid_mode=True
        )
        along = np.tensordot(weights.astype(np.float32), values, (1, axis))
        values = np.moveaxis(along, 0, axis)
    if values.shape != tuple(size):
        raise DataError(f"an image of {image.shape} voxels (z, y, x) cannot be brought to {size}")
    return np.ascontiguousarray(values)


def isotropic(
    image: Array, spacing: Spacing | None = None, *, order: int = 1, factor: float | None = None
) -> Array:
    """Interpolate along z until voxels are as long as they are wide; plane k becomes plane k · factor.

    Parameters
    ----------
    image
        Axes Z Y X.
    spacing
        Voxel size in µm.
    order
        1 linear, 3 cubic.
    factor
        Times as many planes; default: from the spacing.

    Raises
    ------
    DataError
        If neither tells how many planes there should be.
    """
    if factor is None:
        if spacing is None:
            raise DataError(
                "planes cannot be interpolated without voxel size; give spacing (z, y, x) or factor"
            )
        factor = spacing[0] / spacing[2]
    n = len(image)
    place = np.arange(max(1, round(n * factor))) / factor
    lines = [
        ndimage.map_coordinates(row, [place], order=order if n > 1 else 0, mode="nearest")
        for row in np.eye(n)
    ]
    weights = np.stack(lines, 1).astype(np.float32)
    return np.ascontiguousarray(np.tensordot(weights, np.asarray(image, np.float32), (1, 0)))


def enlarged(image: Array, spacing: Spacing | None = None, *, order: int = 3, factor: int = 2) -> Array:
    """Interpolate along y and x.

    Parameters
    ----------
    image
        Axes Z Y X.
    spacing
        Not used.
    order
        1 linear, 3 cubic.
    factor
        Times as many pixels along each of the two axes.
    """
    z, y, x = image.shape
    return interpolated(image, (z, round(y * factor), round(x * factor)), order=order)
