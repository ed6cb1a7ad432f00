"""Targets of restoration brought to the units of their images.

A target comes from another exposure or camera: its counts mean something else. The line that gives its image from it
with the smallest squared error does not depend on the image's noise, however strong (noise is in what is explained,
not in what explains), so a network that learns the target through that line answers in the counts of what it reads.
Where a voxel of the one is not made of voxels of the other (projections, light fields) there is no such line, and each
is scaled by its own range.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from aequorea.annotations import TargetImage
from aequorea.layers.restoring import Anchor
from aequorea.scores.restoration import Fit, Moments
from aequorea.signal.intensity import measure
from aequorea.volume import Array, Region, Volume

BLOCK = (32, 256, 256)
LEAST = 0.05
"""Correlation of image and target below which a line between them means nothing."""


def in_units_of(image: Volume, target: TargetImage, anchor: Anchor = "centre") -> TargetImage:
    """Return a target in the units of its (normalised) image, float32.

    Parameters
    ----------
    image
        Normalised.
    target
        On the image's grid, a multiple of it, or another one.
    anchor
        What a voxel of the image is compared with on a finer grid: ``centre``, the mean of the voxels that divide it;
        ``corner``, the first of them, the others having been left out.
    """
    volume = target.volume
    lines = [
        _fitted(image, volume, channel, anchor) or _ranged(volume, channel)
        for channel in range(volume.shape[0])
    ]
    gain = np.array([line.gain for line in lines], np.float32)[:, None, None, None]
    offset = np.array([line.offset for line in lines], np.float32)[:, None, None, None]

    def reader(region: Region) -> Array:
        block = volume.read(region).astype(np.float32)
        block *= gain
        block += offset
        return block

    return TargetImage(replace(volume, reader=reader, dtype=np.dtype(np.float32), levels=()))


def _fitted(image: Volume, target: Volume, channel: int, anchor: Anchor) -> Fit | None:
    """Return the line of a channel; ``None`` where the grids do not divide or what they show has nothing in common."""
    factor = [m // n for n, m in zip(image.size, target.size)]
    if any(n * f != m for n, m, f in zip(image.size, target.size, factor)):
        return None
    if image.size[0] == 1 < target.size[0]:
        return None
    total = Moments()
    for region in image.region.split(BLOCK):
        start = [a * f for a, f in zip(region.start, factor)]
        fine = target.read(Region.at(start, [n * f for n, f in zip(region.size, factor)]))[channel]
        y = image.read(region)[min(channel, image.shape[0] - 1)].astype(np.float64)
        z, h, w = region.size
        parts = fine.astype(np.float64).reshape(z, factor[0], h, factor[1], w, factor[2])
        x = parts.mean((1, 3, 5)) if anchor == "centre" else parts[:, 0, :, 0, :, 0]
        known = np.isfinite(x) & np.isfinite(y)
        total += Moments.of(x[known], y[known])
    return total.fit if total.correlation >= LEAST else None


def _ranged(target: Volume, channel: int) -> Fit:
    """Return the line that brings a channel's own range to 0 … 1."""
    about = measure(target, progress=False).channels[channel]
    span = about.high - about.low
    return Fit(1 / span, -about.low / span) if span > 0 else Fit(1.0, -about.low)
