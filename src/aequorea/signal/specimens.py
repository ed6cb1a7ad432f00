"""Simulated specimens with exact truth: touching nuclei in an anisotropic light-sheet volume.

Nuclei are ellipsoids with uneven borders, placed on a jittered lattice in µm inside smooth clusters. Two that
would overlap are cut by a plane, so that they share a face and only a thin dark cleft tells them apart. Each
has chromatin texture, nucleoli and a brightness of its own. The microscope adds its blur, out-of-focus light,
haze, light that fades with depth and behind absorbing matter (stripes), photon noise and read noise.

Everything is a pure function of the recipe, the size, the spacing and the seed. Nuclei are drawn one by one
in their own boxes, in slabs along z, so that memory beyond the two returned arrays does not grow with depth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, Philox
from pydantic import Field, field_validator
from scipy import ndimage
from scipy.spatial import cKDTree

from aequorea.errors import DataError
from aequorea.signal.optics import blur, light_sheet_sigma
from aequorea.specs import Spec
from aequorea.volume import Array, Region, Spacing, Triple

SLAB = 32
"""Planes drawn at a time."""
GLOW = 5.0
"""How much wider than in focus the out-of-focus light is."""
_PLACES, _TEXTURE, _TISSUE, _LIGHT, _NOISE = range(5)

Span = tuple[float, float]


class NucleiSpec(Spec):
    """How the nuclei and the microscope are; the defaults are the ranges to train on.

    Attributes
    ----------
    diameter
        Smallest and largest mean diameter, µm.
    elongation
        Smallest and largest ratio of the longest to the shortest axis.
    roughness
        Unevenness of the border, as a share of the radius.
    pitch
        Lattice spacing in mean diameters: the smaller, the more nuclei touch.
    filled
        Share of the lattice that holds nuclei; the rest is gaps between clusters.
    cleft
        Half width of the dark cleft between touching nuclei, µm.
    contrast
        Strength of the chromatin texture (standard deviation of the logarithm).
    grain
        Size of the chromatin texture, µm.
    nucleoli
        Most dark nucleoli in one nucleus.
    brightness
        Spread of the brightness between nuclei (standard deviation of the logarithm).
    glow
        Out-of-focus light, as a share of the light in focus.
    haze
        Strongest background, in units of a nucleus.
    attenuation
        Depth in µm after which 1/e of the light is left, along the sheet (x) and into the tissue (z).
    stripes
        Depth of the shadows along the sheet, 0 to 1.
    photons
        Photons per voxel from a nucleus of ordinary brightness.
    read_noise
        Of the camera, in photons.
    offset
        Counts that the camera gives in the dark.
    gain
        Counts per photon.
    na, sheet_na
        Numerical apertures of the detection lens and of the light sheet.
    wavelength
        In vacuum, µm.
    """

    diameter: Span = (7.0, 11.0)
    elongation: Span = (1.0, 1.7)
    roughness: float = Field(default=0.06, ge=0, lt=0.3)
    pitch: float = Field(default=1.05, ge=0.7)
    filled: float = Field(default=0.7, gt=0, le=1)
    cleft: float = Field(default=0.5, ge=0)
    contrast: float = Field(default=0.35, ge=0)
    grain: float = Field(default=1.2, gt=0)
    nucleoli: int = Field(default=3, ge=0)
    brightness: float = Field(default=0.45, ge=0)
    glow: float = Field(default=0.25, ge=0)
    haze: float = Field(default=0.3, ge=0)
    attenuation: float = Field(default=400.0, gt=0)
    stripes: float = Field(default=0.35, ge=0, le=1)
    photons: float = Field(default=60.0, gt=0)
    read_noise: float = Field(default=2.0, ge=0)
    offset: float = Field(default=100.0, ge=0)
    gain: float = Field(default=4.0, gt=0)
    na: float = Field(default=0.5, gt=0, lt=1.33)
    sheet_na: float = Field(default=0.06, gt=0, lt=1.33)
    wavelength: float = Field(default=0.52, gt=0)

    @field_validator("diameter", "elongation")
    @classmethod
    def _ordered(cls, span: Span) -> Span:
        if not 0 < span[0] <= span[1]:
            raise ValueError("expected two positive numbers, the smaller first")
        return span


UNSEEN = NucleiSpec(diameter=(11.5, 14.0), elongation=(1.8, 2.2), contrast=0.5, grain=2.0, nucleoli=5)
"""Sizes, shapes and textures outside the ranges of the default recipe, for specimens to be tested on."""


@dataclass(frozen=True)
class Specimen:
    """A simulated volume with its truth.

    Attributes
    ----------
    image
        Counts, uint16, axes Z Y X.
    labels
        Object numbers 1, 2, ... without gaps, int32, axes Z Y X; 0 is background.
    spacing
        Voxel size in µm.
    """

    image: Array
    labels: Array
    spacing: Spacing


@dataclass(frozen=True)
class Nuclei:
    """Where the nuclei are and how they are shaped; all lengths in µm, all axes in the order z, y, x."""

    centre_N3: Array
    radii_N3: Array
    turn_N33: Array
    brightness_N: Array
    cuts: list[list[tuple[Array, float]]]
    """Per nucleus the planes in which it touches: outward unit normal, distance from its centre."""

    @property
    def reach_N3(self) -> Array:
        """Half the size of each nucleus's bounding box before its border is made uneven."""
        reach: Array = np.sqrt(np.einsum("nij,ni->nj", self.turn_N33**2, self.radii_N3**2))
        return reach


