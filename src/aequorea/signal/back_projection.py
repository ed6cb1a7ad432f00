"""Volumes from light fields: shift-and-add over views, and Richardson–Lucy steps on top.

A lenslet array sees the specimen from n × n directions, and what lies at some depth shifts from view to view in
proportion to that depth. Shifting the views back and adding them focuses on one plane (Levoy et al. 2006, ACM
Trans. Graphics 25); a few multiplicative steps with the same shifts as the model of the camera remove what other
planes left there (ray optics of Broxton et al. 2013, Optics Express 21, without diffraction). Parts of a pixel are
interpolated linearly, which keeps light positive; all shifts are products in Fourier space, with mirrored borders.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import fft

from aequorea.errors import DataError
from aequorea.signal.interpolate import interpolated
from aequorea.signal.light_field import views
from aequorea.volume import Array, Spacing

_TINY = 1e-4


def back_projected(
    image: Array,
    spacing: Spacing | None = None,
    *,
    planes: int = 21,
    step: float = 0.05,
    factor: int = 1,
    iterations: int = 0,
    side: int | None = None,
) -> Array:
    """Return the volume (Z Y X) seen by n × n views.

    Parameters
    ----------
    image
        Views (n·n, h, w) as of :func:`views`; or a light field (1, Y, X), with ``side``.
    spacing
        Not used: depth is counted in shifts.
    planes
        Of the volume; the middle one is where views do not shift.
    step
        Pixels of a view by which neighbouring views shift per plane; negative: depth runs the other way.
    factor
        Times as many pixels along y and x as a view has.
    iterations
        Richardson–Lucy steps after the first back-projection.
    side
        Pixels per lenslet along an axis, where the image is a light field.

    Raises
    ------
    DataError
        If the number of views is no square.
    """
    if side is not None:
        image = views(image[0], side)
    rays = Rays.of(image.shape, planes, step * factor, factor)
    seen = np.asarray(image, np.float32)
    seen = interpolated(seen, (len(seen), seen.shape[1] * factor, seen.shape[2] * factor), order=1)
    seen = np.maximum(seen, 0)
    volume = np.maximum(rays.back(seen), 0)
    for _ in range(iterations):
        expected = np.maximum(rays.forward(volume), _TINY * max(float(seen.max()), _TINY))
        volume = volume * np.maximum(rays.back(seen / expected), 0)
    return volume


@dataclass(frozen=True)
class Rays:
    """The shifts of every view and plane: a camera of rays and its adjoint.

    Attributes
    ----------
    size
        Pixels of a view along y, x.
    offsets
        Row and column of each view, from the middle one; (views, 2).
    depths
        Pixels by which neighbouring views shift, of each plane; (planes,).
    """

    size: tuple[int, int]
    offsets: Array
    depths: Array

    @classmethod
    def of(cls, shape: tuple[int, ...], planes: int, step: float, factor: int = 1) -> Rays:
        """Return the rays of views of ``shape`` (n·n, h, w), enlarged by a factor."""
        side = math.isqrt(shape[0])
        if side * side != shape[0]:
            raise DataError(f"{shape[0]} views are no square of n × n; give all views of the lenslet array")
        grid = np.arange(side) - (side - 1) / 2
        offsets = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
        return cls(
            (shape[1] * factor, shape[2] * factor), offsets, (np.arange(planes) - (planes - 1) / 2) * step
        )

    def forward(self, volume: Array) -> Array:
        """Return the views (n·n, h, w) of a volume: the mean of its shifted planes."""
        spectra = fft.rfft2(self._padded(volume)).astype(np.complex64)
        out = [(spectra * self._shift(offset)).mean(axis=0) for offset in self.offsets]
        return self._cropped(np.asarray(out))

    def back(self, seen: Array) -> Array:
        """Return the volume that views shift and add up to: at each plane the mean of the views shifted back."""
        spectra = fft.rfft2(self._padded(seen)).astype(np.complex64)
        total = np.zeros((len(self.depths), *spectra.shape[1:]), np.complex64)
        for offset, spectrum in zip(self.offsets, spectra):
            total += spectrum * self._shift(offset).conj()
        return self._cropped(total / len(self.offsets))

    @property
    def _margin(self) -> int:
        return math.ceil(float(np.abs(self.offsets).max(initial=0) * np.abs(self.depths).max(initial=0))) + 2

    @property
    def _full(self) -> tuple[int, int]:
        height, width = (fft.next_fast_len(n + 2 * self._margin, real=True) for n in self.size)
        return height, width

    def _padded(self, planes: Array) -> Array:
        border = [(self._margin, full - n - self._margin) for full, n in zip(self._full, self.size)]
        return np.pad(planes, [(0, 0), *border], mode="symmetric")

    def _cropped(self, spectra: Array) -> Array:
        m, (height, width) = self._margin, self.size
        return np.asarray(fft.irfft2(spectra, self._full)[:, m : m + height, m : m + width], np.float32)

    def _shift(self, offset: Array) -> Array:
        """Return the factors (planes, fy, fx) that shift each plane as a view sees it."""
        height, width = self._full
        rows = _moved(self.depths * offset[0], fft.fftfreq(height))
        columns = _moved(self.depths * offset[1], fft.rfftfreq(width))
        return np.asarray(rows[:, :, None] * columns[:, None, :])


def _moved(pixels: Array, frequency: Array) -> Array:
    """Return the factors (planes, frequencies) of a move by whole pixels and a linear mix of the next two."""
    whole = np.floor(pixels)[:, None]
    share = pixels[:, None] - whole
    turn = np.exp(-2j * np.pi * frequency)
    return np.asarray(turn**whole * (1 - share + share * turn), np.complex64)
