"""What is known of the basins of a region without its voxels, and how regions become one.

A region's graph holds its pieces (basins, merged as far as the region decides it), the edges that are not decided, and
the voxels of its faces. Of graphs that lie side by side :func:`join` makes one: pieces that go on in a neighbour are
linked to it, edges across the faces between them are added, and what no longer depends on anything outside is decided
as the whole volume would decide it (the argument is that of :mod:`aequorea.signal.basins`, with a region in place of a
block). Pieces that are *done*, of which nothing is open any more, leave the graph; so what goes on grows with the faces
of a region, and not with its volume, and regions can be joined again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aequorea.signal.basins import Basins, Ints, Mask, Pairs, follow_links, merge, offsets, strongest, sum_by
from aequorea.volume import Array, Region, Triple

AT_ONCE = 1 << 16
"""Voxels of faces that are looked at at a time."""


@dataclass(frozen=True)
class Graph:
    """What a region knows of its pieces 0 … K-1.

    Attributes
    ----------
    end
        Index in the whole volume of each piece's peak, or of the voxel outside by which it leaves the region; (K,).
    height
        Height there.
    leaves
        Whether it is the latter.
    voxels
        Voxels inside the region.
    pairs
        Edges that are not decided.
    shell
        Foreground voxels (index in the whole volume, increasing) that may touch foreground outside.
    shell_id, shell_height
        Piece and height of each.
    """

    end: Ints
    height: NDArray[np.int16]
    leaves: Mask
    voxels: Ints
    pairs: Pairs
    shell: Ints
    shell_id: Ints
    shell_height: NDArray[np.uint8]

    @classmethod
    def of_block(cls, basins: Basins, height: NDArray[np.uint8], start: Triple, size: Triple) -> Graph:
        """Return what a block knows, from what :func:`aequorea.signal.basins.find_basins` was given and found."""
        z, y, x = (a - s for a, s in zip(np.unravel_index(basins.shell, size), start))
        return cls(
            end=basins.end,
            height=basins.height,
            leaves=basins.leaves,
            voxels=basins.voxels,
            pairs=basins.pairs,
            shell=basins.shell,
            shell_id=basins.ids[z, y, x].astype(np.int64) - 1,
            shell_height=height[z + 1, y + 1, x + 1],
        )

    def arrays(self) -> dict[str, Array]:
        """Return everything by name, to be stored."""
        mine = {name: value for name, value in vars(self).items() if name != "pairs"}
        return mine | vars(self.pairs)

    @classmethod
    def of(cls, arrays: dict[str, Array]) -> Graph:
        """Return what :meth:`arrays` gave."""
        pairs = Pairs(*(arrays[name] for name in Pairs.__dataclass_fields__))
        return cls(pairs=pairs, **{n: arrays[n] for n in cls.__dataclass_fields__ if n != "pairs"})


STORED = (*(n for n in Graph.__dataclass_fields__ if n != "pairs"), *Pairs.__dataclass_fields__)
"""Names that :meth:`Graph.arrays` gives."""


@dataclass(frozen=True)
class Joined:
    """One region made of several.

    Attributes
    ----------
    graph
        Of the pieces about which something is open.
    into
        For each piece of the parts, one part after the other: its piece in ``graph``, or ``-1 - n`` for the n-th of
        those that are done.
    end, voxels
        Index of the peak, and size, of those that are done.
    """

    graph: Graph
    into: Ints
    end: Ints
    voxels: Ints


def join(parts: Sequence[Graph], region: Region, size: Triple, *, neighbours: int, tau: int) -> Joined:
    """Join the graphs of the parts of a region.

    Parameters
    ----------
    parts
        Of regions that make up ``region`` together.
    region, size
        What they make up, and voxels of the whole volume. Where the region is the volume everything is done.
    neighbours
        6 or 26.
    tau
        As for :func:`aequorea.signal.basins.merge`.
    """
    counts = [len(part.end) for part in parts]
    base = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    end = np.concatenate([part.end for part in parts])
    height = np.concatenate([part.height for part in parts])
    leaves = np.concatenate([part.leaves for part in parts])
    faces = _Faces.of(parts, base)

    # Pieces that go on in another part are that part's.
    link = np.arange(len(end))
    going = np.flatnonzero(leaves)
    at, found = faces.look_up(end[going])
    link[going[found]] = faces.piece[at[found]]
    leaves[going[found]] = False
    link = follow_links(link)

    pairs = Pairs.join(
        [Pairs(p.pairs.a + b, p.pairs.b + b, p.pairs.saddle, p.pairs.place) for p, b in zip(parts, base)]
        + faces.edges(region, size, neighbours)
    )
    pairs = strongest(Pairs(link[pairs.a], link[pairs.b], pairs.saddle, pairs.place))

    outer = faces.on_surface(region, size)
    opened = leaves.copy()
    opened[link[faces.piece[outer]]] = True
    involved = np.unique(np.concatenate([pairs.a, pairs.b]))
    compact = Pairs(
        np.searchsorted(involved, pairs.a), np.searchsorted(involved, pairs.b), pairs.saddle, pairs.place
    )
    merged, undecided = merge(compact, end[involved], height[involved], tau, opened[involved])
    root = np.arange(len(end))
    root[involved] = involved[merged]
    root = root[link]
    left = pairs.take(undecided)
    left = strongest(Pairs(root[left.a], root[left.b], left.saddle, left.place))

    head = root == np.arange(len(root))
    goes_on = opened & head
    goes_on[left.a] = goes_on[left.b] = True
    kept, done = np.flatnonzero(goes_on), np.flatnonzero(head & ~goes_on)
    into = np.empty(len(root), np.int64)
    into[kept], into[done] = np.arange(len(kept)), -1 - np.arange(len(done))
    into = into[root]
    voxels = sum_by(root, np.concatenate([part.voxels for part in parts]), len(root))
    graph = Graph(
        end=end[kept],
        height=height[kept],
        leaves=leaves[kept],
        voxels=voxels[kept],
        pairs=Pairs(into[left.a], into[left.b], left.saddle, left.place),
        shell=faces.voxel[outer],
        shell_id=into[faces.piece[outer]],
        shell_height=faces.height[outer],
    )
    return Joined(graph, into, end[done], voxels[done])


@dataclass(frozen=True)
class _Faces:
    """Voxels on the faces of parts, in raster order of the volume: whose they are, which piece, how high."""

    voxel: Ints
    part: Ints
    piece: Ints
    height: NDArray[np.uint8]

    @classmethod
    def of(cls, parts: Sequence[Graph], base: Ints) -> _Faces:
        voxel = np.concatenate([part.shell for part in parts])
        order = np.argsort(voxel, kind="stable")
        owner = np.repeat(np.arange(len(parts)), [len(part.shell) for part in parts])
        piece = np.concatenate([part.shell_id + b for part, b in zip(parts, base)])
        height = np.concatenate([part.shell_height for part in parts])
        return cls(voxel[order], owner[order], piece[order], height[order])

    def look_up(self, voxel: Ints) -> tuple[Ints, Mask]:
        """Return where voxels are in the list, and which of them are."""
        at = np.searchsorted(self.voxel, voxel)
        found = at < len(self.voxel)
        found[found] = self.voxel[at[found]] == voxel[found]
        return at, found

    def edges(self, region: Region, size: Triple, neighbours: int) -> list[Pairs]:
        """Return the edges between voxels of different parts, by direction."""
        steps = offsets(neighbours)
        out = []
        for first, here in self._places(size):
            for direction, step in enumerate(steps[len(steps) // 2 :]):
                there = here + step
                inside = np.flatnonzero(np.all((there >= region.start) & (there < region.stop), axis=1))
                at, found = self.look_up(np.ravel_multi_index(tuple(there[inside].T), size))
                near, far = first + inside[found], at[found]
                across = self.part[near] != self.part[far]
                near, far = near[across], far[across]
                saddle = np.minimum(self.height[near], self.height[far]).astype(np.int16)
                out.append(
                    Pairs(self.piece[near], self.piece[far], saddle, self.voxel[near] * 16 + direction)
                )
        return out

    def on_surface(self, region: Region, size: Triple) -> Ints:
        """Return the voxels that have neighbours outside the region, inside the volume."""
        low, high = np.array(region.start), np.array(region.stop) - 1
        cut = (low > 0, high < np.array(size) - 1)
        found = [
            first + np.flatnonzero((((at == low) & cut[0]) | ((at == high) & cut[1])).any(1))
            for first, at in self._places(size)
        ]
        return np.concatenate([np.empty(0, np.int64), *found])

    def _places(self, size: Triple) -> Iterator[tuple[int, Ints]]:
        """Yield the places (N, 3) of so many voxels at a time that they weigh little, and which is the first."""
        for first in range(0, len(self.voxel), AT_ONCE):
            yield first, np.stack(np.unravel_index(self.voxel[first : first + AT_ONCE], size), axis=1)
