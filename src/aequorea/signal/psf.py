"""Point-spread functions on voxels, from the optics or from a measured bead.

The light of a point is the scalar Debye integral over the lens's aperture with the sine condition (Born and
Wolf, *Principles of Optics*, chapter 8.8; Richards and Wolf, "Electromagnetic diffraction in optical systems II",
Proc. R. Soc. A 253, 1959, without their polarisation). For a small aperture it becomes the paraxial pattern: Airy's
in focus, with its first dark ring at 0.61 λ/NA, and the first axial zero at 2 n λ/NA².

A confocal microscope multiplies what it lights by what its pinhole lets through, a light sheet what it lights by
what the lens sees. Each voxel is the mean over its box, by Gauss's rule on as many points as the light's finest
detail asks for, so that coarse voxels do not alias.
"""

from __future__ import annotations

import math
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator
from scipy import interpolate, ndimage, special

from aequorea.errors import DataError
from aequorea.specs import Spec
from aequorea.volume import Array, Spacing, Triple

Kind = Literal["widefield", "confocal", "light_sheet"]


class PsfSpec(Spec):
    """The optics of a microscope.

    Attributes
    ----------
    kind
        ``"widefield"``, ``"confocal"`` or ``"light_sheet"``.
    na
        Numerical aperture of the lens.
    wavelength
        Of the emitted light in vacuum, µm.
    excitation
        Wavelength of the light that excites, in vacuum, µm; confocal and light sheet only.
    refractive_index
        Of the medium.
    pinhole
        Diameter in Airy discs of the emitted light (1.22 λ/NA); confocal only. 0 is a point.
    sheet_na
        Numerical aperture of the illumination; light sheet only.
    """

    kind: Kind = "widefield"
    na: float = Field(default=0.8, gt=0)
    wavelength: float = Field(default=0.52, gt=0)
    excitation: float = Field(default=0.488, gt=0)
    refractive_index: float = Field(default=1.33, ge=1)
    pinhole: float = Field(default=1.0, ge=0)
    sheet_na: float = Field(default=0.06, gt=0)

    @model_validator(mode="after")
    def _exists(self) -> Self:
        if not max(self.na, self.sheet_na) < self.refractive_index:
            raise ValueError("expected apertures below the refractive index")
        return self

    @property
    def airy(self) -> float:
        """Radius of the first dark ring in focus, µm."""
        return 0.61 * self.wavelength / self.na

    @property
    def depth(self) -> float:
        """Distance along z from the focus to the first zero of the emitted light, µm."""
        return _zero(self.na, self.wavelength, self.refractive_index)

    @property
    def waist(self) -> float:
        """Half the thickness of the light sheet where its light has fallen to 1/e², µm."""
        return self.excitation / (math.pi * self.sheet_na)


