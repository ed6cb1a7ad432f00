"""What happens to light on its way to the counts of a camera, one step each.

Every step takes brightness (float, axes Z Y X; 1 is a bright structure) and plain numbers, and returns float32.
What is random comes from the generator that is passed in and from nothing else. The recipes that draw the
numbers are in :mod:`aequorea.signal.degrade`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator
from scipy import fft, ndimage

from aequorea.errors import DataError
from aequorea.volume import Array, Spacing


def convolved(volume: Array, kernel: Array) -> Array:
    """Return a volume seen through a point-spread function, its borders mirrored.

    With a kernel that is symmetric about voxel ``size // 2`` the sum of the volume is kept: what leaves through
    the border comes back from its mirror image.

    Parameters
    ----------
    volume
        Axes Z Y X.
    kernel
        Axes Z Y X, any size.
    """
    centre = [n // 2 for n in kernel.shape]
    padding = [(n - 1 - c, c) for n, c in zip(kernel.shape, centre)]
    padded = np.pad(np.asarray(volume, np.float32), padding, mode="symmetric")
    size = [fft.next_fast_len(n, real=True) for n in padded.shape]
    spectrum = fft.rfftn(padded, size) * fft.rfftn(np.asarray(kernel, np.float32), size)
    seen = fft.irfftn(spectrum, size)
    # The padding is as wide as the kernel reaches, so nothing that wrapped around is kept.
    kept = seen[tuple(slice(k - 1, k - 1 + n) for k, n in zip(kernel.shape, volume.shape))]
    return np.ascontiguousarray(kept, np.float32)


def glowing(volume: Array, share: float, width: float, spacing: Spacing) -> Array:
    """Add out-of-focus light.

    Parameters
    ----------
    volume
        Axes Z Y X.
    share
        Of the light in focus.
    width
        Standard deviation in µm of the Gaussian by which it is spread.
    spacing
        Voxel size in µm.
    """
    volume = np.asarray(volume, np.float32)
    if share == 0:
        return volume.copy()
    # Two moving averages are near enough to a wide Gaussian, at a cost that does not grow with its width.
    widths = [2 * round(width / d * math.sqrt(6) / 2) + 1 for d in spacing]
    wide = volume
    for _ in range(2):
        wide = ndimage.uniform_filter(wide, widths, mode="reflect")
    return np.asarray(volume + np.float32(share) * wide)


def faded(volume: Array, depth: float, spacing: Spacing) -> Array:
    """Dim planes with their depth.

    Parameters
    ----------
    volume
        Axes Z Y X; the light comes from plane 0.
    depth
        Depth in µm after which 1/e of the light is left.
    spacing
        Voxel size in µm.
    """
    z = (np.arange(volume.shape[0]) + 0.5) * spacing[0]
    return np.asarray(volume * np.exp(-z / depth)[:, None, None], np.float32)


def striped(volume: Array, strength: float, period: float, spacing: Spacing, rng: Generator) -> Array:
    """Cast shadows along x, in which direction the light sheet travels.

    Parameters
    ----------
    volume
        Axes Z Y X.
    strength
        Share of the light that the darkest shadow takes, 0 to 1.
    period
        Typical distance between shadows along y, µm; along z they are four times as long as across.
    spacing
        Voxel size in µm.
    rng
        Places the shadows. Each begins behind something somewhere along x.
    """
    z, y, x = ((np.arange(n) + 0.5) * d for n, d in zip(volume.shape, spacing))
    if rng.random() < 0.5:
        x = x[::-1]
    waves = rng.normal(0, 1, (6, 2)) * (np.pi / 2 / period, 2 * np.pi / period)
    phases = rng.uniform(0, 2 * np.pi, 6)
    begins = rng.uniform(0, 0.7, 6) * volume.shape[2] * spacing[2]
    shadow = np.zeros(volume.shape, np.float32)
    for (wave_z, wave_y), phase, begin in zip(waves, phases, begins):
        narrow = np.maximum(np.cos(wave_z * z[:, None] + wave_y * y + phase), 0) ** 4
        shadow += (narrow[..., None] * (x > begin)).astype(np.float32)
    return np.asarray(volume * (1 - np.float32(strength) * np.minimum(shadow, 1)), np.float32)


def binned(volume: Array, factor: int) -> Array:
    """Return means over blocks of ``factor`` × ``factor`` pixels; y and x are cut to multiples first.

    Raises
    ------
    DataError
        If the volume has fewer pixels than ``factor`` along y or x.
    """
    nz, ny, nx = (volume.shape[0], *(n // factor for n in volume.shape[1:]))
    if min(ny, nx) < 1:
        raise DataError(f"{volume.shape[1:]} pixels cannot be binned by {factor}; give {factor} or more each")
    whole = np.asarray(volume, np.float32)[:, : ny * factor, : nx * factor]
    return np.asarray(whole.reshape(nz, ny, factor, nx, factor).mean((2, 4)))


def thinned(volume: Array, factor: int) -> Array:
    """Return every ``factor``-th plane, the first of each run, as where a microscope takes a larger step.

    Planes beyond the last whole run are cut off.

    Raises
    ------
    DataError
        If the volume has fewer than ``factor`` planes.
    """
    count = volume.shape[0] // factor
    if count < 1:
        raise DataError(f"{volume.shape[0]} planes cannot be thinned by {factor}; give {factor} or more")
    return np.asarray(volume[: count * factor : factor], np.float32)


def expected(light: Array, photons: float, gain: float, offset: float) -> Array:
    """Return the counts that a camera gives on average.

    Parameters
    ----------
    light
        Brightness, axes Z Y X.
    photons
        Per voxel where the light is 1.
    gain
        Counts per photon.
    offset
        Counts in the dark.
    """
    return np.asarray(gain * photons * np.clip(light, 0, None) + offset, np.float32)


def exposed(
    light: Array, photons: float, gain: float, offset: float, read_noise: float, rng: Generator
) -> Array:
    """Return counts with shot noise and read noise; neither rounded nor clipped, so that their mean is right.

    Parameters
    ----------
    light, photons, gain, offset
        As in :func:`expected`.
    read_noise
        Standard deviation in photons.
    rng
        Draws the noise.
    """
    arrived = rng.poisson(photons * np.clip(np.asarray(light, np.float64), 0, None))
    noise = read_noise * rng.standard_normal(light.shape)
    return np.asarray(gain * (arrived + noise) + offset, np.float32)


def surface_of(volume: Array, spacing: Spacing) -> Array:
    """Return the height in µm (axes Y X) around which a volume's light lies; the middle where there is none.

    Parameters
    ----------
    volume
        A bright sheet on dark ground, axes Z Y X.
    spacing
        Voxel size in µm.
    """
    z = (np.arange(volume.shape[0]) + 0.5) * spacing[0]
    # Between bright lines on the sheet the neighbours say where it is.
    smooth = ndimage.gaussian_filter(np.asarray(volume, np.float64), (0, 2, 2), mode="nearest")
    total = smooth.sum(0)
    middle = volume.shape[0] * spacing[0] / 2
    return np.asarray(
        np.where(total > 1e-6, np.tensordot(z, smooth, (0, 0)) / np.maximum(total, 1e-6), middle)
    )


def clutter(
    volume: Array, share: float, radius: float, gap: float, spacing: Spacing, rng: Generator
) -> Array:
    """Return blobs off the surface on which a volume's light lies, 1 in their middles.

    Parameters
    ----------
    volume
        A bright sheet on dark ground, axes Z Y X.
    share
        Of the volume that blobs would fill if there were no sheet.
    radius
        Typical radius of a blob, µm.
    gap
        Distance along z from the surface within which there are no blobs, µm.
    spacing
        Voxel size in µm.
    rng
        Places the blobs.
    """
    z = (np.arange(volume.shape[0]) + 0.5)[:, None, None] * spacing[0]
    sigma = [radius / d for d in spacing]
    field = ndimage.gaussian_filter(rng.standard_normal(volume.shape, np.float32), sigma, mode="wrap")
    field /= max(float(field.std()), 1e-12)
    blobs = np.clip((field - np.quantile(field, 1 - share)) / 0.5, 0, 1)
    away = np.abs(z - surface_of(volume, spacing))
    return np.asarray(blobs * np.clip((away - gap) / spacing[0], 0, 1), np.float32)
