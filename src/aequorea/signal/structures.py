"""Simulated truth for restoration: filaments, membranes, puncta, vesicles, an epithelium, a tubular network, any form.

Shapes have closed forms in µm (capsules along smooth random walks, walls between Voronoi cells, balls, shells, a
sheet at a smooth height), so that their distance to a voxel is exact and the share of the voxel that they fill
is nearly so, however coarse the voxels. There is no noise and no blur: those are for
:mod:`aequorea.signal.degrade`. Every volume is a pure function of the kind, the size, the spacing, the seed and
the recipe. The worm-like walk follows Kratky and Porod (Recueil 68, 1949): its direction forgets itself over the
persistence length. Forms of any kind are level sets of smooth random fields, where what is learnt should be of no
kind at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

import numpy as np
from numpy.random import Generator, Philox
from pydantic import Field, field_validator
from scipy.spatial import cKDTree

from aequorea.errors import DataError, nearest
from aequorea.signal.random_fields import beyond_level, random_field
from aequorea.specs import Spec
from aequorea.volume import Array, Spacing, Triple

Span = tuple[float, float]
MOST = 3000
"""Objects drawn at most, so that a large field of small objects does not take for ever."""
BATCH = 8
"""Filaments walked at a time."""


class StructureSpec(Spec):
    """Sizes of the structures; the defaults are the ranges to train on, for voxels of about 0.1 to 0.3 µm.

    Attributes
    ----------
    radius
        Of filaments and tubules, µm.
    persistence
        Length over which a filament forgets its direction, µm.
    filaments
        Length of filament per volume, µm per µm³.
    cell
        Distance between the middles of neighbouring cells, µm.
    wall
        Thickness of cell walls, µm.
    inside
        Brightness of a cell's inside in an epithelium, of its wall's.
    ball
        Radius of puncta, µm.
    puncta
        Puncta per volume, per µm³.
    shell
        Radius of vesicles, µm.
    skin
        Thickness of a vesicle's skin, µm.
    vesicles
        Share of the volume inside vesicles.
    relief
        How much of the depth the surface of an epithelium uses.
    swing
        Distance between its hills, µm.
    wave
        Typical distance over which a form of any kind turns, µm.
    half
        Half thickness of its sheets and curves, µm.
    full
        Share of the volume that its solids fill.
    spread
        Of the brightness between objects (standard deviation of the logarithm).
    """

    radius: Span = (0.05, 0.15)
    persistence: Span = (4.0, 12.0)
    filaments: Span = (0.1, 0.4)
    cell: Span = (2.5, 5.0)
    wall: Span = (0.1, 0.3)
    inside: Span = (0.05, 0.2)
    ball: Span = (0.1, 0.25)
    puncta: Span = (0.1, 0.5)
    shell: Span = (0.4, 1.2)
    skin: Span = (0.08, 0.2)
    vesicles: Span = (0.05, 0.15)
    relief: Span = (0.3, 0.6)
    swing: Span = (10.0, 20.0)
    wave: Span = (0.35, 3.0)
    half: Span = (0.05, 0.3)
    full: Span = (0.05, 0.4)
    spread: float = Field(default=0.3, ge=0)

    @field_validator("*")
    @classmethod
    def _ordered(cls, span: Span | float) -> Span | float:
        if isinstance(span, tuple) and not 0 < span[0] <= span[1]:
            raise ValueError("expected two positive numbers, the smaller first")
        return span

    def scaled(self, factor: float) -> Self:
        """Return the recipe of the same structures ``factor`` times as large, as for voxels that much coarser."""
        if factor <= 0:
            raise DataError(f"structures cannot be {factor} times as large; give a positive factor")
        power = {"filaments": -2, "puncta": -3, "inside": 0, "vesicles": 0, "relief": 0, "full": 0}
        spans = {
            name: tuple(value * factor ** power.get(name, 1) for value in span)
            for name, span in self
            if isinstance(span, tuple)
        }
        return self.model_copy(update=spans)


def structure(
    kind: str, size: Triple, spacing: Spacing, seed: int, spec: StructureSpec | None = None
) -> Array:
    """Return the brightness of a simulated structure, float32, axes Z Y X, from 0 to 1.

    Parameters
    ----------
    kind
        One of :data:`KINDS`.
    size
        Voxels along z, y, x.
    spacing
        Voxel size in µm.
    seed
        Equal seeds give equal structures.
    spec
        The recipe; default :class:`StructureSpec`.

    Returns
    -------
    Array
        The brightest voxel is 1, unless there is no light at all.

    Raises
    ------
    DataError
        If there is no such kind, or the size or spacing is not positive.
    """
    if kind not in KINDS:
        raise DataError(f"no structure '{kind}'; {nearest(kind, KINDS)}")
    light = drawn(kind, size, spacing, seed, spec)
    peak = float(light.max())
    return light / np.float32(peak) if peak > 0 else light


def drawn(kind: str, size: Triple, spacing: Spacing, seed: int, spec: StructureSpec | None = None) -> Array:
    """Return the light of :func:`structure` before its brightest voxel is made 1."""
    if min(size) < 1 or min(spacing) <= 0:
        raise DataError(f"a structure of {size} voxels of {spacing} µm does not exist; give positive numbers")
    draw, number = KINDS[kind]
    rng = Generator(Philox(key=[seed, number]))
    spec = StructureSpec() if spec is None else spec
    if kind in FLAT:
        return draw(size, spacing, rng, spec)
    # Thin shapes would look like beads in tall voxels: those are means over planes about as thick as pixels.
    (nz, ny, nx), (dz, dy, dx) = size, spacing
    parts = min(8, max(1, round(dz / min(dy, dx))))
    fine = draw((nz * parts, ny, nx), (dz / parts, dy, dx), rng, spec)
    return np.asarray(fine.reshape(nz, parts, ny, nx).mean(1))


def filaments(size: Triple, spacing: Spacing, rng: Generator, spec: StructureSpec) -> Array:
    """Smooth random walks that cross the volume, drawn as tubes."""
    light = np.zeros(size, np.float32)
    extent = np.array(size) * spacing
    length = float(np.sqrt((extent**2).sum()))
    wanted = rng.uniform(*spec.filaments) * extent.prod()
    # In a thin slab walks lie nearly within it, else each would show as a dot.
    lying = np.where(extent < 0.2 * length, 0.2, 1.0)
    step = max(min(0.5 * spec.persistence[0], 2 * max(spacing)), length / 400)
    for _ in range(MOST // BATCH):
        radius, persistence = rng.uniform(*spec.radius, BATCH), rng.uniform(*spec.persistence, BATCH)
        brightness = np.exp(rng.normal(0, spec.spread, BATCH))
        start, way = rng.uniform(0, 1, (BATCH, 3)) * extent, rng.normal(0, 1, (BATCH, 3)) * lying
        turns = rng.normal(0, 1, (2, math.ceil(length / step), BATCH, 3)) * lying
        turns *= np.sqrt(step / persistence)[:, None]
        forth, back = _walk(start, way, turns[0], step), _walk(start, -way, turns[1], step)
        corners_NB3 = np.concatenate([back[:0:-1], forth])
        for filament in range(BATCH):
            corners = corners_NB3[:, filament]
            inside = ((corners > -radius[filament]) & (corners < extent + radius[filament])).all(1)
            near = inside[:-1] | inside[1:]
            _tube(
                light, corners[:-1][near], corners[1:][near], radius[filament], brightness[filament], spacing
            )
            wanted -= step * float(near.sum())
            if wanted <= 0:
                return light
    return light


def membranes(size: Triple, spacing: Spacing, rng: Generator, spec: StructureSpec) -> Array:
    """Walls of touching cells: planes halfway between jittered middles, bent a little."""
    points_V3 = _bent(_centres(size, spacing), rng, spec.cell)
    middles, shine = _cells(size, spacing, rng, spec, 3)
    distance, index = cKDTree(middles).query(points_V3, k=2)
    half = rng.uniform(*spec.wall) / 2
    way = middles[index[:, 1]] - middles[index[:, 0]]
    apart = np.linalg.norm(way, axis=1)
    off = (distance[:, 1] ** 2 - distance[:, 0] ** 2) / (2 * apart)
    width = np.linalg.norm(way / apart[:, None] * spacing, axis=1)
    light = _filled(off, half, width, 1) * np.sqrt(shine[index[:, 0]] * shine[index[:, 1]])
    return np.asarray(light.reshape(size), np.float32)


def network(size: Triple, spacing: Spacing, rng: Generator, spec: StructureSpec) -> Array:
    """Tubules along the lines where three cells meet, as the endoplasmic reticulum's."""
    points_V3 = _bent(_centres(size, spacing), rng, spec.cell)
    middles, _ = _cells(size, spacing, rng, spec, 3)
    distance, index = cKDTree(middles).query(points_V3, k=3)
    ways = middles[index[:, 1:]] - middles[index[:, :1]]
    apart = np.linalg.norm(ways, axis=2)
    off = (distance[:, 1:] ** 2 - distance[:, :1] ** 2) / (2 * apart)
    ways /= apart[:, :, None]
    cosine = np.clip((ways[:, 0] * ways[:, 1]).sum(1), -0.99, 0.99)
    # Two planes meet in the line: its distance from that to either plane and the angle between them.
    squared = (off**2).sum(1) - 2 * off[:, 0] * off[:, 1] * cosine
    away = np.sqrt(np.maximum(squared, 0) / (1 - cosine**2))
    width = float(np.prod(spacing)) ** (1 / 3)
    light = _filled(away, rng.uniform(*spec.radius), np.full(len(away), width), 2)
    return np.asarray(light.reshape(size), np.float32)


