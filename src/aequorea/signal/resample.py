"""Volumes at another voxel size, resampled where they are read.

Along each axis a coarser voxel is the mean of what it covers and a finer one is interpolated linearly between
centres, both clamped at the borders. Each output voxel is a fixed sum over input voxels, so any tiling reads the
same values. Labels take the nearest voxel instead.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from aequorea.volume import Array, Region, Spacing, Triple, Volume

TOLERATED = 1.5
"""Ratio of voxel sizes up to which a network is used as it is."""


def resampled(volume: Volume, size: Triple, how: Literal["mean", "nearest"] = "mean") -> Volume:
    """Return the lazy volume of the same extent with ``size`` voxels (z, y, x).

    Parameters
    ----------
    volume
        Any type; integers are rounded.
    size
        Voxels along z, y, x.
    how
        ``"mean"`` for images, ``"nearest"`` for labels.
    """
    if size == volume.size:
        return volume
    spacing: Spacing | None = None
    if volume.spacing is not None:
        z, y, x = (s * n / m for s, n, m in zip(volume.spacing, volume.size, size))
        spacing = (z, y, x)

    def reader(region: Region) -> Array:
        if how == "nearest":
            return _nearest(volume, size, region)
        return _mean(volume, size, region)

    return replace(volume, reader=reader, shape=(volume.shape[0], *size), spacing=spacing, levels=())


def matched_size(volume: Volume, target: Spacing) -> Triple:
    """Return the size (z, y, x) at which a volume's voxels match ``target`` in µm.

    An axis stays as it is where its voxels match within ``TOLERATED``; z stays too where it is the coarser one,
    since interpolated planes hold nothing that a network could use.
    """
    if volume.spacing is None:
        return volume.size
    own = volume.spacing
    lateral = (own[1] * own[2] / (target[1] * target[2])) ** 0.5
    if 1 / TOLERATED <= lateral <= TOLERATED:
        lateral = 1.0
    axial = own[0] / target[0]
    if axial >= 1 / TOLERATED:
        axial = 1.0
    z, y, x = (max(1, round(n * f)) for n, f in zip(volume.size, (axial, lateral, lateral)))
    return z, y, x


def placed(part: Volume, at: Region, size: Triple) -> Volume:
    """Return the volume of ``size`` voxels (z, y, x) that holds ``part`` at a region and 0 elsewhere."""

    def reader(region: Region) -> Array:
        out = np.zeros((part.shape[0], *region.size), part.dtype)
        inside = region.clip(at)
        if not inside.empty:
            where = inside.relative_to(region).slices
            out[(slice(None), *where)] = part.read(inside.relative_to(at))
        return out

    return replace(part, reader=reader, shape=(part.shape[0], *size), levels=())


def _mean(volume: Volume, size: Triple, region: Region) -> Array:
    taps = [_taps(region.start[a], region.stop[a], volume.size[a], size[a]) for a in range(3)]
    low = [int(index.min()) for index, _ in taps]
    high = [int(index.max()) + 1 for index, _ in taps]
    block = volume.read(Region((low[0], low[1], low[2]), (high[0], high[1], high[2])))
    out = block.astype(np.float32)
    for axis, (index, weight) in enumerate(taps, start=1):
        total: Array | None = None
        # Tap by tap and not as a product of matrices, whose rounding depends on how much is read at once.
        for at, share in zip(index - low[axis - 1], weight):
            part = np.take(out, at, axis) * share.reshape([-1 if i == axis else 1 for i in range(4)])
            total = part if total is None else np.add(total, part, out=total)
        assert total is not None
        out = total
    if volume.dtype.kind in "iu":
        info = np.iinfo(volume.dtype)
        return np.clip(np.rint(out), info.min, info.max).astype(volume.dtype)
    return out.astype(volume.dtype)


def _taps(start: int, stop: int, inputs: int, outputs: int) -> tuple[Array, Array]:
    """Return the input voxels and their weights, (taps, stop - start) each, of output voxels along one axis."""
    factor = inputs / outputs
    place = np.arange(start, stop)
    if factor <= 1:
        centre = np.clip((place + 0.5) * factor - 0.5, 0, inputs - 1)
        left = np.minimum(centre.astype(int), max(inputs - 2, 0))
        share = (centre - left).astype(np.float32)
        return np.stack([left, np.minimum(left + 1, inputs - 1)]), np.stack([1 - share, share])
    begin, end = place * factor, (place + 1) * factor
    index = begin.astype(int) + np.arange(int(np.ceil(factor)) + 1)[:, None]
    covered = np.minimum(end, index + 1) - np.maximum(begin, index)
    weight = (np.clip(covered, 0, None) / factor).astype(np.float32)
    return np.minimum(index, inputs - 1), np.where(index < inputs, weight, 0)


def _nearest(volume: Volume, size: Triple, region: Region) -> Array:
    picks = []
    for axis in range(3):
        index = np.arange(region.start[axis], region.stop[axis])
        picks.append(((index + 0.5) * volume.size[axis] / size[axis]).astype(int))
    start = [int(p[0]) for p in picks]
    stop = [int(p[-1]) + 1 for p in picks]
    block = volume.read(Region((start[0], start[1], start[2]), (stop[0], stop[1], stop[2])))
    z, y, x = (p - a for p, a in zip(picks, start))
    return block[:, z][:, :, y][:, :, :, x]