def touching_nuclei(size: Triple, spacing: Spacing, seed: int, spec: NucleiSpec | None = None) -> Specimen:
    """Simulate a volume of touching nuclei.

    Parameters
    ----------
    size
        Voxels along z, y, x.
    spacing
        Voxel size in µm; anisotropy of any ratio.
    seed
        Equal seeds give equal specimens.
    spec
        The recipe; default :class:`NucleiSpec`.

    Raises
    ------
    DataError
        If the size or spacing is not positive.
    """
    spec = NucleiSpec() if spec is None else spec
    if min(size) < 1 or min(spacing) <= 0:
        raise DataError(f"a specimen of {size} voxels of {spacing} µm does not exist; give positive numbers")
    nuclei = place(size, spacing, seed, spec)
    image = np.empty(size, np.uint16)
    labels = np.zeros(size, np.int32)
    sigma = light_sheet_sigma(spec.na, spec.wavelength, sheet_na=spec.sheet_na)
    margin = math.ceil(2.5 * GLOW * sigma[0] / spacing[0]) if size[0] > 1 else 0
    for start in range(0, size[0], SLAB):
        kept = Region.at((start, 0, 0), (SLAB, *size[1:])).clip(Region.whole(size))
        drawn = kept.grow((margin, 0, 0)).clip(Region.whole(size))
        light, truth = draw(nuclei, drawn, size, spacing, seed, spec)
        light = _through_microscope(light, sigma, spacing, spec.glow)
        inner = kept.relative_to(drawn).slices
        labels[kept.slices] = truth[inner]
        image[kept.slices] = _on_camera(light[inner], kept, size, spacing, seed, spec)
    return Specimen(image, _without_gaps(labels), spacing)