def puncta(size: Triple, spacing: Spacing, rng: Generator, spec: StructureSpec) -> Array:
    """Balls anywhere."""
    light = np.zeros(size, np.float32)
    extent = np.array(size) * spacing
    for _ in range(_count(rng.uniform(*spec.puncta) * extent.prod())):
        centre, radius = rng.uniform(0, 1, 3) * extent, rng.uniform(*spec.ball)
        _ball(light, centre, radius, None, np.exp(rng.normal(0, spec.spread)), spacing)
    return light


def vesicles(size: Triple, spacing: Spacing, rng: Generator, spec: StructureSpec) -> Array:
    """Hollow balls anywhere."""
    light = np.zeros(size, np.float32)
    extent = np.array(size) * spacing
    mean = sum(spec.shell) / 2
    for _ in range(_count(rng.uniform(*spec.vesicles) * extent.prod() / (4 / 3 * math.pi * mean**3))):
        centre, radius = rng.uniform(0, 1, 3) * extent, rng.uniform(*spec.shell)
        skin = min(rng.uniform(*spec.skin), radius)
        _ball(light, centre, radius, skin, np.exp(rng.normal(0, spec.spread)), spacing)
    return light


def epithelium(size: Triple, spacing: Spacing, rng: Generator, spec: StructureSpec) -> Array:
    """One curved layer of touching cells on dark ground; its brightest voxel along z is the surface's brightness."""
    height_YX = _height(size, spacing, rng, spec)
    flat = (1, *size[1:])
    points_V3 = _bent(_centres(flat, spacing), rng, spec.cell)
    middles, shine = _cells(flat, spacing, rng, spec, 2)
    distance, index = cKDTree(middles).query(points_V3[:, 1:], k=2)
    thickness = rng.uniform(*spec.wall)
    way = middles[index[:, 1]] - middles[index[:, 0]]
    apart = np.linalg.norm(way, axis=1)
    off = (distance[:, 1] ** 2 - distance[:, 0] ** 2) / (2 * apart)
    width = np.linalg.norm(way / apart[:, None] * spacing[1:], axis=1)
    wall = _filled(off, thickness / 2, width, 1)
    inside = rng.uniform(*spec.inside) * shine[index[:, 0]]
    pattern_YX = np.maximum(wall, inside).reshape(size[1:])
    z = (np.arange(size[0]) + 0.5)[:, None, None] * spacing[0]
    # So thick that the voxel nearest to the surface is full, wherever the surface passes through it.
    half = max(thickness / 2, spacing[0])
    layer = np.clip((half - np.abs(z - height_YX)) / spacing[0] + 0.5, 0, 1)
    return np.asarray(layer * pattern_YX, np.float32)


