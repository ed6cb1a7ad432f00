"""Training samples from annotated volumes: pure in (seed, index), drawn where labels are.

An index says which 8³ blocks of each target hold which strata (classes, objects, background). A sample draws a
stratum, an item, a block, a voxel, and cuts a patch around it; so no sample is without labels, rare classes are
seen as often as common ones, and nothing but the patch is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from aequorea.engine.tiles import Tiling
from aequorea.errors import DataError
from aequorea.layers.restoring import Anchor
from aequorea.volume import Array, Region, Triple, Volume

BLOCK: Triple = (8, 8, 8)
JITTER = 0.5
SMEARED = (0.3, 1.2)
"""Standard deviations in pixels of what smears noise."""
BRIGHTNESS = 0.1
"""What percentiles of another volume of the same kind would change, about."""


@dataclass(frozen=True)
class Pair:
    """A normalised image (float32) and the target of a network's output, with the geometry between them."""

    image: Volume
    target: Volume
    tiling: Tiling


@dataclass(frozen=True)
class _Index:
    """Blocks of one pair that hold a stratum: corners (N, 3) in target voxels and voxels of it, cumulated."""

    corners: Array
    cumulated: Array


class Sampler:
    """Draws patches.

    Parameters
    ----------
    pairs
        What to draw from.
    strata
        ``strata(target_TZYX) -> int8 ZYX``: the kind of each voxel, -1 where unlabelled.
    patch
        Voxels (z, y, x) of the body's grid; smaller where an image is.
    seed
        Of every draw.
    brightness
        Standard deviation of the logarithm of a factor that the image is varied by, with an offset; 0: neither is, as
        where the target is an intensity.
    anchor
        Where the voxels of the image lie among those of a finer target, as for :func:`turned`.
    smeared
        Share of the samples whose noise is smeared: what a target does not explain of its image, as cameras that bin,
        interpolate or blur smear it.

    Raises
    ------
    DataError
        If no voxel is labelled.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        strata: Callable[[Array], Array],
        patch: Triple,
        seed: int,
        brightness: float = BRIGHTNESS,
        anchor: Anchor = "centre",
        smeared: float = 0.0,
    ) -> None:
        self.pairs, self.patch, self.seed, self._brightness = list(pairs), patch, seed, brightness
        self._smeared, self._anchor = smeared, anchor
        self._kinds = strata
        self.counts: dict[int, int] = {}
        self._index: dict[int, list[tuple[int, _Index]]] = {}
        for number, pair in enumerate(self.pairs):
            for stratum, index in _blocks(pair.target, strata).items():
                self._index.setdefault(stratum, []).append((number, index))
                self.counts[stratum] = self.counts.get(stratum, 0) + int(index.cumulated[-1])
        if not self._index:
            raise DataError("no voxel is labelled: paint some of every class, background included")
        self._strata = sorted(self._index)

    def __call__(self, index: int) -> dict[str, Array]:
        """Return sample ``index``: ``image`` (C Z Y X) and ``target`` (T Z Y X), float32."""
        rng = np.random.Generator(np.random.Philox(key=np.array([self.seed, index], np.uint64)))
        stratum = self._strata[int(rng.integers(len(self._strata)))]
        options = self._index[stratum]
        number, blocks = options[int(rng.integers(len(options)))]
        pair = self.pairs[number]
        pick = int(np.searchsorted(blocks.cumulated, rng.integers(blocks.cumulated[-1]), side="right"))
        block = Region.at(blocks.corners[pick], BLOCK).clip(pair.target.region)
        places = np.argwhere(self._kinds(pair.target.read(block)) == stratum)
        centre = places[int(rng.integers(len(places)))] + np.array(block.start)
        image, target = self._cut(pair, centre, rng)
        image, target = turned(image, target, rng, self._anchor)
        if self._smeared and rng.random() < self._smeared:
            image = _smear_noise(image, target, rng)
        image = _dim(image, rng, self._brightness) if self._brightness else np.ascontiguousarray(image)
        return {"image": image, "target": np.ascontiguousarray(target)}

    def _cut(self, pair: Pair, centre: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """Cut a patch of the body's grid that holds a voxel of the target; what sticks out is 0 and unlabelled."""
        tiling, domain = pair.tiling, pair.tiling.domain.size
        ratio = np.array(domain) / np.array(pair.target.size)
        # A coarse target voxel stands for many of the body's: any of them may be the centre.
        near = np.minimum(((centre + rng.random(3)) * ratio).astype(int), np.array(domain) - 1)
        start = []
        for place, n, extent in zip(near, self.patch, domain):
            if n >= extent:
                start.append(-int(rng.integers(0, n - extent + 1)))
                continue
            slack = max(1, round(JITTER * n))
            first = int(place) - n // 2 + int(rng.integers(-(slack // 2), slack - slack // 2))
            start.append(min(max(first, 0), extent - n))
        wanted = Region.at(start, self.patch)
        inside = wanted.clip(tiling.domain)
        image = tiling.read(pair.image, inside)
        target = pair.target.read(tiling.output(inside))
        if inside == wanted:
            return image, target
        return (
            _embed(image, tiling.reads(inside), tiling.reads(wanted), 0.0),
            _embed(target, tiling.output(inside), tiling.output(wanted), np.nan),
        )