def place(size: Triple, spacing: Spacing, seed: int, spec: NucleiSpec) -> Nuclei:
    """Return the nuclei of a volume, with the planes in which they touch."""
    rng = _generator(seed, _PLACES)
    extent = np.array(size) * np.array(spacing)
    pitch = spec.pitch * sum(spec.diameter) / 2
    counts = np.ceil(extent / pitch).astype(int) + 1
    lattice = np.stack(np.meshgrid(*(np.arange(n) for n in counts), indexing="ij"), -1).reshape(-1, 3)
    centre = (lattice + rng.uniform(-0.35, 0.35, lattice.shape)) * pitch
    # Every second layer is moved by half a step, so that no straight rows are seen.
    centre[:, 1:] += (lattice[:, :1] % 2) * pitch / 2 - pitch / 4
    tissue = _smooth_field(seed, centre)
    n = len(centre)
    diameter = rng.uniform(*spec.diameter, n)
    ratio = rng.uniform(*spec.elongation, n)
    middle = rng.uniform(0, 1, n)
    radii = np.stack([ratio**0.5, ratio ** (middle - 0.5), ratio**-0.5], 1)
    radii *= (diameter / 2 / np.prod(radii, 1) ** (1 / 3))[:, None]
    turn, _ = np.linalg.qr(rng.normal(size=(n, 3, 3)))
    brightness = np.exp(rng.normal(0, spec.brightness, n))
    inside = np.all(
        (centre > -radii.max(1, keepdims=True)) & (centre < extent + radii.max(1, keepdims=True)), 1
    )
    kept = inside & (tissue <= np.quantile(tissue, spec.filled))
    nuclei = Nuclei(centre[kept], radii[kept], turn[kept], brightness[kept], [])
    return _apart(nuclei)


def _apart(nuclei: Nuclei) -> Nuclei:
    """Drop nuclei that lie mostly inside another, and cut the others where they meet."""
    centre, longest = nuclei.centre_N3, nuclei.radii_N3.max(initial=0)
    pairs = (
        cKDTree(centre).query_pairs(2.6 * longest, output_type="ndarray")
        if len(centre)
        else np.empty((0, 2), int)
    )
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    way = centre[pairs[:, 1]] - centre[pairs[:, 0]]
    distance = np.linalg.norm(way, axis=1)
    normal = way / distance[:, None]
    first, second = (_extent_along(nuclei, pairs[:, side], normal) for side in (0, 1))
    closeness = distance / (first + second)
    gone = np.zeros(len(centre), bool)
    for (a, b), close in zip(pairs, closeness):
        if close < 0.75 and not gone[a]:
            gone[b] = True
    left = np.flatnonzero(~gone)
    number = np.cumsum(~gone) - 1
    cuts: list[list[tuple[Array, float]]] = [[] for _ in left]
    for (a, b), close, n_3, gap, near, far in zip(pairs, closeness, normal, distance, first, second):
        if close < 1.25 and not gone[a] and not gone[b]:
            cuts[number[a]].append((n_3, gap * near / (near + far)))
            cuts[number[b]].append((-n_3, gap * far / (near + far)))
    return Nuclei(centre[left], nuclei.radii_N3[left], nuclei.turn_N33[left], nuclei.brightness_N[left], cuts)


def _extent_along(nuclei: Nuclei, index: Array, normal_P3: Array) -> Array:
    """Return how far the ellipsoids reach from their centres along a direction."""
    turned = np.einsum("pij,pj->pi", nuclei.turn_N33[index], normal_P3)
    reach: Array = 1 / np.linalg.norm(turned / nuclei.radii_N3[index], axis=1)
    return reach


def draw(
    nuclei: Nuclei, region: Region, size: Triple, spacing: Spacing, seed: int, spec: NucleiSpec
) -> tuple[Array, Array]:
    """Return the light (float32) and the labels (int32) of a region before the microscope, axes Z Y X."""
    light = np.zeros(region.size, np.float32)
    labels = np.zeros(region.size, np.int32)
    for index, box in _boxes(nuclei, region, size, spacing, spec):
        shining, inside = _nucleus(nuclei, index, box, spacing, seed, spec)
        part = box.clip(region)
        source, target = part.relative_to(box).slices, part.relative_to(region).slices
        np.maximum(light[target], shining[source], out=light[target])
        labels[target][inside[source]] = index + 1
    return light, labels