def level_sets(size: Triple, spacing: Spacing, rng: Generator, spec: StructureSpec) -> Array:
    """Sheets, solids and curves of any form: where smooth random fields pass a level, or two of them do."""

    def beyond(wave: float, share: float) -> Array:
        return beyond_level(random_field(size, spacing, wave, rng), share, spacing, wave)

    light = np.zeros(size, np.float32)
    width = np.float32(np.prod(spacing) ** (1 / 3))
    for _ in range(int(rng.integers(1, 4))):
        wave, half = (math.exp(rng.uniform(*np.log(span))) for span in (spec.wave, spec.half))
        form = int(rng.integers(3))
        if form == 0:
            shape = _filled(np.abs(beyond(wave, rng.uniform(0.2, 0.8))), half, width, 1)
        elif form == 1:
            shape = np.clip(beyond(wave, 1 - rng.uniform(*spec.full)) / width + 0.5, 0, 1)
        else:
            both = [beyond(wave, rng.uniform(0.3, 0.7)) for _ in range(2)]
            shape = _filled(np.hypot(*both), half, width, 2)
        shine = np.exp(spec.spread * (random_field(size, spacing, wave, rng) + rng.normal()))
        light = np.maximum(light, shape * shine, dtype=np.float32)
    return light


def epithelium_height(size: Triple, spacing: Spacing, seed: int, spec: StructureSpec | None = None) -> Array:
    """Return the height in µm (axes Y X) of the surface that ``structure("epithelium", ...)`` draws."""
    rng = Generator(Philox(key=[seed, KINDS["epithelium"][1]]))
    return _height(size, spacing, rng, spec or StructureSpec())


