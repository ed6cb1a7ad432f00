"""Structural similarity, of planes and of volumes, and its multi-scale form.

SSIM is that of Wang, Bovik, Sheikh and Simoncelli (2004), IEEE Trans. Image Processing 13: a Gaussian window of
11 voxels and standard deviation 1.5 along each axis, K1 = 0.01, K2 = 0.03, population variances. It is the mean
over windows that lie inside the image and hold only voxels that count. MS-SSIM is that of Wang, Simoncelli and
Bovik (2003), Asilomar: five scales, each half the one before by the mean of 2 × 2 pixels, negative terms taken
as 0. Brightness is compared relative to the truth's own intensities, so a large camera offset flatters all alike:
subtract it first where it is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy import ndimage

from aequorea.errors import DataError
from aequorea.volume import Array, Region, Triple

WINDOW = 11
"""Voxels of the window along an axis."""
REACH = WINDOW // 2
K1, K2 = 0.01, 0.03
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of the five scales, finest first."""
SMALLEST = WINDOW * 2 ** (len(SCALES) - 1)
"""Pixels along y and x that MS-SSIM needs at least."""
VOXELS_AT_ONCE = 1 << 21

_SIGMA = 1.5

Read = Callable[[Region], tuple[Array, Array, Array]]
"""Of a region: found and true intensities (float64) and what counts (bool), axes Z Y X."""


def similarities(read: Read, size: Triple, data_range: float) -> dict[str, float]:
    """Return ``ssim``, ``ms_ssim`` and ``ssim_3d``, those that the size allows; NaN where no window counts.

    Parameters
    ----------
    read
        Called for overlapping slabs.
    size
        Voxels along z, y, x.
    data_range
        Range of the truth.
    """
    scores: dict[str, float] = {}
    if min(size[1:]) >= WINDOW:
        scores["ssim"] = mean_ssim(read, size, data_range, axes=(1, 2))
    if min(size[1:]) >= SMALLEST:
        scores["ms_ssim"] = mean_ms_ssim(read, size, data_range)
    if min(size) >= WINDOW:
        scores["ssim_3d"] = mean_ssim(read, size, data_range, axes=(0, 1, 2))
    return scores


def ssim(found: Array, truth: Array, data_range: float) -> float:
    """Return the mean SSIM of arrays Y X (windows of two axes) or Z Y X (of three).

    Raises
    ------
    DataError
        If an axis has fewer than 11 voxels.
    """
    read, size = _reader(found, truth)
    axes = tuple(range(3 - np.ndim(truth), 3))
    if min(size[axis] for axis in axes) < WINDOW:
        raise DataError(f"SSIM needs {WINDOW} voxels along each axis; these images have {np.shape(truth)}")
    return mean_ssim(read, size, data_range, axes)


def ms_ssim(found: Array, truth: Array, data_range: float) -> float:
    """Return the MS-SSIM of images Y X, or its mean over planes of Z Y X.

    Raises
    ------
    DataError
        If y or x has fewer than 176 pixels.
    """
    read, size = _reader(found, truth)
    if min(size[1:]) < SMALLEST:
        raise DataError(
            f"MS-SSIM needs {SMALLEST} pixels along y and x; these images have {np.shape(truth)}; use SSIM instead"
        )
    return mean_ms_ssim(read, size, data_range)


def mean_ssim(read: Read, size: Triple, data_range: float, axes: tuple[int, ...]) -> float:
    """Return the mean SSIM over windows along some ``axes``; parameters as in :func:`similarities`."""
    reach = REACH if 0 in axes else 0
    total, n = 0.0, 0
    for slab in _slabs(size, 4 * reach + 1):
        part = slab.grow((reach, 0, 0)).clip(Region.whole(size))
        x, t, known = read(part)
        similar, _ = ssim_maps(x, t, data_range, axes)
        inner = slab.relative_to(part).slices
        # Windows that reach over the end of a part are cut off there as at the border of the volume: those of
        # the slab itself reach its borders only where the volume ends.
        counted = whole_windows(known, axes)[inner]
        total, n = total + float(similar[inner][counted].sum()), n + int(counted.sum())
    return total / n if n else float("nan")