def psf(spec: PsfSpec, spacing: Spacing, size: Triple | None = None) -> Array:
    """Return a point-spread function of sum 1, float64, axes Z Y X, its centre at voxel ``size // 2``.

    Parameters
    ----------
    spec
        The optics.
    spacing
        Voxel size in µm (z, y, x).
    size
        Voxels along z, y, x; default :func:`extent`. What falls outside is left out before the sum is made 1.

    Raises
    ------
    DataError
        If the size or spacing is not positive.
    """
    size = extent(spec, spacing) if size is None else size
    if min(size) < 1 or min(spacing) <= 0:
        raise DataError(f"a PSF of {size} voxels of {spacing} µm does not exist; give positive numbers")
    shortest = spec.wavelength if spec.kind == "widefield" else min(spec.wavelength, spec.excitation)
    finest = (1 / _bandwidth(spec, shortest), shortest / (2 * spec.na), shortest / (2 * spec.na))
    (z, wz), (y, wy), (x, wx) = (_points(n, d, f) for n, d, f in zip(size, spacing, finest))
    radii = np.hypot(y[:, None, :, None], x[None, :, None, :])
    table_r = np.linspace(0, radii.max() + 1e-9, 4 + math.ceil(radii.max() * 16 * spec.na / shortest))
    table_Rz = intensity(spec, z.ravel(), table_r)
    table_RZ = (table_Rz.reshape(len(table_r), *z.shape) * wz).sum(-1)
    lateral_YXZ = np.empty((len(y), len(x), len(z)))
    spline = interpolate.CubicSpline(table_r, table_RZ)
    for row, radii_Xyx in enumerate(radii):  # row by row, for the memory's sake
        lateral_YXZ[row] = np.einsum("xabz,a,b->xz", spline(radii_Xyx), wy, wx)
    quarter_ZYX = np.clip(np.moveaxis(lateral_YXZ, -1, 0), 0, None)
    z_of, y_of, x_of = (np.abs(np.arange(n) - n // 2) for n in size)
    whole = quarter_ZYX[np.ix_(z_of, y_of, x_of)]
    return np.asarray(whole / whole.sum())


def extent(spec: PsfSpec, spacing: Spacing, zeros: float = 2) -> Triple:
    """Return the odd size (z, y, x) that holds the bright part of a point-spread function.

    Parameters
    ----------
    spec
        The optics.
    spacing
        Voxel size in µm (z, y, x).
    zeros
        How far along z to reach, in distances from the focus to the first axial zero; at most two waists of a
        light sheet. Along y and x the cone of light at that depth is held, and three Airy radii at least.
    """
    deep = zeros * spec.depth
    if spec.kind == "light_sheet":
        deep = min(deep, 2 * spec.waist)
    cone = deep * math.tan(math.asin(spec.na / spec.refractive_index))
    if spec.kind == "confocal":
        cone = 0.0
    reach = (deep, max(cone, 3 * spec.airy), max(cone, 3 * spec.airy))
    z, y, x = (2 * max(1, math.ceil(r / d)) + 1 for r, d in zip(reach, spacing))
    return z, y, x


def intensity(spec: PsfSpec, z: Array, r: Array) -> Array:
    """Return the light of a point at distances along and from the optical axis, relative to the focus.

    Parameters
    ----------
    spec
        The optics.
    z, r
        Distances in µm, each a vector.

    Returns
    -------
    Array
        Float64, axes r, z; 1 in the focus.
    """
    if spec.kind == "confocal":
        lit = debye(spec.na, spec.excitation, spec.refractive_index, z, r)
        return np.asarray(lit * _through_pinhole(spec, z, r))
    seen = debye(spec.na, spec.wavelength, spec.refractive_index, z, r)
    if spec.kind == "light_sheet":
        seen = seen * np.exp(-2 * (z / spec.waist) ** 2)
    return seen


def debye(na: float, wavelength: float, refractive_index: float, z: Array, r: Array) -> Array:
    """Return the scalar Debye intensity of a lens, 1 in the focus; axes r, z.

    Parameters
    ----------
    na, wavelength, refractive_index
        Of the lens, the light in vacuum (µm) and the medium.
    z, r
        Distances in µm along and from the optical axis, each a vector.
    """
    wavenumber = 2 * math.pi * refractive_index / wavelength
    widest = math.asin(na / refractive_index)
    turns = wavenumber * (
        np.abs(z).max(initial=0) * (1 - math.cos(widest)) + r.max(initial=0) * math.sin(widest)
    )
    nodes, weights = np.polynomial.legendre.leggauss(24 + math.ceil(0.6 * turns))
    angle = widest * (nodes + 1) / 2
    share = weights * np.sqrt(np.cos(angle)) * np.sin(angle)
    ring_rN = special.j0(wavenumber * np.outer(r, np.sin(angle)))
    # The phase of the focus itself turns fastest and does not matter: it is left out.
    path_zN = wavenumber * np.outer(z, np.cos(angle) - 1)
    real, imaginary = ring_rN @ (share * np.cos(path_zN)).T, ring_rN @ (share * np.sin(path_zN)).T
    return np.asarray((real**2 + imaginary**2) / share.sum() ** 2)


def measured(
    bead: Array,
    spacing: Spacing,
    onto: Spacing | None = None,
    size: Triple | None = None,
    background: float | None = None,
) -> Array:
    """Return a measured point-spread function as a kernel of sum 1, float64, axes Z Y X.

    The background is subtracted and the bead's centre of mass moved to voxel ``size // 2``. A voxel as large as
    the measurement's or larger is the mean of what it covers, a finer one is interpolated linearly; outside of
    the measurement there is nothing.

    Parameters
    ----------
    bead
        Image of a point, axes Z Y X, e.g. ``open(path).read()[0]``.
    spacing
        Its voxel size in µm (z, y, x).
    onto
        Voxel size of the kernel; default: that of the measurement.
    size
        Voxels of the kernel; default: odd and of the same extent.
    background
        Counts without light; default: the middle of the image's outermost voxels plus two of their standard
        deviations, both told from the darkest, so that noise far from the bead adds up to little.

    Raises
    ------
    DataError
        If nothing is brighter than the background.
    """
    bead = np.asarray(bead, np.float64)
    if bead.ndim != 3 or not bead.size or not np.isfinite(bead).all():
        raise DataError(f"a measured PSF of shape {bead.shape}: give finite values of axes Z Y X")
    onto = spacing if onto is None else onto
    if min(*spacing, *onto) <= 0:
        raise DataError(f"voxels of {spacing} and {onto} µm do not exist; give positive numbers")
    if size is None:
        z, y, x = (2 * int(n * a / b / 2) + 1 for n, a, b in zip(bead.shape, spacing, onto))
        size = (z, y, x)
    light = np.clip(bead - (_dark(bead) if background is None else background), 0, None)
    if not light.any():
        raise DataError(
            "a measured PSF is nowhere brighter than its background; give background=0 or another"
        )
    kernel = light
    for axis, centre in enumerate(_centre(light)):
        weights = _onto(light.shape[axis], spacing[axis], size[axis], onto[axis], centre)
        kernel = np.moveaxis(np.tensordot(weights, kernel, (1, axis)), 0, axis)
    if not kernel.any():
        raise DataError(f"a PSF of {size} voxels misses the bead; give a larger size")
    return np.asarray(kernel / kernel.sum())


def _zero(na: float, wavelength: float, refractive_index: float) -> float:
    """Where along z the ends of the aperture are one wave apart, µm."""
    return wavelength / (refractive_index - math.sqrt(refractive_index**2 - na**2))


def _bandwidth(spec: PsfSpec, shortest: float) -> float:
    """Highest frequency along z, per µm: of the lens, and of a sheet that is thinner than its depth of field."""
    lens = 1 / _zero(spec.na, shortest, spec.refractive_index)
    return lens + 1 / spec.waist if spec.kind == "light_sheet" else 2 * lens


def _points(count: int, step: float, finest: float) -> tuple[Array, Array]:
    """Return where to look in the voxels at 0, 1, ... from the centre, axes voxel and point, and weights."""
    nodes, weights = np.polynomial.legendre.leggauss(2 + math.ceil(1.5 * step / finest))
    return (np.arange(count // 2 + 1)[:, None] + nodes / 2) * step, weights / 2


def _through_pinhole(spec: PsfSpec, z: Array, r: Array) -> Array:
    """Return the emitted light that a pinhole lets through, relative to a point in the focus; axes r, z."""
    edge = spec.pinhole * spec.airy
    if edge < 1e-3 * spec.airy:
        return debye(spec.na, spec.wavelength, spec.refractive_index, z, r)
    far = r.max(initial=0) + edge
    table_r = np.linspace(0, far, 4 + math.ceil(far * 16 * spec.na / spec.wavelength))
    spline = interpolate.CubicSpline(
        table_r, debye(spec.na, spec.wavelength, spec.refractive_index, z, table_r)
    )
    count = 6 + math.ceil(4 * spec.pinhole)
    nodes, weights = np.polynomial.legendre.leggauss(count)
    ring = edge * (nodes + 1) / 2
    turn = np.pi * (np.arange(2 * count) + 0.5) / (2 * count)  # half a turn: the other half is alike
    share = weights * ring

    def gathered(at: Array) -> Array:
        way = np.sqrt(np.maximum(at**2 + ring[:, None] ** 2 - 2 * at * ring[:, None] * np.cos(turn), 0))
        return np.asarray(np.einsum("a,abz->z", share, spline(way)))

    lit = debye(spec.na, spec.wavelength, spec.refractive_index, np.zeros(1), ring)[:, 0]
    return np.asarray(np.stack([gathered(at) for at in r]) / ((share * lit).sum() * len(turn)))


def _dark(bead: Array) -> float:
    """Return the level below which a bead's image is background."""
    rim = np.ones(bead.shape, bool)
    rim[tuple(slice(1, -1) if n > 2 else slice(None) for n in bead.shape)] = False
    outer = bead[rim] if rim.any() else bead.ravel()
    # From the darkest quarter, since the bead's own light may reach the rim: for Gaussian noise these quantiles
    # lie 1.64 and 0.67 standard deviations below the middle.
    darkest, dark = np.quantile(outer, (0.05, 0.25))
    deviation = (dark - darkest) / 0.97
    return float(dark + 0.674 * deviation + 2 * deviation)


def _centre(light: Array) -> tuple[float, ...]:
    """Return the centre of mass of what rises over half of the bead's peak, in one piece with the peak."""
    soft = ndimage.gaussian_filter(light, 0.7)
    pieces, _ = ndimage.label(soft > soft.max() / 2)
    bright = pieces == pieces[np.unravel_index(soft.argmax(), soft.shape)]
    return tuple(float(c) for c in ndimage.center_of_mass(np.where(bright, soft - soft.max() / 2, 0)))


def _onto(old: int, old_step: float, new: int, new_step: float, centre: float) -> Array:
    """Return the weights of the old voxels (columns) in the new voxels (rows) along one axis."""
    ratio = new_step / old_step
    away = np.abs(centre + (np.arange(new)[:, None] - new // 2) * ratio - np.arange(old))
    if ratio < 1:
        return np.asarray(np.clip(1 - away, 0, None))
    # The share of the new voxel that the old one fills: nothing changes where the two coincide.
    return np.asarray(np.clip((ratio + 1) / 2 - away, 0, 1) / ratio)