KINDS: dict[str, tuple[Callable[[Triple, Spacing, Generator, StructureSpec], Array], int]] = {
    "filaments": (filaments, 0),
    "membranes": (membranes, 1),
    "puncta": (puncta, 2),
    "vesicles": (vesicles, 3),
    "epithelium": (epithelium, 4),
    "network": (network, 5),
    "level_sets": (level_sets, 6),
}
"""Structures by name, each with the number of its random stream."""
FLAT = ("membranes", "epithelium", "network", "level_sets")
"""Kinds that are drawn in tall voxels as they are: walls fill them evenly, and tubules have soft edges."""
TRAIN_KINDS = ("filaments", "membranes", "puncta", "vesicles", "epithelium")
"""To train on; ``network`` is kept for tests, and ``level_sets`` are for what should serve any kind."""


def _height(size: Triple, spacing: Spacing, rng: Generator, spec: StructureSpec) -> Array:
    """Return a smooth height within the volume, µm, axes Y X."""
    y, x = ((np.arange(n) + 0.5) * d for n, d in zip(size[1:], spacing[1:]))
    deep = size[0] * spacing[0]
    swing, relief = rng.uniform(*spec.swing), rng.uniform(*spec.relief)
    waves = rng.normal(0, 1, (4, 2)) * (2 * np.pi / swing / math.sqrt(2))
    phases = rng.uniform(0, 2 * np.pi, 4)
    hills = sum(np.cos(a * y[:, None] + b * x + phase) for (a, b), phase in zip(waves, phases))
    return np.asarray(deep * (0.5 + relief / 2 * hills / 4))


def _walk(start_B3: Array, way_B3: Array, turns_NB3: Array, step: float) -> Array:
    """Return the corners (axes corner, walk, z y x) of walks whose direction turns a little at every step."""
    corners = [start_B3]
    for turn in turns_NB3:
        way_B3 = way_B3 / np.linalg.norm(way_B3, axis=1, keepdims=True)
        corners.append(corners[-1] + step * way_B3)
        way_B3 = way_B3 + turn
    return np.stack(corners)


def _cells(
    size: Triple, spacing: Spacing, rng: Generator, spec: StructureSpec, axes: int
) -> tuple[Array, Array]:
    """Return the middles (µm; the last ``axes`` of z, y, x) and the brightness of cells in and around a volume."""
    pitch = rng.uniform(*spec.cell)
    extent = (np.array(size) * spacing)[-axes:]
    # A large field of small cells would take for ever; larger cells are the lesser evil.
    pitch = max(pitch, float((np.prod(extent + 4 * pitch) / (20 * MOST)) ** (1 / axes)))
    counts = np.ceil(extent / pitch).astype(int) + 4
    lattice = np.stack(np.meshgrid(*(np.arange(n) for n in counts), indexing="ij"), -1).reshape(-1, axes)
    middles = (lattice - 1.5 + rng.uniform(-0.45, 0.45, lattice.shape)) * pitch
    middles[:, -1] += (lattice[:, 0] % 2) * pitch / 2  # no straight rows
    return middles, np.exp(rng.normal(0, spec.spread, len(middles)))


def _bent(points_V3: Array, rng: Generator, cell: Span) -> Array:
    """Move points along smooth waves, a tenth of a cell far, so that walls are not flat."""
    pitch = sum(cell) / 2
    waves = rng.normal(0, 1, (3, 3)) * (2 * np.pi / (3 * pitch))
    phases = rng.uniform(0, 2 * np.pi, 3)
    return np.asarray(points_V3 + 0.1 * pitch * np.sin(points_V3 @ waves + phases))


