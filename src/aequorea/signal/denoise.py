"""Classical denoising: Gaussian, non-local means and total variation.

Strengths are in units of the image's own noise, so that one grid of parameters fits all images. Non-local means
(Buades, Coll and Morel 2005) and total variation (Chambolle 2004) are scikit-image's; the noise is estimated as
Donoho and Johnstone (1994) do, from the median of the finest diagonal Haar coefficients.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

from aequorea.signal.optics import in_voxels
from aequorea.volume import Array, Spacing

FLAT = 2.0
"""Ratio of the z step to the pixel from which on planes are denoised one by one."""
_NORMAL_MEDIAN = 0.6745


def noise_level(image: Array) -> float:
    """Return the standard deviation of pixel-wise noise, estimated within planes; axes Z Y X.

    Noise that is correlated between pixels is underestimated. An image without 2 × 2 pixels has 0.
    """
    y, x = image.shape[1:]
    even = np.asarray(image[:, : y // 2 * 2, : x // 2 * 2], np.float64)
    detail = (even[:, ::2, ::2] - even[:, 1::2, ::2] - even[:, ::2, 1::2] + even[:, 1::2, 1::2]) / 2
    if not detail.size:
        return 0.0
    middle = float(np.median(np.abs(detail)) / _NORMAL_MEDIAN)
    # A background cut off at 0 has no noise, and may be most of an image.
    return middle if middle > 0 else float(np.sqrt(np.mean(detail * detail)))


def gaussian(image: Array, spacing: Spacing | None = None, *, sigma: float = 1.0) -> Array:
    """Smooth by a Gaussian that is equally wide in µm along every axis.

    Parameters
    ----------
    image
        Axes Z Y X.
    spacing
        Voxel size in µm; ``None``: cubes.
    sigma
        Standard deviation in pixels of x.
    """
    spacing = spacing or (1.0, 1.0, 1.0)
    width = sigma * spacing[2]
    widths = in_voxels((width, width, width), spacing, image.shape)
    return np.asarray(ndimage.gaussian_filter(np.asarray(image, np.float32), widths))


def non_local_means(
    image: Array, spacing: Spacing | None = None, *, strength: float = 0.8, patch: int = 5, distance: int = 6
) -> Array:
    """Average pixels whose surroundings look alike, plane by plane.

    Parameters
    ----------
    image
        Axes Z Y X.
    spacing
        Not used: planes are searched one by one.
    strength
        Cut-off of likeness, in standard deviations of the noise.
    patch, distance
        Side of the compared patches and reach of the search, in pixels.
    """
    noise = noise_level(image)
    if noise == 0:
        return np.array(image, np.float32)
    planes = [
        denoise_nl_means(
            np.asarray(plane, np.float32), patch, distance, h=strength * noise, sigma=noise, fast_mode=True
        )
        for plane in image
    ]
    return np.asarray(planes, np.float32)


def total_variation(
    image: Array, spacing: Spacing | None = None, *, strength: float = 1.0, iterations: int = 200
) -> Array:
    """Flatten what varies less than the noise and keep edges (Rudin, Osher and Fatemi's model).

    Parameters
    ----------
    image
        Axes Z Y X.
    spacing
        Voxel size in µm; where z is coarse, planes are treated one by one.
    strength
        Weight of the variation, in standard deviations of the noise.
    iterations
        At most.
    """
    noise = noise_level(image)
    if noise == 0:
        return np.array(image, np.float32)
    values = np.asarray(image, np.float32)
    parts = list(values) if len(values) == 1 or (spacing and spacing[0] > FLAT * spacing[2]) else [values]
    smooth = [denoise_tv_chambolle(part, weight=strength * noise, max_num_iter=iterations) for part in parts]
    return np.asarray(smooth, np.float32).reshape(values.shape)
