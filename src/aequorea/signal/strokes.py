"""Strokes as somebody paints them: wandering lines on a few planes, for measuring what few labels give."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PER_CLASS, LENGTH, PLANES = 500, 25, 3
WANDER = 0.15
"""Standard deviation, in radians, of how much a line turns from voxel to voxel."""
FEW = 300
"""Voxels of each class that a plane must show to be painted on."""


def strokes(truth: NDArray[np.int8], seed: int) -> NDArray[np.bool_]:
    """Return where somebody painted: 500 voxels of each class, in lines inside it.

    Parameters
    ----------
    truth
        1 foreground, 0 background, -1 unlabelled; axes Z Y X. Some plane shows 300 voxels of each class.
    seed
        Of planes and lines.
    """
    rng = np.random.default_rng(seed)
    shown = [z for z, plane in enumerate(truth) if min((plane == 0).sum(), (plane == 1).sum()) >= FEW]
    planes = rng.permutation(shown)[:PLANES]
    painted = np.zeros(truth.shape, bool)
    for kind in (0, 1):
        left = PER_CLASS
        while left:
            z = rng.choice(planes)
            y, x = rng.choice(np.argwhere(truth[z] == kind)).astype(float)
            angle = rng.uniform(0, 2 * np.pi)
            for _ in range(LENGTH):
                place = z, round(y), round(x)
                inside = 0 <= place[1] < truth.shape[1] and 0 <= place[2] < truth.shape[2]
                if not left or not inside or truth[place] != kind:
                    break
                left -= not painted[place]
                painted[place] = True
                angle += rng.normal(0, WANDER)
                y, x = y + np.sin(angle), x + np.cos(angle)
    return painted
