"""Smooth random fields, and how far each voxel is from where one passes a level."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from aequorea.volume import Array, Spacing, Triple

TRUNCATE = 3.0
"""Standard deviations at which the Gaussian ends that smooths the noise."""
FLATTEST = 0.3
"""Least slope that a distance is divided by, in standard deviations of the field per wave."""


def random_field(size: Triple, spacing: Spacing, wave: float, rng: Generator) -> Array:
    """Return white noise smoothed to a standard deviation of half a ``wave`` (µm); float32, axes Z Y X, spread 1."""
    sigma = [wave / 2 / d for d in spacing]
    margin = [math.ceil(TRUNCATE * s) for s in sigma]
    noise = rng.standard_normal([n + 2 * m for n, m in zip(size, margin)], np.float32)
    smooth = ndimage.gaussian_filter(noise, sigma, truncate=TRUNCATE)
    inner = smooth[tuple(slice(m, m + n) for n, m in zip(size, margin))]
    return np.asarray((inner - inner.mean()) / max(float(smooth.std()), 1e-9))


def beyond_level(field: Array, share: float, spacing: Spacing, wave: float) -> Array:
    """Return how far (µm) voxels are beyond the level that a share of the field is below; negative before it.

    To first order: the difference in units of the slope, which is kept from vanishing at tops and bottoms.
    """
    level = float(np.quantile(field, share))
    slopes = [np.gradient(field, d, axis=axis) for axis, d in enumerate(spacing) if field.shape[axis] > 1]
    steepness = np.sqrt(sum((slope**2 for slope in slopes), np.float32((FLATTEST / wave) ** 2)))
    return np.asarray((field - level) / steepness)