def _boxes(
    nuclei: Nuclei, region: Region, size: Triple, spacing: Spacing, spec: NucleiSpec
) -> Iterator[tuple[int, Region]]:
    """Yield the nuclei that a region shows, with their boxes inside the volume."""
    reach = nuclei.reach_N3 * (1 + 2 * spec.roughness) + 0.5
    low = np.floor((nuclei.centre_N3 - reach) / spacing).astype(int)
    high = np.ceil((nuclei.centre_N3 + reach) / spacing).astype(int) + 1
    seen = np.all((high > region.start) & (low < region.stop), axis=1)
    for index in np.flatnonzero(seen):
        box = Region(tuple(low[index].tolist()), tuple(high[index].tolist())).clip(Region.whole(size))
        if not box.clip(region).empty:
            yield int(index), box


def _nucleus(
    nuclei: Nuclei, index: int, box: Region, spacing: Spacing, seed: int, spec: NucleiSpec
) -> tuple[Array, Array]:
    """Return the light of one nucleus and the mask of its voxels, in its box."""
    rng = _generator(seed, _TEXTURE, index)
    axes = [
        (np.arange(a, b) + 0.5) * d - c
        for a, b, d, c in zip(box.start, box.stop, spacing, nuclei.centre_N3[index])
    ]
    offset_3V = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1).astype(np.float32)
    radii = nuclei.radii_N3[index].astype(np.float32)
    body_3V = (nuclei.turn_N33[index].astype(np.float32) @ offset_3V) / radii[:, None]
    depth = np.sqrt(np.einsum("iv,iv->v", body_3V, body_3V)) + 1e-6
    waves = rng.normal(0, 2.5, (5, 3)).astype(np.float32)
    phases = rng.uniform(0, 2 * np.pi, (5, 1)).astype(np.float32)
    depth /= 1 + spec.roughness * np.cos(waves @ (body_3V / depth) + phases).sum(0) / 1.6
    cleft = np.full(depth.shape, np.inf, np.float32)
    for normal, distance in nuclei.cuts[index]:
        np.minimum(cleft, np.float32(distance) - normal.astype(np.float32) @ offset_3V, out=cleft)
    inside = _largest_piece(((depth < 1) & (cleft > 0)).reshape(box.size))
    light = np.exp(spec.contrast * _grain(rng, axes, spec.grain) - spec.contrast**2 / 2).ravel()
    for _ in range(int(rng.integers(0, spec.nucleoli + 1))):
        middle = rng.uniform(-0.5, 0.5, (3, 1)).astype(np.float32)
        light *= 1 - 0.7 * np.exp(
            -((body_3V - middle) ** 2).sum(0) / np.float32(2 * rng.uniform(0.12, 0.22) ** 2)
        )
    light *= np.clip((1 - depth) * radii.mean() / 0.6, 0.25, 1)
    if spec.cleft > 0:
        light *= np.clip(cleft / spec.cleft - 0.3, 0.1, 1)
    shining: Array = nuclei.brightness_N[index] * light.reshape(box.size) * inside
    return shining.astype(np.float32), inside


def _grain(rng: Generator, axes: list[Array], grain: float) -> Array:
    """Return smooth noise of unit variance (float32): random values a grain apart, blended between."""
    weights = []
    for axis in axes:
        # Anchored at the centre, so that a nucleus cut by the border of the volume keeps its texture.
        at = axis / grain + 12
        low = np.clip(np.floor(at), 0, 22)
        share = np.clip(at - low, 0, 1)
        matrix = np.zeros((len(axis), 24), np.float32)
        rows = np.arange(len(axis))
        norm = np.sqrt(share**2 + (1 - share) ** 2)
        matrix[rows, low.astype(int)] = (1 - share) / norm
        matrix[rows, low.astype(int) + 1] = share / norm
        weights.append(matrix)
    values = rng.standard_normal((24, 24, 24), dtype=np.float32)
    noise = np.tensordot(weights[0], values, (1, 0))
    noise = np.tensordot(noise, weights[1], (1, 1))
    return np.ascontiguousarray(np.tensordot(noise, weights[2], (1, 1)))


