"""Joining the blocks of a volume, two by two along each axis, until one region is left.

Each join reads the graphs of up to eight regions and writes that of the region they make up
(:mod:`aequorea.signal.graphs`); those of one level can be done in any order, by any number of processes, and are kept,
so that what was interrupted goes on. Objects that are done on the way are counted together at the end and numbered by
their peaks. No process holds more than the pieces at the faces of eight regions, and once a number for each object.
"""

from __future__ import annotations

from functools import lru_cache, partial
from itertools import product

import numpy as np
from numpy.typing import NDArray

from aequorea.crew import Crew
from aequorea.engine.block_store import BlockStore
from aequorea.engine.memory import machine_memory, require
from aequorea.errors import DataError
from aequorea.progress import track
from aequorea.signal.graphs import STORED, Graph, join
from aequorea.volume import Region, Triple

NODE_BYTES, EDGE_BYTES, FACE_BYTES = 120, 90, 60
"""Bytes in memory for each piece, edge and voxel on faces of a join."""
USUAL = 16e9
"""Bytes of main memory of a machine that does not tell."""
SHARE = 0.6
"""Of the machine's memory that a join may take."""


class JoinTree:
    """Joins graphs that are kept as ``graph/N``.

    Parameters
    ----------
    store
        Holds the graphs of all blocks, and what is made of them.
    name
        Of the volume, for messages.
    size
        Voxels of the volume.
    block
        Voxels of a block; blocks are numbered in raster order.
    neighbours, tau
        As for :func:`aequorea.signal.graphs.join`.

    Attributes
    ----------
    grids
        How many regions there are along each axis, by level: blocks first, the volume last.
    """

    def __init__(
        self, store: BlockStore, name: str, size: Triple, block: Triple, neighbours: int, tau: int
    ) -> None:
        self.store, self.name, self.size, self.block = store, name, size, block
        self.neighbours, self.tau = neighbours, tau
        self.grids = [_over(size, block)]
        while len(self.grids) == 1 or max(self.grids[-1]) > 1:
            self.grids.append(_over(self.grids[-1], (2, 2, 2)))
        self._names_below = lru_cache(maxsize=16)(self._split_names)

    def run(self, crew: Crew) -> None:
        """Join everything, together with the other processes.

        Raises
        ------
        DataError
            If a join has more edges than memory holds: the height map is noise.
        TakeOver
            If another process that was to do its share is lost.
        """
        for level in range(1, len(self.grids)):
            left, total = partial(self._left, level), len(self._all(level))
            mine = crew.mine(left(), total)
            for i in track(mine, "join objects", len(mine), "region"):
                self.join(level, i)
            crew.wait(left, total, "join objects")

    def join(self, level: int, i: int) -> None:
        """Make one region of a level out of those of the level before."""
        graphs = [self._graph(level - 1, child) for child in self._children(level, i)]
        pieces = sum(len(graph.end) for graph in graphs)
        edges = sum(len(graph.pairs) for graph in graphs)
        faces = sum(len(graph.shell) for graph in graphs)
        needed = NODE_BYTES * pieces + EDGE_BYTES * edges + FACE_BYTES * faces
        require(needed, "joining objects across blocks does not fit")
        if needed > SHARE * (machine_memory() or USUAL):
            raise DataError(
                f"{self.name}: {edges:,} pairs of touching basins, more than memory holds: the height map is noise "
                "(train longer, or raise the persistence), or this takes a larger machine"
            )
        made = join(graphs, self.region(level, i), self.size, neighbours=self.neighbours, tau=self.tau)
        first = np.cumsum([0, *(len(graph.end) for graph in graphs[:-1])])
        self.store.save(
            f"joined{level}/{i}",
            made.graph.arrays() | {"into": made.into, "first": first, "done": made.end, "size": made.voxels},
        )

    def number(self, min_voxels: int) -> None:
        """Number the objects 1 … by their peaks in raster order, but for those of fewer voxels."""
        regions = [(level, i) for level in range(1, len(self.grids)) for i in self._all(level)]
        done = [self.store.load(f"joined{level}/{i}", ("done", "size")) for level, i in regions]
        peaks = np.sort(np.concatenate([one["done"][one["size"] >= max(1, min_voxels)] for one in done]))
        for (level, i), one in zip(regions, done):
            number = (np.searchsorted(peaks, one["done"]) + 1).astype(np.uint32)
            number[one["size"] < max(1, min_voxels)] = 0
            self.store.save(f"numbered{level}/{i}", {"number": number})
        self.store.save("numbered", {"count": np.array(len(peaks))})

    @property
    def numbered(self) -> bool:
        """Whether that is done."""
        return "numbered" in self.store

    @property
    def count(self) -> int:
        """Objects."""
        return int(self.store.load("numbered")["count"])

    def names(self, level: int, i: int) -> NDArray[np.uint32]:
        """Return the object number of each piece of a region; 0: none."""
        if level + 1 == len(self.grids):
            return np.zeros(0, np.uint32)
        place = np.unravel_index(i, self.grids[level])
        above = int(np.ravel_multi_index([p // 2 for p in place], self.grids[level + 1]))
        return self._names_below(level + 1, above)[self._children(level + 1, above).index(i)]

    def _split_names(self, level: int, i: int) -> list[NDArray[np.uint32]]:
        """Return the object numbers of the pieces of each region that a region was made of."""
        record = self.store.load(f"joined{level}/{i}", ("into", "first"))
        into, number = record["into"], self.store.load(f"numbered{level}/{i}")["number"]
        goes_on = into >= 0
        names = np.zeros(len(into), np.uint32)
        names[goes_on] = self.names(level, i)[into[goes_on]]
        names[~goes_on] = number[-1 - into[~goes_on]]
        return np.split(names, record["first"][1:])

    def _graph(self, level: int, i: int) -> Graph:
        kind = f"joined{level}" if level else "graph"
        return Graph.of(self.store.load(f"{kind}/{i}", STORED))

    def _all(self, level: int) -> range:
        return range(int(np.prod(self.grids[level])))

    def _left(self, level: int) -> list[int]:
        return sorted(set(self._all(level)) - self.store.numbers(f"joined{level}"))

    def _children(self, level: int, i: int) -> list[int]:
        """Return the numbers of the regions of the level before that make up a region."""
        place, grid = np.unravel_index(i, self.grids[level]), self.grids[level - 1]
        cells = product(*(range(2 * int(p), min(2 * int(p) + 2, n)) for p, n in zip(place, grid)))
        return [int(np.ravel_multi_index(cell, grid)) for cell in cells]

    def region(self, level: int, i: int) -> Region:
        """Return the region that is number ``i`` of its level."""
        place = np.unravel_index(i, self.grids[level])
        side = [b * 2**level for b in self.block]
        start = [int(p) * n for p, n in zip(place, side)]
        return Region.at(start, side).clip(Region.whole(self.size))


def _over(size: Triple, block: Triple) -> Triple:
    z, y, x = (-(-n // b) for n, b in zip(size, block))
    return z, y, x
