"""Pieces of recorded pairs, image and target, of the sizes that a batch asks for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aequorea.engine.sampler import turned
from aequorea.layers.restoring import Anchor
from aequorea.volume import Array, Region, Triple, Volume


@dataclass(frozen=True)
class Recorded:
    """A pair that somebody recorded.

    Attributes
    ----------
    image, target
        Normalised, float32, each on its own grid.
    step
        Voxels (z, y, x) of the image: a piece begins at a multiple of them, as of the pixels under a lenslet.
    anchor
        As for :class:`aequorea.engine.sampler.Sampler`.
    """

    image: Volume
    target: Volume
    step: Triple = (1, 1, 1)
    anchor: Anchor = "centre"

    def fits(self, image: Triple, target: Triple) -> bool:
        """Whether there are pieces of such sizes (z, y, x): as large, both sides to each other as its own."""
        axes = zip(self.image.size, self.target.size, image, target)
        return all(n >= i and n * t == m * i for n, m, i, t in axes)

    def piece(self, image: Triple, target: Triple, rng: np.random.Generator) -> tuple[Array, Array]:
        """Return pieces_1ZYX of the image and of the target at a random place, mirrored and turned at random.

        Of several channels one is drawn.
        """
        channel = int(rng.integers(self.image.shape[0]))
        start = [
            int(rng.integers((n - i) // step + 1)) * step
            for n, i, step in zip(self.image.size, image, self.step)
        ]
        fine = [a * t // i for a, i, t in zip(start, image, target)]
        seen = self.image.read(Region.at(start, image))[channel][None]
        wanted = self.target.read(Region.at(fine, target))[min(channel, self.target.shape[0] - 1)][None]
        seen, wanted = turned(seen, wanted, rng, self.anchor)
        return np.ascontiguousarray(seen), np.ascontiguousarray(wanted)