def _blocks(target: Volume, strata: Callable[[Array], Array]) -> dict[int, _Index]:
    """Return, for each stratum, the blocks that hold it and how many voxels of it."""
    corners: dict[int, list[Array]] = {}
    counts: dict[int, list[Array]] = {}
    for region in target.region.split((64, 256, 256)):
        kinds = strata(target.read(region))
        padded = np.full([-(-n // b) * b for n, b in zip(kinds.shape, BLOCK)], -1, np.int8)
        padded[tuple(slice(n) for n in kinds.shape)] = kinds
        z, y, x = (n // b for n, b in zip(padded.shape, BLOCK))
        blocks = padded.reshape(z, BLOCK[0], y, BLOCK[1], x, BLOCK[2])
        for stratum in np.unique(kinds[kinds >= 0]):
            held = (blocks == stratum).sum((1, 3, 5))
            where = np.argwhere(held)
            corners.setdefault(int(stratum), []).append(where * BLOCK + np.array(region.start))
            counts.setdefault(int(stratum), []).append(held[held > 0])
    return {s: _Index(np.concatenate(corners[s]), np.cumsum(np.concatenate(counts[s]))) for s in corners}


def _embed(block: Array, inside: Region, wanted: Region, fill: float) -> Array:
    out = np.full((block.shape[0], *wanted.size), fill, np.float32)
    out[(slice(None), *inside.relative_to(wanted).slices)] = block
    return out


def turned(
    image: Array, target: Array, rng: np.random.Generator, anchor: Anchor = "centre"
) -> tuple[Array, Array]:
    """Mirror along axes and swap y and x, image and target alike.

    An axis that only the target has (depth, made from one plane) is not in the image to be mirrored.

    Parameters
    ----------
    image, target
        Axes ``C Z Y X``; the target is as fine or finer by whole factors.
    anchor
        ``"corner"``: voxel k of the image is voxel k·factor of a finer target, those between were left out. In a mirror
        what lay before the first voxel of the image would be needed behind its last one, and is unknown (NaN).
    """
    flips = tuple(axis for axis in (1, 2, 3) if rng.random() < 0.5)
    flips = tuple(axis for axis in flips if image.shape[axis] > 1 or target.shape[axis] == 1)
    swap = rng.random() < 0.5 and image.shape[2] == image.shape[3] and target.shape[2] == target.shape[3]
    factors = {axis: target.shape[axis] // image.shape[axis] for axis in flips if anchor == "corner"}
    image, target = np.flip(image, flips), np.flip(target, flips)
    for axis, factor in factors.items():
        unknown = [(0, factor - 1) if i == axis else (0, 0) for i in range(4)]
        known = target[(slice(None),) * axis + (slice(factor - 1, None),)]
        target = np.pad(known, unknown, constant_values=np.nan)
    if swap:
        image, target = image.swapaxes(2, 3), target.swapaxes(2, 3)
    return image, target


def _dim(image: Array, rng: np.random.Generator, brightness: float) -> Array:
    """Vary contrast and offset by what percentiles of another volume would have done to them.

    No noise and no gamma: on faint specimens they took away 0.06 of Dice, the signal being little above the noise.
    """
    gain, offset = float(np.exp(rng.normal(0, brightness))), float(rng.normal(0, 0.02))
    return np.ascontiguousarray(image * gain + offset, dtype=np.float32)


def _smear_noise(image: Array, target: Array, rng: np.random.Generator) -> Array:
    """Smear what a target on the same grid does not explain of its image, and leave it as strong."""
    sigma = float(rng.uniform(*SMEARED))
    shared = min(len(image), len(target))
    known = np.isfinite(target[:shared])
    noise = np.where(known, image[:shared] - target[:shared], 0.0).astype(np.float32)
    smeared = ndimage.gaussian_filter(noise, (0, 0, sigma, sigma))
    smeared *= noise.std() / max(float(smeared.std()), 1e-6)
    out = np.array(image, np.float32)
    out[:shared] += np.where(known, smeared - noise, 0.0)
    return out