def mean_ms_ssim(read: Read, size: Triple, data_range: float) -> float:
    """Return the mean MS-SSIM of xy planes; parameters as in :func:`similarities`."""
    planes: list[Array] = []
    for slab in _slabs(size, 1):
        x, t, known = read(slab)
        product = np.ones(len(x))
        for scale, weight in enumerate(SCALES):
            similar, structure = ssim_maps(x, t, data_range, (1, 2))
            term = similar if scale == len(SCALES) - 1 else structure
            counted = whole_windows(known, (1, 2))
            n = counted.sum(axis=(1, 2))
            mean = np.where(counted, term, 0).sum(axis=(1, 2)) / np.where(n, n, np.nan)
            product *= np.maximum(mean, 0) ** weight
            x, t = _halved(x).mean(axis=(2, 4)), _halved(t).mean(axis=(2, 4))
            known = np.asarray(_halved(known).all(axis=(2, 4)))
        planes.append(product)
    values = np.concatenate(planes)
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else float("nan")


def ssim_maps(x: Array, t: Array, data_range: float, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Return SSIM and its contrast-structure term at each voxel; NaN where ``data_range`` is 0.

    Parameters
    ----------
    x, t
        Float64, axes Z Y X.
    data_range
        Range of the truth.
    axes
        Along which the window reaches; values nearer than 5 voxels to their ends are not to be used.
    """
    if data_range <= 0:
        nothing = np.full(x.shape, np.nan)
        return nothing, nothing
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    # Variances do not depend on the offset, and lose fewest digits near 0.
    offset = float(t.mean())
    x, t = x - offset, t - offset
    ux, ut = _window(x, axes), _window(t, axes)
    vx, vt = _window(x * x, axes) - ux * ux, _window(t * t, axes) - ut * ut
    covariance = _window(x * t, axes) - ux * ut
    structure = (2 * covariance + c2) / (np.maximum(vx, 0) + np.maximum(vt, 0) + c2)
    ux, ut = ux + offset, ut + offset
    return (2 * ux * ut + c1) / (ux * ux + ut * ut + c1) * structure, structure


def whole_windows(known: Array, axes: tuple[int, ...]) -> Array:
    """Return (bool) around which voxels a window lies inside the array and holds only known voxels."""
    inside = np.zeros(known.shape, bool)
    where = tuple(
        slice(REACH, max(REACH, n - REACH)) if i in axes else slice(None) for i, n in enumerate(known.shape)
    )
    inside[where] = True
    if known.all():
        return inside
    shape = tuple(WINDOW if i in axes else 1 for i in range(known.ndim))
    return np.asarray(inside & (ndimage.minimum_filter(known.astype(np.uint8), shape) > 0))


def _window(image: Array, axes: tuple[int, ...]) -> Array:
    sigma = [_SIGMA if axis in axes else 0.0 for axis in range(image.ndim)]
    return np.asarray(ndimage.gaussian_filter(image, sigma, radius=[REACH if s else 0 for s in sigma]))


def _halved(planes: Array) -> Array:
    """Return planes Z Y X as Z y 2 x 2, without a last odd row or column."""
    z, y, x = planes.shape
    return np.reshape(planes[:, : y // 2 * 2, : x // 2 * 2], (z, y // 2, 2, x // 2, 2))


def _slabs(size: Triple, least: int) -> Iterator[Region]:
    depth = max(least, VOXELS_AT_ONCE // (size[1] * size[2]))
    return Region.whole(size).split((depth, size[1], size[2]))


def _reader(found: Array, truth: Array) -> tuple[Read, Triple]:
    if np.shape(found) != np.shape(truth):
        raise DataError(
            f"images of different shapes cannot be compared: {np.shape(found)}, {np.shape(truth)}"
        )
    if np.ndim(truth) not in (2, 3):
        raise DataError(f"{np.ndim(truth)} axes where Y X or Z Y X are expected")
    x, t = (np.asarray(a, np.float64).reshape((1,) * (3 - np.ndim(a)) + np.shape(a)) for a in (found, truth))
    known = np.isfinite(t)
    x, t = np.where(known, x, 0.0), np.where(known, t, 0.0)
    z, y, width = t.shape
    return (lambda region: (x[region.slices], t[region.slices], known[region.slices])), (z, y, width)
