"""Resolution by Fourier ring and shell correlation: up to which frequency two images of one thing agree.

Two images with independent noise are correlated ring by ring of their Fourier transforms (Saxton and Baumeister
1982; shells: Harauz and van Heel 1986); the resolution is the inverse of the frequency at which the correlation
falls below 1/7 (Nieuwenhuizen et al. 2013, Banterle et al. 2013). Frequencies are in 1/µm, so voxels need not be
cubes; for volumes whose resolution differs along z, shells can be cut to the frequencies near the z axis or near
the xy plane (Koho et al. 2019, Nature Communications 10).

One image of photon counts is split into two by a fair coin for each photon, which gives independent Poisson
images of half the light (Rieger et al. 2024, Optics Express 32). A result that was smoothed or learned
correlates by what it was smoothed with, too: compare independent acquisitions, each restored by itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import fft
from scipy.signal.windows import hann

from aequorea.errors import DataError
from aequorea.volume import Array, Spacing

Section = Literal["all", "axial", "lateral"]

THRESHOLD = 1 / 7
"""Correlation at which two halves of the same signal are told from noise."""
CONE = math.radians(20)
"""Half the opening of a section of directions."""


@dataclass(frozen=True)
class Correlation:
    """A correlation curve.

    Attributes
    ----------
    frequency
        Middle of each ring or shell, 1/µm, ascending; (N,).
    correlation
        −1 to 1; (N,).
    samples
        Fourier coefficients in it; (N,).
    """

    frequency: Array
    correlation: Array
    samples: Array

    def resolution(self, threshold: float = THRESHOLD) -> float:
        """Return the resolution in µm: the inverse frequency of the first fall below ``threshold``.

        A ring counts as below only if it and the next one together are, too, since the correlation of a few
        coefficients scatters. Where the curve never falls, the last ring's inverse frequency bounds the
        resolution; where it never rises, the resolution is infinite. Fading towards the borders widens a sharp
        edge of a strong spectrum by up to two rings.
        """
        curve, weight = self.correlation, self.samples.astype(np.float64)
        following = np.append(np.arange(1, len(curve)), len(curve) - 1)
        both = (curve * weight + (curve * weight)[following]) / (weight + weight[following])
        below = np.flatnonzero((curve < threshold) & (both < threshold))
        if not below.size:
            return float(1 / self.frequency[-1])
        if below[0] == 0:
            return math.inf
        last, first = below[0] - 1, below[0]
        above = curve[last] - threshold
        share = above / (curve[last] - curve[first]) if above > 0 else 0.0
        crossing = self.frequency[last] + share * (self.frequency[first] - self.frequency[last])
        return float(1 / crossing)


def ring_correlation(first: Array, second: Array, pixel: float | tuple[float, float]) -> Correlation:
    """Return the Fourier ring correlation of two images.

    Parameters
    ----------
    first, second
        Axes Y X; of the same field, with independent noise.
    pixel
        Pixel size in µm (y, x, or both alike).

    Raises
    ------
    DataError
        If shapes differ, or an image is no plane or has fewer than 8 pixels along an axis.
    """
    y, x = (pixel, pixel) if isinstance(pixel, (int, float)) else pixel
    if np.ndim(first) != 2:
        raise DataError(f"Fourier ring correlation takes images Y X, not {np.ndim(first)} axes")
    return _correlate(first, second, (y, x), "all")


def shell_correlation(first: Array, second: Array, spacing: Spacing, section: Section = "all") -> Correlation:
    """Return the Fourier shell correlation of two volumes.

    Parameters
    ----------
    first, second
        Axes Z Y X; of the same field, with independent noise.
    spacing
        Voxel size in µm.
    section
        ``"axial"``: only frequencies within 20° of the z axis; ``"lateral"``: only those within 20° of the xy
        plane; ``"all"``: every direction, up to the coarsest axis's highest frequency.

    Raises
    ------
    DataError
        If shapes differ, or a volume has not three axes of at least 8 voxels.
    """
    if np.ndim(first) != 3:
        raise DataError(f"Fourier shell correlation takes volumes Z Y X, not {np.ndim(first)} axes")
    return _correlate(first, second, spacing, section)


def split_photons(
    image: Array, *, gain: float = 1.0, offset: float = 0.0, seed: int = 0
) -> tuple[Array, Array]:
    """Return two independent images, each of half the photons of one.

    Parameters
    ----------
    image
        Any axes; counts of a camera or detector.
    gain, offset
        Photons are ``(image - offset) / gain``, rounded.
    seed
        Of the coins; equal seeds give equal halves.

    Raises
    ------
    DataError
        If the gain is not above 0, or no photon is left.
    """
    if not gain > 0:
        raise DataError(f"gain {gain}: give the counts that one photon makes, above 0")
    photons = np.maximum(np.rint((np.asarray(image, np.float64) - offset) / gain), 0).astype(np.int64)
    if not photons.any():
        raise DataError("no photon is left to split; look at gain and offset")
    half = np.random.Generator(np.random.Philox(seed)).binomial(photons, 0.5)
    return half.astype(np.float64), (photons - half).astype(np.float64)


def _correlate(first: Array, second: Array, steps: tuple[float, ...], section: Section) -> Correlation:
    if np.shape(first) != np.shape(second):
        raise DataError(
            f"images of different shapes cannot be correlated: {np.shape(first)}, {np.shape(second)}"
        )
    size = np.shape(first)
    if min(size) < 8:
        raise DataError(
            f"an image of {size} is too small for a correlation of frequencies: 8 along each axis"
        )
    if section not in ("all", "axial", "lateral"):
        raise DataError(f"section '{section}' is not known; say 'all', 'axial' or 'lateral'")
    one, two = (fft.rfftn(_faded(image)) for image in (first, second))
    axes = [np.abs(fft.fftfreq(n, step)) for n, step in zip(size, steps)]
    axes[-1] = fft.rfftfreq(size[-1], steps[-1])
    grid = np.meshgrid(*axes, indexing="ij", sparse=True)
    radius = np.sqrt(sum(axis**2 for axis in grid))
    used = np.ones(radius.shape, bool)
    highest = min(0.5 / step for step in steps)
    if section == "axial":
        used, highest = grid[0] >= radius * math.cos(CONE), 0.5 / steps[0]
    elif section == "lateral":
        used = grid[0] <= radius * math.sin(CONE)
        highest = min(0.5 / step for step in steps[1:])
    # Rings as wide as the widest step between frequencies, so that none is empty.
    width = max(1 / (n * step) for n, step in zip(size, steps))
    rings = max(1, int(highest / width))
    ring = np.rint(radius / width).astype(np.int64)
    used = used & (ring > 0) & (ring <= rings)
    # The half transform leaves out the mirrored coefficients: each of these stands for two.
    twice = np.full(one.shape[-1], 2.0)
    twice[0] = 1.0
    if size[-1] % 2 == 0:
        twice[-1] = 1.0
    weight = np.broadcast_to(twice, radius.shape)[used]
    ring, one, two = ring[used] - 1, one[used], two[used]

    def total(values: Array) -> Array:
        return np.bincount(ring, values * weight, minlength=rings)

    cross = total((one * two.conj()).real)
    power = np.sqrt(total(np.abs(one) ** 2) * total(np.abs(two) ** 2))
    samples = total(np.ones(ring.shape))
    some = samples > 0
    correlation = np.where(power > 0, cross / np.where(power > 0, power, 1.0), 0.0)
    frequency = np.arange(1, rings + 1) * width
    return Correlation(frequency[some], correlation[some], samples[some])


def _faded(image: Array) -> Array:
    """Return an image without its mean that fades towards its borders, whose steps would correlate by themselves."""
    values = np.asarray(image, np.float64)
    values = values - values.mean()
    for axis, n in enumerate(values.shape):
        shape = [-1 if i == axis else 1 for i in range(values.ndim)]
        values = values * hann(n).reshape(shape)
    return np.asarray(values)
