"""Deconvolution with a known point-spread function: Richardson–Lucy and Wiener.

Richardson (1972) and Lucy (1974) raise the Poisson likelihood step by step and keep intensities above 0; Wiener's
filter divides in Fourier space and damps what the blur removed. Borders are mirrored; convolutions are circular
in the mirrored image, with the transform of the point-spread function computed once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import fft, ndimage

from aequorea.errors import DataError
from aequorea.signal.optics import in_voxels
from aequorea.volume import Array, Spacing

_TINY = 1e-12
_TRUNCATE = 4.0


def gaussian_psf(sigma: float | Sequence[float], ndim: int = 3) -> Array:
    """Return a Gaussian point-spread function that sums to 1, with odd sides.

    Parameters
    ----------
    sigma
        Standard deviation in voxels, of every axis or one each; 0 leaves an axis sharp.
    ndim
        Number of axes where one width is given.
    """
    widths = [float(sigma)] * ndim if isinstance(sigma, (int, float)) else [float(s) for s in sigma]
    point = np.zeros([2 * int(_TRUNCATE * width + 0.5) + 1 for width in widths])
    point[tuple(n // 2 for n in point.shape)] = 1.0
    return np.asarray(ndimage.gaussian_filter(point, widths, truncate=_TRUNCATE))


def richardson_lucy(image: Array, psf: ArrayLike, *, iterations: int = 20, background: float = 0.0) -> Array:
    """Deconvolve an image of any number of axes.

    Parameters
    ----------
    image
        Intensities; those below the background count as background.
    psf
        Point-spread function with as many axes, centred at ``n // 2`` along each; scaled to a sum of 1.
    iterations
        Steps; noise grows with them.
    background
        Intensity without light (camera offset), which stays in the result.

    Returns
    -------
    Array
        float32, of the image's shape and units.

    Raises
    ------
    DataError
        If the axes differ in number, or the point-spread function has no positive sum.
    """
    padded, inner, transfer = _prepared(image, psf)
    light = np.maximum(padded - np.float32(background), 0)
    # Flat, as scikit-image has it: whatever the constant, the first step removes it.
    estimate = np.full(light.shape, max(float(light.mean()), _TINY), np.float32)
    # Circular convolution with a sum of 1 leaves a constant alone, so that steps need no weights.
    for _ in range(iterations):
        blurred = np.maximum(_filtered(estimate, transfer), _TINY)
        estimate *= np.maximum(_filtered(light / blurred, transfer.conj()), 0)
    return np.asarray(estimate[inner] + np.float32(background), np.float32)


def wiener(image: Array, psf: ArrayLike, *, noise: float = 0.01) -> Array:
    """Deconvolve by a linear filter.

    Parameters
    ----------
    image, psf
        As in :func:`richardson_lucy`.
    noise
        Power of the noise relative to the signal's, alike at all frequencies.
    """
    padded, inner, transfer = _prepared(image, psf)
    # The mean is set aside, for the damping would darken it.
    mean = padded.mean()
    restored = _filtered(padded - mean, transfer.conj() / (np.abs(transfer) ** 2 + np.float32(noise)))
    return np.asarray(restored[inner] + mean, np.float32)


def lucy_by_gaussian(
    image: Array,
    spacing: Spacing | None = None,
    *,
    sigma: float = 1.5,
    axial: float = 1.0,
    iterations: int = 10,
    background: float = 0.0,
    psf: ArrayLike | None = None,
) -> Array:
    """Deconvolve a volume by Richardson–Lucy with a Gaussian, or with a measured point-spread function.

    Parameters
    ----------
    image
        Axes Z Y X.
    spacing
        Voxel size in µm; ``None``: cubes.
    sigma
        Standard deviation of the Gaussian within planes, in pixels of x.
    axial
        How many times longer the Gaussian is along z, in µm.
    iterations, background
        As in :func:`richardson_lucy`.
    psf
        Used instead of the Gaussian; axes Z Y X.
    """
    return richardson_lucy(
        image, _psf(image, spacing, sigma, axial, psf), iterations=iterations, background=background
    )


def wiener_by_gaussian(
    image: Array,
    spacing: Spacing | None = None,
    *,
    sigma: float = 1.5,
    axial: float = 1.0,
    noise: float = 0.01,
    psf: ArrayLike | None = None,
) -> Array:
    """Deconvolve a volume by Wiener's filter; parameters as in :func:`lucy_by_gaussian` and :func:`wiener`."""
    return wiener(image, _psf(image, spacing, sigma, axial, psf), noise=noise)


def _psf(
    image: Array, spacing: Spacing | None, sigma: float, axial: float, psf: ArrayLike | None
) -> ArrayLike:
    if psf is not None:
        return psf
    spacing = spacing or (1.0, 1.0, 1.0)
    width = sigma * spacing[2]
    return gaussian_psf(in_voxels((axial * width, width, width), spacing, image.shape))


def _prepared(image: Array, psf: ArrayLike) -> tuple[Array, tuple[slice, ...], Array]:
    """Return the image with mirrored borders (float32), where it lies in it, and the transform of the PSF."""
    values, kernel = np.asarray(image, np.float32), np.asarray(psf, np.float64)
    if kernel.ndim != values.ndim:
        raise DataError(
            f"a point-spread function of {kernel.ndim} axes cannot deconvolve an image of {values.ndim}; "
            "give one with an axis for each (length 1 where it does not blur)"
        )
    if not np.isfinite(kernel).all() or kernel.sum() <= 0:
        raise DataError(
            "the point-spread function needs finite values with a sum above 0; subtract less background"
        )
    wanted = [n + 2 * (k // 2) for n, k in zip(values.shape, kernel.shape)]
    # An image is never smaller than the PSF then, which could otherwise not be laid into it.
    size = [fft.next_fast_len(max(n, k), real=True) for n, k in zip(wanted, kernel.shape)]
    before = [k // 2 for k in kernel.shape]
    border = [(b, s - n - b) for b, s, n in zip(before, size, values.shape)]
    padded = np.pad(values, border, mode="symmetric")
    laid = np.zeros(size)
    laid[tuple(slice(0, k) for k in kernel.shape)] = kernel / kernel.sum()
    laid = np.roll(laid, [-(k // 2) for k in kernel.shape], axis=tuple(range(kernel.ndim)))
    inner = tuple(slice(b, b + n) for b, n in zip(before, values.shape))
    return padded, inner, np.asarray(fft.rfftn(laid), np.complex64)


def _filtered(image: Array, transfer: Array) -> Array:
    return np.asarray(fft.irfftn(fft.rfftn(image) * transfer, image.shape), np.float32)
