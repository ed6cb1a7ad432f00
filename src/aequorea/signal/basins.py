"""Objects from a foreground and a height map, by rules that give the same answer however the volume is cut.

Each foreground voxel points to the neighbour of steepest rise per µm; voxels that reach the same peak are a
basin; basins are merged while the lower of two peaks stands less than ``tau`` above the saddle between them
(its persistence). Nothing here knows of files: one block goes in with a margin of one voxel, what is known
of it comes out, and :mod:`aequorea.engine.objects` joins the blocks.

Why blocks do not matter. The pointer of a voxel depends on its neighbours alone. Edges between basins are
taken in one strict order (highest saddle first, then by the place of the edge in raster order), and both
the order and the saddles are facts of the voxels. Inside a block, a basin all of whose edges are known
there is *closed*: a closed basin that is the lower one of an edge meets the same partner at the same moment
as in the whole volume, so that deciding it early changes nothing. All others are left open, but for edges below
which both peaks stand deep enough already: peaks only rise.

Read :func:`find_basins`, then :func:`merge_closed`, then :func:`merge`. Sources: watershed by steepest
ascent, Meyer (1994), Signal Processing 38; merging by persistence, Edelsbrunner, Letscher & Zomorodian
(2002), Discrete & Computational Geometry 28; the cut-proof order is described in
``docs/concepts/instances.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from aequorea.errors import DataError
from aequorea.volume import Spacing, Triple

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

CHUNK = 1 << 15
"""Voxels treated at a time where temporaries should stay in the cache."""
BACKGROUND = -256
"""Height given to what is no foreground: every step towards it falls."""


@dataclass(frozen=True)
class Pairs:
    """Edges between pieces: where two touch, how high the saddle is, and its place in the volume.

    Attributes
    ----------
    a, b
        Numbers of the two pieces, (N,).
    saddle
        The highest lower end of any of their edges, (N,) in counts of the height map.
    place
        The first edge in raster order that reaches this height, (N,): ``16 * voxel + direction``. With
        ``-saddle`` a strict order of all edges of a volume.
    """

    a: Ints
    b: Ints
    saddle: NDArray[np.int16]
    place: Ints

    def __len__(self) -> int:
        return len(self.a)

    def take(self, index: NDArray[np.intp] | Ints | Mask) -> Pairs:
        """Return some of the edges."""
        return Pairs(self.a[index], self.b[index], self.saddle[index], self.place[index])

    @classmethod
    def join(cls, parts: list[Pairs]) -> Pairs:
        """Return the edges of several lists."""
        if not parts:
            none = np.empty(0, np.int64)
            return cls(none, none, np.empty(0, np.int16), none)
        return cls(
            np.concatenate([p.a for p in parts]),
            np.concatenate([p.b for p in parts]),
            np.concatenate([p.saddle for p in parts]),
            np.concatenate([p.place for p in parts]),
        )


@dataclass(frozen=True)
class Basins:
    """What one block knows of its basins, numbered 1 … K in ``ids`` and 0 … K-1 in the other fields.

    Attributes
    ----------
    ids
        Which basin each voxel belongs to, 0 in the background; uint32, axes Z Y X, without the margin.
    end
        Index in the whole volume of the voxel where the basin's pointers end: its peak, or a voxel of the
        margin.
    height
        Height there.
    leaves
        Whether that voxel lies in the margin, so that the basin goes on in another block.
    open
        Whether the basin touches foreground outside the block (or leaves).
    voxels
        Voxels inside the block.
    pairs
        Edges between the basins inside the block.
    shell
        Voxels (index in the whole volume, increasing) that touch foreground outside the block.
    """

    ids: NDArray[np.uint32]
    end: Ints
    height: NDArray[np.int16]
    leaves: Mask
    open: Mask
    voxels: Ints
    pairs: Pairs
    shell: Ints


def offsets(neighbours: int) -> NDArray[np.int64]:
    """Return the steps (N, 3) to the 6 or 26 neighbours in raster order: first half back, second forward."""
    if neighbours not in (6, 26):
        raise DataError(f"neighbours is 6 or 26, not {neighbours}")
    steps = [
        s for s in product((-1, 0, 1), repeat=3) if any(s) and (neighbours == 26 or sum(map(abs, s)) == 1)
    ]
    return np.array(steps, dtype=np.int64)


def step_weights(spacing: Spacing | None, neighbours: int) -> NDArray[np.int32]:
    """Return, per neighbour, how much one count of height weighs when slopes per µm are compared.

    Whole numbers, so that slopes compare alike on every machine: the nearest neighbour weighs 2^18 (6
    neighbours) or 2^17, others less in proportion to their distance. They are scaled by 16 or 32, so that
    the low bits of ``rise * weight + rank`` keep the direction.
    """
    steps = offsets(neighbours)
    distance = np.sqrt(((steps * np.asarray(spacing or (1.0, 1.0, 1.0), float)) ** 2).sum(1))
    unit, low = (1 << 18, 16) if neighbours == 6 else (1 << 17, 32)
    weight = np.maximum(1, np.rint(unit * (distance.min() / distance))).astype(np.int32)
    scaled: NDArray[np.int32] = (weight * low).astype(np.int32)
    return scaled


def find_basins(
    foreground: Mask,
    height: NDArray[np.uint8],
    *,
    spacing: Spacing | None,
    neighbours: int = 6,
    start: Triple = (0, 0, 0),
    size: Triple | None = None,
) -> Basins:
    """Find the basins of one block.

    Parameters
    ----------
    foreground, height
        The block with a margin of one voxel on every side, axes Z Y X; outside the volume nothing is
        foreground.
    spacing
        Voxel size in µm (z, y, x); ``None``: equal along all axes.
    neighbours
        6 (faces) or 26.
    start
        Where the block without its margin begins in the volume.
    size
        Voxels of the whole volume; default: the block is the volume.

    Raises
    ------
    DataError
        If the height map is not of 8 bits, or the block exceeds 2^31 voxels.
    """
    if height.dtype != np.uint8:
        raise DataError(f"the height map is stored as uint8, this one is {height.dtype}")
    box = foreground.shape
    if foreground.size >= 1 << 31:
        raise DataError(f"a block of {box} voxels is too large: decode in smaller blocks")
    within: Triple = (box[0] - 2, box[1] - 2, box[2] - 2)
    size = size or within
    inner = np.zeros(box, bool)
    inner[1:-1, 1:-1, 1:-1] = foreground[1:-1, 1:-1, 1:-1]
    voxels = np.flatnonzero(inner.ravel())
    steps = offsets(neighbours) @ np.array([box[1] * box[2], box[2], 1])

    level = np.full(box, BACKGROUND, np.int32)
    np.copyto(level, height, where=foreground)
    level_flat = level.ravel()
    ends = _follow(level_flat, voxels, steps, step_weights(spacing, neighbours), foreground.ravel())

    used = np.zeros(foreground.size, bool)
    used[ends] = True
    terminals = np.flatnonzero(used)
    number = np.zeros(foreground.size, np.int32)
    number[terminals] = np.arange(1, len(terminals) + 1, dtype=np.int32)
    ids = np.zeros(foreground.size, np.int32)
    ids[voxels] = number[ends]
    leaves = ~inner.ravel()[terminals]

    margin = (foreground & ~inner).ravel()
    shell = _shell(voxels, steps, margin, box) if margin.any() else np.empty(0, np.int64)
    opened = leaves.copy()
    opened[ids[shell] - 1] = True
    pairs = _pairs(ids, level_flat, steps, lambda flat: _globally(flat, box, start, size))
    return Basins(
        ids=np.ascontiguousarray(ids.reshape(box)[1:-1, 1:-1, 1:-1]).view(np.uint32),
        end=_globally(terminals, box, start, size),
        height=level_flat[terminals].astype(np.int16),
        leaves=leaves,
        open=opened,
        voxels=np.bincount(ids[voxels], minlength=len(terminals) + 1)[1:].astype(np.int64),
        pairs=pairs,
        shell=_globally(shell, box, start, size),
    )


def _follow(
    level: NDArray[np.int32], voxels: Ints, steps: Ints, weights: NDArray[np.int32], foreground: Mask
) -> NDArray[np.int32]:
    """Return where the pointers of the inner voxels end; all indices are of the box with its margin."""
    half = len(steps) // 2
    low = 16 if half == 3 else 32
    # Earlier neighbours outrank later ones at equal slope; only earlier ones may be equally high (rank > 0).
    ranks = np.concatenate([np.arange(half, 0, -1), np.arange(-1, -half - 1, -1)])
    jump = np.zeros(low, np.int32)
    jump[ranks + low // 2] = steps
    code = np.zeros(len(level), np.uint8)
    rise, best = np.empty(CHUNK, np.int32), np.empty(CHUNK, np.int32)
    reach = int(-steps[0])
    for first in range(reach, len(level) - reach, CHUNK):
        last = min(first + CHUNK, len(level) - reach)
        if not foreground[first:last].any():
            continue
        here, up, top = level[first:last], rise[: last - first], best[: last - first]
        top[:] = 0
        for step, weight, rank in zip(steps, weights, ranks):
            np.subtract(level[first + step : last + step], here, out=up)
            np.multiply(up, weight, out=up)
            np.add(up, np.int32(rank), out=up)
            np.maximum(top, up, out=top)
        top += low // 2
        top &= low - 1
        code[first:last] = top
    pointer = np.arange(len(level), dtype=np.int32)
    target = voxels.astype(np.int32) + jump[code[voxels]]
    pointer[voxels] = target
    while True:  # path doubling
        further = pointer[target]
        if np.array_equal(further, target):
            return target
        pointer[voxels] = target = further


def _shell(voxels: Ints, steps: Ints, margin: Mask, box: tuple[int, ...]) -> Ints:
    """Return the inner voxels that touch foreground in the margin."""
    surface = np.zeros(box, bool)
    surface[1:-1, 1:-1, 1:-1] = True
    surface[2:-2, 2:-2, 2:-2] = False
    candidates = voxels[surface.ravel()[voxels]]
    touches = np.zeros(len(candidates), bool)
    for step in steps:
        touches |= margin[candidates + step]
    found: Ints = candidates[touches]
    return found


def _globally(flat: Ints, box: tuple[int, ...], start: Triple, size: Triple) -> Ints:
    """Turn indices of the box with its margin into indices of the whole volume (raster order is kept)."""
    z, rest = np.divmod(flat, box[1] * box[2])
    y, x = np.divmod(rest, box[2])
    out: Ints = ((z + (start[0] - 1)) * size[1] + (y + (start[1] - 1))) * size[2] + (x + (start[2] - 1))
    return out


def _pairs(
    ids: NDArray[np.int32], level: NDArray[np.int32], steps: Ints, globally: Callable[[Ints], Ints]
) -> Pairs:
    """Return the strongest edge of each pair of basins inside the block; ``ids`` is 0 in the margin."""
    half = len(steps) // 2
    count = int(ids.max(initial=0)) + 1
    parts = []
    for direction, step in enumerate(steps[half:]):
        found = []
        for first in range(0, len(ids) - step, CHUNK):
            last = min(first + CHUNK, len(ids) - step)
            here, there = ids[first:last], ids[first + step : last + step]
            differs = here != there
            differs &= here != 0
            differs &= there != 0
            found.append(np.flatnonzero(differs) + first)
        at = np.concatenate(found)
        if not len(at):
            continue
        a, b = ids[at].astype(np.int64) - 1, ids[at + step].astype(np.int64) - 1
        saddle = np.minimum(level[at], level[at + step])
        key = ((np.minimum(a, b) * count + np.maximum(a, b)) << 8) | (255 - saddle)
        order = np.argsort(key, kind="stable")  # stable: the first in raster order among equals stays first
        pair = key[order] >> 8
        first_of = order[np.concatenate([[True], pair[1:] != pair[:-1]])]
        at = at[first_of]
        parts.append(
            Pairs(a[first_of], b[first_of], saddle[first_of].astype(np.int16), globally(at) * 16 + direction)
        )
    return strongest(Pairs.join(parts))


def strongest(pairs: Pairs) -> Pairs:
    """Keep one edge per pair of pieces, the first in the order of merging; edges within one piece go."""
    pairs = pairs.take(pairs.a != pairs.b)
    a, b = np.minimum(pairs.a, pairs.b), np.maximum(pairs.a, pairs.b)
    order = np.lexsort((pairs.place, -pairs.saddle, b, a))
    a, b = a[order], b[order]
    new = np.ones(len(a), bool)
    new[1:] = (a[1:] != a[:-1]) | (b[1:] != b[:-1])
    return Pairs(a[new], b[new], pairs.saddle[order][new], pairs.place[order][new])


def merge(
    pairs: Pairs, end: Ints, height: NDArray[np.int16], tau: int, opened: Mask | None = None
) -> tuple[Ints, Ints]:
    """Merge pieces by persistence.

    Edges are taken highest saddle first, equal ones by place. The piece with the lower peak joins the other
    if its peak stands less than ``tau`` above the saddle. An edge that is refused can never qualify later:
    peaks only rise, and later saddles are lower. So one pass is enough.

    Parameters
    ----------
    pairs
        Edges between pieces 0 … K-1.
    end, height
        Index in the volume, and height, of each piece's peak; (K,).
    tau
        Smallest persistence that keeps two pieces apart, in counts of the height map, at least 1.
    opened
        Pieces of which not every edge is known, (K,). Their peaks may prove higher, and they may prove parts of
        others. So an edge whose lower piece is open, and stands less than ``tau`` above it, is left undecided. Its
        other piece is open from then on, unless it stands as high as ``tau`` above the edge: then no edge that follows
        can make it part of another one. Default: all edges of all pieces are known.

    Returns
    -------
    root, undecided
        The piece with the highest peak that each piece belongs to, (K,); and which edges were left undecided.

    Raises
    ------
    DataError
        If ``tau`` is below 1: pieces of a plateau would stay apart.
    """
    if tau < 1:
        raise DataError(f"persistence must be at least one count of the height map, not {tau}")
    rank = np.empty(len(end), np.int64)
    rank[np.lexsort((end, -height))] = np.arange(len(end))
    above, tops, parent = rank.tolist(), height.tolist(), list(range(len(end)))
    unknown = opened.tolist() if opened is not None else [False] * len(end)
    order = np.lexsort((pairs.place, -pairs.saddle))
    undecided = []
    for edge, low, high, saddle in zip(
        order.tolist(), pairs.a[order].tolist(), pairs.b[order].tolist(), pairs.saddle[order].tolist()
    ):
        while parent[low] != low:
            parent[low] = low = parent[parent[low]]
        while parent[high] != high:
            parent[high] = high = parent[parent[high]]
        if low == high:
            continue
        if above[low] < above[high]:
            low, high = high, low
        if tops[low] - saddle >= tau:
            continue
        if unknown[low]:
            undecided.append(edge)
            unknown[high] = unknown[high] or tops[high] - saddle < tau
        else:
            parent[low] = high
    return follow_links(np.array(parent, np.int64)), np.array(undecided, np.int64)


def follow_links(link: Ints) -> Ints:
    """Return where each link leads in the end; ``link[i] == i`` is an end."""
    while True:
        further = link[link]
        if np.array_equal(further, link):
            return link
        link = further


def merge_closed(basins: Basins, tau: int) -> Basins:
    """Merge what can be decided inside the block, exactly as the whole volume would; the rest stays open.

    Afterwards basins are numbered anew, edges that were refused are gone, and sizes are added up.
    """
    root, undecided = merge(basins.pairs, basins.end, basins.height, tau, basins.open)
    keep = np.flatnonzero(root == np.arange(len(root)))
    new = np.zeros(len(root), np.int64)
    new[keep] = np.arange(len(keep))
    new = new[root]
    left = basins.pairs.take(undecided)
    number = np.concatenate([[0], new + 1]).astype(np.uint32)
    return replace(
        basins,
        ids=number[basins.ids],
        end=basins.end[keep],
        height=basins.height[keep],
        leaves=basins.leaves[keep],
        open=basins.open[keep],
        voxels=sum_by(new, basins.voxels, len(keep)),
        pairs=strongest(replace(left, a=new[left.a], b=new[left.b])),
    )


def sum_by(group: Ints, values: Ints, count: int) -> Ints:
    """Return the sums of whole numbers by group, (count,); exact."""
    total = np.zeros(count, np.int64)
    np.add.at(total, group, values)
    return total


def number_objects(root: Ints, end: Ints, voxels: Ints, min_voxels: int) -> NDArray[np.uint32]:
    """Return each piece's object number: 1 … in raster order of the peaks, 0 where too small.

    Parameters
    ----------
    root
        From :func:`merge`, (K,).
    end
        Index of each piece's peak in the volume, (K,).
    voxels
        Size of each piece, (K,).
    min_voxels
        Objects smaller than this are dropped; sizes count after merging.
    """
    size = sum_by(root, voxels, len(root))
    heads = np.flatnonzero((root == np.arange(len(root))) & (size >= max(1, min_voxels)))
    heads = heads[np.argsort(end[heads], kind="stable")]
    number = np.zeros(len(root), np.uint32)
    number[heads] = np.arange(1, len(heads) + 1, dtype=np.uint32)
    return number[root]


def label_objects(
    foreground: Mask,
    height: NDArray[np.uint8],
    *,
    spacing: Spacing | None,
    tau: int,
    neighbours: int = 6,
    min_voxels: int = 1,
) -> NDArray[np.uint32]:
    """Label the objects of a volume that fits into memory.

    Parameters
    ----------
    foreground, height
        Axes Z Y X, no margin.
    spacing, neighbours
        As in :func:`find_basins`.
    tau, min_voxels
        As in :func:`merge` and :func:`number_objects`.

    Returns
    -------
    Labels, uint32, axes Z Y X.
    """
    basins = find_basins(np.pad(foreground, 1), np.pad(height, 1), spacing=spacing, neighbours=neighbours)
    return paint(basins, tau, min_voxels)


def paint(basins: Basins, tau: int, min_voxels: int = 1) -> NDArray[np.uint32]:
    """Return the labels of basins of a whole volume, for one persistence."""
    root, _ = merge(basins.pairs, basins.end, basins.height, tau)
    number = number_objects(root, basins.end, basins.voxels, min_voxels)
    out: NDArray[np.uint32] = np.concatenate([[np.uint32(0)], number]).astype(np.uint32)[basins.ids]
    return out