def _largest_piece(mask: Array) -> Array:
    """Keep the largest piece of a mask that plane cuts and coarse voxels may have torn apart."""
    pieces, count = ndimage.label(mask)
    if count < 2:
        return mask
    kept: Array = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    return kept


def _through_microscope(light: Array, sigma: Spacing, spacing: Spacing, glow: float) -> Array:
    sharp = blur(light, sigma, spacing)
    # Two moving averages are near enough to a wide Gaussian, at a cost that does not grow with its width.
    widths = [max(1, round(GLOW * s / d * math.sqrt(6))) for s, d in zip(sigma, spacing)]
    wide = light
    for _ in range(2):
        wide = ndimage.uniform_filter(wide, widths, mode="nearest")
    return sharp + np.float32(glow) * wide


def _on_camera(
    light: Array, region: Region, size: Triple, spacing: Spacing, seed: int, spec: NucleiSpec
) -> Array:
    """Return counts (uint16) from the light of a region: haze, fading, stripes, noise."""
    extent = [n * d for n, d in zip(size, spacing)]
    z, y, x = ((np.arange(a, b) + 0.5) * d for a, b, d in zip(region.start, region.stop, spacing))
    rng = _generator(seed, _LIGHT)
    from_left = rng.uniform() < 0.5
    waves = rng.normal(0, 1, (6, 2)) * (0.02, 0.25)
    phases = rng.uniform(0, 2 * np.pi, 6)
    begins = rng.uniform(0, 0.7, 6) * extent[2]
    along = x if from_left else extent[2] - x
    counts = np.empty(light.shape, np.uint16)
    for plane in range(light.shape[0]):
        where = np.stack(np.broadcast_arrays(z[plane], y[::4, None], x[None, ::4]), -1)
        haze = _smooth_field(seed, where.reshape(-1, 3)).reshape(where.shape[:2])
        haze = spec.haze * np.clip(0.5 - 0.35 * haze, 0, 1)
        haze = np.repeat(np.repeat(haze, 4, 0), 4, 1)[: len(y), : len(x)]
        shadow = np.zeros((len(y), len(x)))
        for (wave_z, wave_y), phase, begin in zip(waves, phases, begins):
            narrow = np.maximum(np.cos(wave_z * z[plane] + wave_y * y + phase), 0) ** 4
            shadow += narrow[:, None] * (along > begin)[None, :]
        fading = np.exp(-along / spec.attenuation - z[plane] / spec.attenuation)
        expected = (light[plane] + haze) * fading * (1 - spec.stripes * np.minimum(shadow, 1))
        noise = _generator(seed, _NOISE, region.start[0] + plane)
        photons = noise.poisson(spec.photons * expected) + noise.normal(0, spec.read_noise, expected.shape)
        counts[plane] = np.clip(np.rint(spec.gain * photons + spec.offset), 0, 65535)
    return counts


def _smooth_field(seed: int, points_N3: Array) -> Array:
    """Return a smooth random field (about unit variance) at points in µm: where tissue is dense or sparse."""
    rng = _generator(seed, _TISSUE)
    waves = rng.normal(0, 1, (3, 8)) * (2 * np.pi / 90)
    phases = rng.uniform(0, 2 * np.pi, 8)
    field: Array = np.cos(points_N3 @ waves + phases).sum(-1) / 2
    return field


def _without_gaps(labels: Array) -> Array:
    """Renumber in place, plane by plane, so that nuclei that no voxel shows leave no gap."""
    present = np.zeros(int(labels.max()) + 1, bool)
    for plane in labels:
        present[plane] = True
    present[0] = False
    number = np.where(present, np.cumsum(present), 0).astype(np.int32)
    for plane in labels:
        plane[:] = number[plane]
    return labels


def _generator(seed: int, stage: int, index: int = 0) -> Generator:
    return Generator(Philox(key=[seed, (stage << 48) + index]))
