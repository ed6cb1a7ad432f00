"""Coarser levels of an image: how often each axis is halved, and the halving itself.

Images are averaged, labels take one of the values that are there (the first, or the most frequent, of their
cell). Integer means are exact and rounded half up: sums in whole numbers, pair by pair, at a twentieth of the
cost of a general reshape and sum.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from aequorea.volume import Array, Spacing, Triple

Reduction = Literal["mean", "nearest", "mode"]


def factors(size: Triple, spacing: Spacing | None, enough: Triple) -> list[Triple]:
    """Return by how much each level divides the finest, (z, y, x), from (1, 1, 1) on.

    An axis is halved where its voxels are less than twice as long as the shortest, so that levels grow
    isotropic; levels end when one is no larger than ``enough``.

    Parameters
    ----------
    size
        Voxels (z, y, x) of the finest level.
    spacing
        Voxel size in µm (z, y, x); isotropic where ``None``.
    enough
        Voxels (z, y, x), usually of one chunk.
    """
    found: list[Triple] = [(1, 1, 1)]
    while any(halved(size, found[-1])[i] > enough[i] for i in range(3)):
        last, now = found[-1], halved(size, found[-1])
        voxel = [f * s for f, s in zip(last, spacing or (1.0, 1.0, 1.0))]
        shortest = min(voxel[i] for i in range(3) if now[i] > 1)
        z, y, x = (2 * f if n > 1 and v < 2 * shortest else f for f, n, v in zip(last, now, voxel))
        found.append((z, y, x))
    return found


def halved(size: Triple, factor: Triple) -> Triple:
    """Return the voxels (z, y, x) of the level that divides ``size`` by ``factor``; a rest is a voxel."""
    z, y, x = (-(-n // f) for n, f in zip(size, factor))
    return z, y, x


def reduce(block: Array, steps: Triple, how: Reduction) -> Array:
    """Return a block on the next level.

    Parameters
    ----------
    block
        Axes ``C Z Y X``; begins at an even voxel of axes that are halved. A last odd voxel is its own pair.
    steps
        1 or 2 per axis (z, y, x).
    how
        ``"mean"``, ``"nearest"`` or ``"mode"`` (ties go to the value that comes first in the cell).

    Returns
    -------
    ndarray
        Same type, axes ``C Z Y X``.
    """
    if how == "nearest" or block.dtype == np.bool_:
        return np.ascontiguousarray(block[:, :: steps[0], :: steps[1], :: steps[2]])
    odd = [(0, n % s) for n, s in zip(block.shape[1:], steps)]
    if any(after for _, after in odd):
        block = np.pad(block, [(0, 0), *odd], mode="edge")
    return _mode(block, steps) if how == "mode" else _mean(block, steps)


def _mean(block: Array, steps: Triple) -> Array:
    count = steps[0] * steps[1] * steps[2]
    kind, bits = block.dtype.kind, 8 * block.dtype.itemsize
    if kind not in "iu":
        wide = np.result_type(block.dtype, np.float32)
        mean: Array = (_cell_sums(block, steps, wide) / count).astype(block.dtype)
        return mean
    if bits == 64:  # nothing wider holds the sum: whole parts and rests are summed apart
        whole = block // count
        rest = _cell_sums(block - whole * count, steps, block.dtype) + count // 2
        exact: Array = _cell_sums(whole, steps, block.dtype) + rest // count
        return exact
    total = _cell_sums(block, steps, np.dtype(f"{kind}{2 * bits // 8}"))
    total += count // 2
    total >>= count.bit_length() - 1
    return total.astype(block.dtype)


def _cell_sums(block: Array, steps: Triple, dtype: np.dtype[Any]) -> Array:
    if steps[0] == 2:
        block = np.add(block[:, 0::2], block[:, 1::2], dtype=dtype)
    if steps[1] == 2:
        block = np.add(block[:, :, 0::2], block[:, :, 1::2], dtype=dtype)
    if steps[2] == 2:
        block = np.add(block[..., 0::2], block[..., 1::2], dtype=dtype)
    return block


def _mode(block: Array, steps: Triple) -> Array:
    cells = [
        block[:, z :: steps[0], y :: steps[1], x :: steps[2]]
        for z in range(steps[0])
        for y in range(steps[1])
        for x in range(steps[2])
    ]
    best, votes = cells[0].copy(), np.zeros(cells[0].shape, np.uint8)
    for value in cells:
        agree = np.zeros(votes.shape, np.uint8)
        for other in cells:
            agree += value == other
        better = agree > votes
        best[better], votes[better] = value[better], agree[better]
    return best
