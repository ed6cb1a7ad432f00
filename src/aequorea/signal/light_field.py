<<<<<<< HEAD
"""Light-field images of a volume by ray optics (Levoy et al., "Light field microscopy", SIGGRAPH 2006).

Under each lenslet lie n × n pixels, one per direction (i, j) in which light crosses the aperture. View (i, j) is
the pixels at [i::n, j::n]: the volume seen from that direction, in which a plane at height z over the focus is
moved by z times the direction's slope. Wang et al. (Nature Methods 18, 2021) number it d = n·i + j.
=======
"""Volumes from light fields: shift-and-add over views, and Richardson–Lucy steps on top.

A lenslet array sees the specimen from n × n directions, and what lies at some depth shifts from view to view in
proportion to that depth. Shifting the views back and adding them focuses on one plane (Levoy et al. 2006, ACM
Trans. Graphics 25); a few multiplicative steps with the same shifts as the model of the camera remove what other
planes left there (ray optics of Broxton et al. 2013, Optics Express 21, without diffraction). Parts of a pixel are
interpolated linearly, which keeps light positive; all shifts are products in Fourier space, with mirrored borders.
>>>>>>> yard
"""

from __future__ import annotations

<<<<<<< HEAD
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
=======
import math
from dataclasses import dataclass

import numpy as np
from scipy import fft

from aequorea.errors import DataError
from aequorea.signal.interpolate import interpolated
from aequorea.volume import Array, Spacing

_TINY = 1e-4


def views(light_field: Array, side: int) -> Array:
    """Return the views (n·n, h, w), ordered by row and column of the pixel under the lenslet.

    Parameters
    ----------
    light_field
        Axes Y X, rectified: every lenslet covers ``side`` × ``side`` pixels.
    side
        n, pixels per lenslet along an axis.
>>>>>>> yard

    Raises
    ------
    DataError
<<<<<<< HEAD
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
=======
        If the image does not hold whole lenslets.
    """
    height, width = light_field.shape
    if height % side or width % side:
        raise DataError(
            f"a light field of {height} × {width} pixels does not hold whole lenslets of {side} pixels"
        )
    parts = light_field.reshape(height // side, side, width // side, side)
    return np.ascontiguousarray(
        parts.transpose(1, 3, 0, 2).reshape(side * side, height // side, width // side)
    )


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
>>>>>>> yard