def _centres(size: Triple, spacing: Spacing) -> Array:
    """Return the middles of all voxels in µm, axes voxel and z, y, x."""
    axes = [(np.arange(n) + 0.5) * d for n, d in zip(size, spacing)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def _count(wanted: float) -> int:
    return min(MOST, max(1, round(wanted)))


def _filled(away: Array, half: float, width: Array | np.float32, across: int) -> Array:
    """Return the share of each voxel that a shape fills, so that all shares add up to the shape's volume.

    Parameters
    ----------
    away
        Distance of the voxel from the shape's middle (plane, line or point), µm.
    half
        Half thickness of the shape.
    width
        Of the voxel in that direction.
    across
        Directions in which the shape is thin: 1 for a wall, 2 for a tube, 3 for a ball.

    Notes
    -----
    The edge rises over a voxel's width w. Summed over all directions that adds w²/12 to a tube's squared radius h²
    and makes h³ + h w²/4 of a ball's h³, so h is chosen such that the sum is right. What would be thinner than a
    voxel (h < w/2) is drawn with h = w/2 and that much dimmer.
    """
    if across == 1:
        radius, thinnest = np.broadcast_to(half, width.shape), width / 2
    elif across == 2:
        radius, thinnest = np.sqrt(np.maximum(half**2 - width**2 / 12, 0)), width / math.sqrt(3)
    else:
        radius, thinnest = np.broadcast_to(half, width.shape), width / 4 ** (1 / 3)
        for _ in range(3):  # Newton's steps from above, where the cubic is convex
            excess = radius**3 + radius * width**2 / 4 - half**3
            radius = radius - excess / (3 * radius**2 + width**2 / 4)
    dimmer = np.minimum(half / thinnest, 1) ** across
    return np.asarray(np.clip((np.maximum(radius, width / 2) - away) / width + 0.5, 0, 1) * dimmer)


def _box(
    low: Array, high: Array, size: Triple, spacing: Spacing
) -> tuple[tuple[slice, ...], list[Array]] | None:
    """Return the slices of the voxels that reach into a box (µm) and their middles along each axis."""
    first = np.maximum(np.floor(low / spacing - 1).astype(int), 0)
    last = np.minimum(np.ceil(high / spacing + 1).astype(int), size)
    if (first >= last).any():
        return None
    axes = [(np.arange(a, b) + 0.5) * d for a, b, d in zip(first, last, spacing)]
    return tuple(slice(a, b) for a, b in zip(first, last)), axes


def _tube(light: Array, a_S3: Array, b_S3: Array, radius: float, brightness: float, spacing: Spacing) -> None:
    """Draw capsules between pairs of points (µm) where they are brighter than what is there."""
    if not len(a_S3):
        return
    step = np.array(spacing)
    way_S3 = b_S3 - a_S3
    middle_S3 = np.floor((a_S3 + b_S3) / 2 / step).astype(int)
    reach = np.ceil((radius + np.abs(way_S3).max(0) / 2) / step).astype(int) + 1
    around_K3 = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), -1).reshape(
        -1, 3
    )
    for part in range(0, len(a_S3), 256):  # for the memory's sake
        now = slice(part, part + 256)
        voxel_SK3 = middle_S3[now, None] + around_K3
        inside = ((voxel_SK3 >= 0) & (voxel_SK3 < light.shape)).all(2)
        segment = np.nonzero(inside)[0] + part
        voxel_V3 = voxel_SK3[inside]
        offset = (voxel_V3 + 0.5) * step - a_S3[segment]
        way = way_S3[segment]
        along = (offset * way).sum(1) / np.maximum((way * way).sum(1), 1e-12)
        off = offset - np.clip(along, 0, 1)[:, None] * way
        away, width = _away([off[:, 0], off[:, 1], off[:, 2]], spacing)
        share = (brightness * _filled(away, radius, width, 2)).astype(np.float32)
        shining = share > 0
        np.maximum.at(light, tuple(voxel_V3[shining].T), share[shining])


def _ball(
    light: Array, centre: Array, radius: float, skin: float | None, brightness: float, spacing: Spacing
) -> None:
    """Draw a ball, or its skin of some thickness inside it, where it is brighter than what is there."""
    box = _box(centre - radius, centre + radius, light.shape, spacing)
    if box is None:
        return
    where, axes = box
    off = list(np.meshgrid(*(axis - c for axis, c in zip(axes, centre)), indexing="ij", sparse=True))
    away, width = _away(off, spacing)
    if skin is None:
        share = _filled(away, radius, width, 3)
    else:
        share = _filled(np.abs(away - radius + skin / 2), skin / 2, width, 1)
    np.maximum(light[where], brightness * share, out=light[where], casting="same_kind")


def _away(off: list[Array], spacing: Spacing) -> tuple[Array, Array]:
    """Return the length of offsets (µm), and how wide the ellipsoid in a voxel is in their direction."""
    away = np.sqrt(sum(o * o for o in off))
    steps = np.sqrt(sum((o / d) ** 2 for o, d in zip(off, spacing)))
    mean = float(np.prod(spacing)) ** (1 / 3)
    return away, np.where(away > 1e-9, away / np.maximum(steps, 1e-9), mean)
