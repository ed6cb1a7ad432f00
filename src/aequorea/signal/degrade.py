"""Pairs to learn restoration from: what a microscope would have shown, and what should be made of it.

A forward model in the manner of CARE (Weigert et al., Nature Methods 15, 2018) for each task: the truth is seen
through a diffraction-limited lens, sampled as the task says and counted by a camera. Both sides of a pair are
counts on the same scale: without noise and blur they would be equal.

Everything is a pure function of the truth, the recipe and the generator. A recipe holds ranges; every pair draws
its own microscope from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
from numpy.random import Generator
from pydantic import AfterValidator, Field, model_validator

from aequorea.errors import DataError, nearest
from aequorea.signal import forward
from aequorea.signal.light_field import lenslet_image
from aequorea.signal.optics import blur, detection_sigma
from aequorea.signal.psf import Kind, PsfSpec, extent, psf
from aequorea.specs import Spec
from aequorea.volume import Array, Spacing, Triple


def _ordered(span: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= span[0] <= span[1]:
        raise ValueError("expected two numbers from 0 up, the smaller first")
    return span


def _positive(span: tuple[float, float]) -> tuple[float, float]:
    if span[0] <= 0:
        raise ValueError("expected positive numbers")
    return span


Span = Annotated[tuple[float, float], AfterValidator(_ordered)]
"""Smallest and largest value of a range; equal ones fix it."""
Above0 = Annotated[Span, AfterValidator(_positive)]


class OpticsSpec(Spec):
    """Ranges of the lens and what lights the specimen.

    Attributes
    ----------
    kinds
        Kinds of microscope, all equally likely.
    na
        Numerical aperture of the lens.
    wavelength
        Of the emitted light in vacuum, µm.
    shift
        Wavelength of the emitted light over that of the exciting light.
    refractive_index
        Of the medium.
    pinhole
        Diameter in Airy discs; confocal only.
    sheet_na
        Numerical aperture of the light sheet; light sheet only.
    """

    kinds: tuple[Kind, ...] = Field(default=("widefield", "light_sheet"), min_length=1)
    na: Above0 = (0.7, 1.1)
    wavelength: Above0 = (0.50, 0.62)
    shift: Above0 = (1.05, 1.1)
    refractive_index: Above0 = (1.33, 1.40)
    pinhole: Span = (0.6, 1.2)
    sheet_na: Above0 = (0.05, 0.15)

    @model_validator(mode="after")
    def _exists(self) -> Self:
        if max(self.na[1], self.sheet_na[1]) >= self.refractive_index[0]:
            raise ValueError("expected apertures below the refractive index")
        return self

    def draw(self, rng: Generator) -> PsfSpec:
        """Return the optics of one microscope."""
        wavelength = rng.uniform(*self.wavelength)
        return PsfSpec(
            kind=self.kinds[int(rng.integers(len(self.kinds)))],
            na=rng.uniform(*self.na),
            wavelength=wavelength,
            excitation=wavelength / rng.uniform(*self.shift),
            refractive_index=rng.uniform(*self.refractive_index),
            pinhole=rng.uniform(*self.pinhole),
            sheet_na=rng.uniform(*self.sheet_na),
        )


@dataclass(frozen=True)
class Camera:
    """One camera and exposure: photons where the light is 1, counts per photon, dark counts, read noise in photons."""

    photons: float
    gain: float
    offset: float
    read_noise: float

    def exposed(self, light: Array, rng: Generator) -> Array:
        """Return counts with noise, float32."""
        return forward.exposed(light, self.photons, self.gain, self.offset, self.read_noise, rng)

    def expected(self, light: Array) -> Array:
        """Return counts without noise, float32."""
        return forward.expected(light, self.photons, self.gain, self.offset)


class CameraSpec(Spec):
    """Ranges of the exposure and the camera.

    Attributes
    ----------
    photons
        In the brightest voxel, on average; drawn evenly on a logarithmic scale.
    gain
        Counts per photon.
    offset
        Counts in the dark.
    read_noise
        Standard deviation in photons.
    """

    photons: Above0 = (20.0, 400.0)
    gain: Above0 = (1.0, 4.0)
    offset: Span = (50.0, 150.0)
    read_noise: Span = (0.5, 2.5)

    def draw(self, light: Array, rng: Generator) -> Camera:
        """Return one camera, exposed for the brightest voxel of the light."""
        photons = math.exp(rng.uniform(math.log(self.photons[0]), math.log(self.photons[1])))
        brightest = float(light.max())
        photons /= brightest if brightest > 0 else 1.0
        return Camera(
            photons, rng.uniform(*self.gain), rng.uniform(*self.offset), rng.uniform(*self.read_noise)
        )


class MediumSpec(Spec):
    """Ranges of what the specimen itself does to light.

    Attributes
    ----------
    glow
        Out-of-focus light beyond the point-spread function, as a share of the light in focus.
    glow_width
        Standard deviation of its Gaussian, µm.
    attenuation
        Depth in µm after which 1/e of the light is left.
    stripes
        Share of the light that the darkest shadow takes, 0 to 1.
    period
        Typical distance between shadows, µm.
    """

    glow: Span = (0.0, 0.4)
    glow_width: Above0 = (1.5, 4.0)
    attenuation: Above0 = (15.0, 150.0)
    stripes: Span = (0.2, 0.7)
    period: Above0 = (1.0, 4.0)

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.stripes[1] > 1:
            raise ValueError("expected stripes of at most 1")
        return self

    def glowing(self, light: Array, spacing: Spacing, rng: Generator) -> Array:
        """Add a drawn out-of-focus light."""
        return forward.glowing(light, rng.uniform(*self.glow), rng.uniform(*self.glow_width), spacing)

    def shaded(self, light: Array, spacing: Spacing, rng: Generator) -> Array:
        """Dim with depth and cast shadows."""
        light = forward.faded(light, rng.uniform(*self.attenuation), spacing)
        return forward.striped(light, rng.uniform(*self.stripes), rng.uniform(*self.period), spacing, rng)


class ClutterSpec(Spec):
    """Ranges of what shines off the surface of a projection.

    Attributes
    ----------
    share
        Of the volume that it fills, below 1.
    brightness
        Of its brightest voxel, as the lens shows it, in units of the sheet's.
    radius
        Typical radius of a blob, µm.
    gap
        Distance from the surface within which there is nothing, µm.
    """

    share: Span = (0.02, 0.1)
    brightness: Span = (0.3, 1.2)
    radius: Above0 = (0.3, 0.8)
    gap: Span = (0.6, 1.5)

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.share[1] >= 1:
            raise ValueError("expected a share below 1")
        return self

    def blobs(self, volume: Array, spacing: Spacing, rng: Generator) -> Array:
        """Return drawn blobs off the surface of a bright sheet, 1 in their middles."""
        share, radius, gap = (rng.uniform(*span) for span in (self.share, self.radius, self.gap))
        return forward.clutter(volume, share, radius, gap, spacing, rng)


class DegradeSpec(Spec):
    """How pairs are made; the defaults are the ranges to train on, for voxels of about 0.1 to 0.3 µm.

    Attributes
    ----------
    optics, camera, medium, clutter
        Ranges that every pair draws from.
    undersampling
        Of ``super_resolve``: pixels along y and x that become one.
    planes
        Of ``isotropic``: planes of which one is kept.
    views
        Of ``light_field``: directions along y and along x.
    depth
        Of ``light_field``: planes of the volume, cut from the middle of the truth.
    disparity
        Of ``light_field``: pixels that a plane moves between neighbouring views, per plane from the focus.
    """

    optics: OpticsSpec = OpticsSpec()
    camera: CameraSpec = CameraSpec()
    medium: MediumSpec = MediumSpec()
    clutter: ClutterSpec = ClutterSpec()
    undersampling: int = Field(default=2, ge=2, le=4)
    planes: int = Field(default=4, ge=2, le=8)
    views: int = Field(default=5, ge=2)
    depth: int = Field(default=16, ge=1)
    disparity: Span = (0.2, 0.5)


Pair = tuple[Array, Array]
"""What is given and what is to be made of it; counts, float32, axes Z Y X."""
Task = Callable[[Array, Spacing, DegradeSpec, Generator], Pair]


@dataclass(frozen=True)
class Grid:
    """Voxels along z, y, x, and their size in µm."""

    size: Triple
    spacing: Spacing


def pair(task: str, truth: Array, spacing: Spacing, spec: DegradeSpec, rng: Generator) -> Pair:
    """Return a pair of counts for a task.

    Parameters
    ----------
    task
        One of :data:`TASKS`.
    truth
        Brightness without noise or blur, finite, from 0 to about 1, axes Z Y X.
    spacing
        Voxel size in µm (z, y, x).
    spec
        The recipe.
    rng
        Equal generators give equal pairs.

    Returns
    -------
    tuple
        Input and target, float32, axes Z Y X, on the grids that :func:`grids` names.

    Raises
    ------
    DataError
        If there is no such task, the truth is no brightness, or it is too small for the task.
    """
    if task not in TASKS:
        raise DataError(f"no task '{task}'; {nearest(task, TASKS)}")
    truth = np.asarray(truth, np.float32)
    if truth.ndim != 3 or not truth.size or min(spacing) <= 0:
        raise DataError(
            f"a truth of shape {truth.shape}, {spacing} µm: give axes Z Y X and positive voxel sizes"
        )
    if not np.isfinite(truth).all() or truth.min() < 0:
        raise DataError("a truth below 0 or not finite is no brightness; subtract its background first")
    return TASKS[task](truth, spacing, spec, rng)


def grids(task: str, size: Triple, spacing: Spacing, spec: DegradeSpec) -> tuple[Grid, Grid]:
    """Return the grids of the input and the target that :func:`pair` makes of a truth.

    Parameters
    ----------
    task, spacing, spec
        As in :func:`pair`.
    size
        Voxels of the truth along z, y, x.
    """
    if task not in TASKS:
        raise DataError(f"no task '{task}'; {nearest(task, TASKS)}")
    nz, ny, nx = size
    dz, dy, dx = spacing
    same = Grid(size, spacing)
    if task == "super_resolve":
        f = spec.undersampling
        whole = Grid((nz, ny // f * f, nx // f * f), spacing)
        return Grid((nz, ny // f, nx // f), (dz, dy * f, dx * f)), whole
    if task == "isotropic":
        f = spec.planes
        return Grid((nz // f, ny, nx), (dz * f, dy, dx)), Grid((nz // f * f, ny, nx), spacing)
    if task == "project":
        return same, Grid((1, ny, nx), (dz * nz, dy, dx))
    if task == "light_field":
        n, depth = spec.views, spec.depth
        rows, columns = ny // n * n, nx // n * n
        return Grid((1, rows, columns), (dz * depth, dy, dx)), Grid((depth, rows, columns), spacing)
    return same, same


def denoise(truth: Array, spacing: Spacing, spec: DegradeSpec, rng: Generator) -> Pair:
    """Noisy counts, and the counts expected: both through the same lens."""
    light = spec.medium.glowing(_seen(truth, spacing, spec.optics.draw(rng)), spacing, rng)
    camera = spec.camera.draw(light, rng)
    return camera.exposed(light, rng), camera.expected(light)


def deblur(truth: Array, spacing: Spacing, spec: DegradeSpec, rng: Generator) -> Pair:
    """Noisy counts through a lens and with out-of-focus light, and the truth in counts."""
    light = spec.medium.glowing(_seen(truth, spacing, spec.optics.draw(rng)), spacing, rng)
    camera = spec.camera.draw(light, rng)
    return camera.exposed(light, rng), camera.expected(truth)


def destripe(truth: Array, spacing: Spacing, spec: DegradeSpec, rng: Generator) -> Pair:
    """Noisy counts dimmed with depth and behind shadows, and the counts expected in clear medium."""
    light = _seen(truth, spacing, spec.optics.draw(rng))
    camera = spec.camera.draw(light, rng)
    return camera.exposed(spec.medium.shaded(light, spacing, rng), rng), camera.expected(light)


def super_resolve(truth: Array, spacing: Spacing, spec: DegradeSpec, rng: Generator) -> Pair:
    """Noisy counts of large pixels through a lens, and the truth in counts on small ones."""
    f = spec.undersampling
    light = forward.binned(_seen(truth, spacing, spec.optics.draw(rng)), f)
    camera = spec.camera.draw(light, rng)
    _, ny, nx = light.shape
    return camera.exposed(light, rng), camera.expected(truth[:, : ny * f, : nx * f])


def isotropic(truth: Array, spacing: Spacing, spec: DegradeSpec, rng: Generator) -> Pair:
    """Noisy counts of few planes, and the counts expected of all, as sharp along z as along y and x."""
    optics = spec.optics.draw(rng)
    light = forward.thinned(_seen(truth, spacing, optics), spec.planes)
    camera = spec.camera.draw(light, rng)
    _, sigma = detection_sigma(optics.na, optics.wavelength, optics.refractive_index)
    sharp = blur(truth[: len(light) * spec.planes], (sigma, sigma, sigma), spacing)
    return camera.exposed(light, rng), camera.expected(sharp)


def project(truth: Array, spacing: Spacing, spec: DegradeSpec, rng: Generator) -> Pair:
    """Noisy counts of a bright sheet among clutter, and the counts expected on the sheet without the clutter.

    The truth is the sheet alone; through the lens its surface is where it is brightest along z.
    """
    optics = spec.optics.draw(rng)
    # Over and under the stack it is dark: a mirrored sheet would shine into the real one.
    margin = extent(optics, spacing)[0] // 2
    dark = [(margin, margin), (0, 0), (0, 0)]
    inner = slice(margin, margin + len(truth))
    sheet = _seen(np.pad(truth, dark), spacing, optics)[inner]
    blobs = _seen(np.pad(spec.clutter.blobs(truth, spacing, rng), dark), spacing, optics)[inner]
    blobs *= rng.uniform(*spec.clutter.brightness) * sheet.max() / max(float(blobs.max()), 1e-6)
    light = spec.medium.glowing(sheet + blobs, spacing, rng)
    camera = spec.camera.draw(light, rng)
    return camera.exposed(light, rng), camera.expected(sheet.max(0, keepdims=True))


def light_field(truth: Array, spacing: Spacing, spec: DegradeSpec, rng: Generator) -> Pair:
    """Noisy counts of a lenslet image (Z = 1), and the truth in counts.

    Each view uses a part of the aperture, and its lens is that much less sharp.
    """
    n, depth = spec.views, spec.depth
    if len(truth) < depth:
        raise DataError(
            f"{len(truth)} planes are no light field of depth {depth}; give more, or a smaller depth"
        )
    start = (len(truth) - depth) // 2
    truth = truth[start : start + depth, : truth.shape[1] // n * n, : truth.shape[2] // n * n]
    if not truth.size:
        raise DataError(f"too few pixels for {n} × {n} views; give {n} or more along y and x")
    optics = spec.optics.draw(rng)
    part = optics.model_copy(update={"kind": "widefield", "na": optics.na / n})
    _, ky, kx = (min(k, 2 * m - 1) for k, m in zip(extent(part, spacing, zeros=0), truth.shape))
    seen = forward.convolved(truth, psf(part, spacing, (1, ky, kx)))
    light = lenslet_image(seen, n, rng.uniform(*spec.disparity))[None]
    camera = spec.camera.draw(light, rng)
    return camera.exposed(light, rng), camera.expected(truth)


TASKS: dict[str, Task] = {
    "denoise": denoise,
    "deblur": deblur,
    "destripe": destripe,
    "super_resolve": super_resolve,
    "isotropic": isotropic,
    "project": project,
    "light_field": light_field,
}
"""What can be learnt from pairs, by name."""


def _seen(truth: Array, spacing: Spacing, optics: PsfSpec) -> Array:
    """Return the truth through a lens, its kernel no larger than what a mirrored volume can tell."""
    z, y, x = (min(k, 2 * n - 1) for k, n in zip(extent(optics, spacing), truth.shape))
    kernel = psf(optics, spacing, (z, y, x))
    # A wide field's light never ends along z. It fades out here, so that no edge of the kernel is seen.
    away = np.abs(np.arange(z) - z // 2) / (z // 2 + 1)
    kernel *= np.cos(np.pi / 2 * np.clip(2 * away - 1, 0, 1))[:, None, None] ** 2
    return forward.convolved(truth, kernel / kernel.sum())
