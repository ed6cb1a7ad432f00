"""Light-field images of a volume by ray optics (Levoy et al., "Light field microscopy", SIGGRAPH 2006).

Under each lenslet lie n × n pixels, one per direction (i, j) in which light crosses the aperture. View (i, j) is
the pixels at [i::n, j::n]: the volume seen from that direction, in which a plane at height z over the focus is
moved by z times the direction's slope. Wang et al. (Nature Methods 18, 2021) number it d = n·i + j.
"""

from __future__ import annotations

import numpy as np

from aequorea.errors import DataError
from aequorea.volume import Array


def lenslet_image(volume: Array, n: int, disparity: float, focus: float | None = None) -> Array:
    """Return the light-field image (float32, axes Y X) of a volume.

    Parameters
    ----------
    volume
        Brightness, axes Z Y X; y and x are cut to multiples of ``n``.
    n
        Pixels under a lenslet along y and along x.
    disparity
        Pixels by which a plane moves between neighbouring views, per plane of distance from the focus.
    focus
        Plane in which all views agree; default: the middle of the volume.

    Returns
    -------
    Array
        As many pixels as the cut volume has along y and x. Each view is the sum over z of the moved planes, each
        lenslet their mean over its n × n pixels. Beyond the border the outermost pixels go on.

    Raises
    ------
    DataError
        If there are fewer than ``n`` pixels along y or x.
    """
    nz, ny, nx = volume.shape
    rows, columns = ny // n * n, nx // n * n
    if min(rows, columns) < 1:
        raise DataError(f"{ny} × {nx} pixels are no {n} × {n} views; give {n} pixels or more along y and x")
    focus = (nz - 1) / 2 if focus is None else focus
    whole = np.asarray(volume, np.float32)[:, :rows, :columns]
    image = np.zeros((rows, columns), np.float32)
    for z, plane in enumerate(whole):
        if plane.any():
            step = (z - focus) * disparity
            image += _directions(rows, n, step) @ plane @ _directions(columns, n, step).T
    return image


def views(image: Array, n: int) -> Array:
    """Return the views of a light-field image, axes view, lenslet along y, lenslet along x; view n·i + j.

    Raises
    ------
    DataError
        If the image's sides are no multiples of ``n``.
    """
    if min(image.shape) < n or image.shape[0] % n or image.shape[1] % n:
        raise DataError(
            f"a light field of {image.shape} pixels is no {n} × {n} views; cut it to multiples of {n}"
        )
    height, width = image.shape[0] // n, image.shape[1] // n
    apart = image.reshape(height, n, width, n)
    return np.ascontiguousarray(apart.transpose(1, 3, 0, 2).reshape(n * n, height, width))


def interleaved(views_DYX: Array) -> Array:
    """Return the light-field image (axes Y X) of n² views; undoes :func:`views`."""
    n = round(len(views_DYX) ** 0.5)
    if n * n != len(views_DYX):
        raise DataError(f"{len(views_DYX)} views are no square of directions; give n × n")
    height, width = views_DYX.shape[1:]
    apart = views_DYX.reshape(n, n, height, width).transpose(2, 0, 3, 1)
    return np.ascontiguousarray(apart.reshape(n * height, n * width))


def slope(i: int, n: int) -> float:
    """Return the direction of view row or column ``i``, in steps from the middle."""
    return i - (n - 1) / 2


def _directions(length: int, n: int, step: float) -> Array:
    """Return for one axis the weights of a plane's pixels (columns) in the light-field pixels (rows).

    Row n·p + i is the mean over lenslet p of the plane moved by slope(i) steps, interpolated linearly.
    """
    weights = np.zeros((length, length), np.float32)
    row = np.arange(length)
    moved = (row % n - (n - 1) / 2) * step
    for part in range(n):
        at = np.clip(row // n * n + part - moved, 0, length - 1)
        low = np.floor(at).astype(int)
        share = (at - low).astype(np.float32)
        weights[row, low] += (1 - share) / n
        weights[row, np.minimum(low + 1, length - 1)] += share / n
    return weights
