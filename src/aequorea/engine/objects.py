"""Objects of a volume larger than memory: the blocks of :mod:`aequorea.signal.basins` joined into one answer.

Three stages, each of which can be killed and taken up again:

1. ``find``: each block on its own: basins, merged as far as the block alone decides it. To disk go the
   basin of each voxel and a small graph: peaks, edges, and the voxels that touch foreground in other blocks.
2. ``join``: basins that leave a block are linked to those that they enter, edges across block faces are
   added, what was left open is merged, objects are numbered by their peaks. Works on the small graphs only.
3. ``write``: basins become object numbers, shard by shard; objects are measured on the way.

A block is a shard of the output or a part of it, of bounded size, so memory does not grow with the volume
except by the graphs of stage 2: one entry per object, and about 0.2 per foreground voxel on block faces.

Stages 1 and 3 are shared by all processes that write the layer; stage 2 is one's.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from aequorea.crew import Crew
from aequorea.engine.block_store import BlockStore
from aequorea.engine.memory import require, workers
from aequorea.engine.tiles import part_of
from aequorea.errors import DataError
from aequorea.progress import track
from aequorea.results import Layer, Table
from aequorea.signal.basins import (
    Basins,
    Ints,
    Pairs,
    find_basins,
    follow_links,
    merge,
    merge_closed,
    number_objects,
    offsets,
    strongest,
    sum_by,
)
from aequorea.signal.measure import add_up, gather, measure_block, object_table
from aequorea.volume import Array, Region, Triple, Volume

MOST_VOXELS = 1 << 22
"""Voxels of a block at most: about 30 bytes each while it is worked on."""
PAIR_BYTES = 50
"""Memory that an edge of the join takes."""
SHARE = 0.6
"""Of the machine's memory that they may take."""
THREADS = min(2, os.cpu_count() or 1)
"""Shards worked on at a time; each holds a block."""
SHARD_BYTES, NODE_BYTES, EDGE_BYTES = 30, 80, 60
"""Bytes in memory for each voxel of a shard that is worked on, and each basin and edge of the join."""
GRAPH = (
    "end", "height", "leaves", "voxels", "a", "b", "saddle", "place", "shell", "shell_id", "shell_height",
)  # fmt: skip
"""Arrays of a block's graph; ``basins`` beside them are its voxels, compressed."""


@dataclass(frozen=True)
class ObjectRule:
    """What counts as an object.

    Attributes
    ----------
    threshold
        Foreground probability from which a voxel is foreground, in 255ths.
    tau
        Smallest persistence that keeps two peaks apart, in counts of the height map.
    neighbours
        6 or 26.
    min_voxels
        Smaller objects are dropped.
    """

    threshold: int
    tau: int
    neighbours: int = 6
    min_voxels: int = 1

    def foreground(self, probability: Array) -> NDArray[np.bool_]:
        """Return which voxels are foreground; a probability of 0 never is."""
        out: NDArray[np.bool_] = probability >= max(1, self.threshold)
        return out


class ObjectFinder:
    """Finds, writes and measures the objects of one stored network output.

    Parameters
    ----------
    dense
        Two channels of uint8: foreground probability in 255ths, height.
    rule
        What counts as an object.
    shard
        Voxels (z, y, x) of the units in which the output is written.
    scratch
        Folder for what must survive a kill; ``None``: memory.

    Attributes
    ----------
    blocks
        The regions that are worked on one by one, numbered by their place in the list.
    """

    def __init__(self, dense: Volume, rule: ObjectRule, shard: Triple, scratch: Path | None = None) -> None:
        self.dense, self.rule, self.shard = dense, rule, shard
        self.block = part_of(shard, dense.size, MOST_VOXELS)
        z, y, x = (-(-n // b) for n, b in zip(dense.size, self.block))
        self.grid: Triple = (z, y, x)
        self.blocks = list(dense.region.split(self.block))
        self.store = BlockStore(scratch)
        recipe = {"rule": asdict(rule), "shard": self.shard, "block": self.block, "dense": dense.fingerprint}
        self.store.begin(json.dumps(recipe, sort_keys=True))
        self._graph = lru_cache(maxsize=64)(lambda i: self.store.load(f"graph/{i}.npz", GRAPH))

    def run(self, layer: Layer, image: Volume | None = None) -> None:
        """Write the labels into a layer and measure the objects.

        Parameters
        ----------
        layer
            uint32, one channel, in shards as given.
        image
            Whose intensities are measured; on the grid of ``dense``.

        Raises
        ------
        DataError
            If the image is on another grid, or the height map is noise (more edges than memory holds).
        TakeOver
            If another process that was to do its share is lost.
        """
        if layer.block != self.shard:
            raise ValueError(f"the layer's blocks of {layer.block} are not those of {self.shard}")
        if image is not None and image.size != self.dense.size:
            raise DataError(f"{image.name}: {image.size} voxels where the objects lie on {self.dense.size}")
        shards = list(self.dense.region.split(self.shard))
        crew, total = layer.crew, len(shards)
        threads = workers(THREADS, SHARD_BYTES * math.prod(self.shard))
        with ThreadPoolExecutor(threads) as pool:
            mine = crew.mine(self._not_found(shards), total)
            for _ in track(
                pool.map(self.find, [shards[i] for i in mine]), "find objects", len(mine), "shard"
            ):
                pass
        crew.wait(lambda: self._not_found(shards), total, "find objects")
        number, base = self._joined(crew)
        self.count = int(number.max(initial=0))
        unwritten = set(layer.left())

        def write(i: int) -> None:
            self.write(i, shards[i], number, base, layer if i in unwritten else None, image)

        with ThreadPoolExecutor(threads) as pool:
            mine = crew.mine(self._not_written(layer, total), total)
            for _ in track(pool.map(write, mine), "write objects", len(mine), "shard"):
                pass
        crew.wait(lambda: self._not_written(layer, total), total, "write objects")

    def table(self, image: Volume | None = None) -> Table:
        """Return the table of the objects that :meth:`run` wrote, with the intensities of the same image."""
        channels = image.channels if image is not None else ()
        sums = [self.store.load(f"sums/{i}.npz") for i in sorted(self.store.numbers("sums"))]
        return object_table(add_up(sums, self.count), self.dense.spacing, channels)

    def _not_found(self, shards: Sequence[Region]) -> list[int]:
        """Return the numbers of the shards that are not through stage 1."""
        found = self.store.numbers("graph")
        return [i for i, shard in enumerate(shards) if not found.issuperset(self._blocks_of(shard))]

    def _not_written(self, layer: Layer, total: int) -> list[int]:
        """Return the numbers of the shards that are not through stage 3."""
        return sorted({*layer.left(), *(set(range(total)) - self.store.numbers("sums"))})

    def _joined(self, crew: Crew) -> tuple[NDArray[np.uint32], list[int]]:
        """Stage 2, by one process for all."""
        if crew.alone:
            return self.join()
        if crew.one(lambda: "join.npz" in self.store, "join objects"):
            number, base = self.join()
            self.store.save("join.npz", {"number": number, "base": np.array(base)})
            return number, base
        kept = self.store.load("join.npz")
        return kept["number"].astype(np.uint32, copy=False), kept["base"].tolist()

    def find(self, shard: Region) -> None:
        """Stage 1 for the blocks of one shard; those that were done are left alone."""
        todo = [i for i in self._blocks_of(shard) if f"graph/{i}.npz" not in self.store]
        if not todo:
            return
        around = shard.grow((1, 1, 1))
        seen = around.clip(self.dense.region)
        values = np.zeros((2, *around.size), np.uint8)  # nothing is foreground outside the volume
        values[(slice(None), *seen.relative_to(around).slices)] = self.dense.read(seen)
        for i in todo:
            region = self.blocks[i]
            probability, height = values[(slice(None), *region.grow((1, 1, 1)).relative_to(around).slices)]
            basins = merge_closed(
                find_basins(
                    self.rule.foreground(probability),
                    height,
                    spacing=self.dense.spacing,
                    neighbours=self.rule.neighbours,
                    start=region.start,
                    size=self.dense.size,
                ),
                self.rule.tau,
            )
            self.store.save(f"graph/{i}.npz", self._pack(basins, region, height))

    def _blocks_of(self, shard: Region) -> list[int]:
        """Return the numbers of the blocks that a shard consists of."""
        first = [a // b for a, b in zip(shard.start, self.block)]
        last = [-(-a // b) for a, b in zip(shard.stop, self.block)]
        z, y, x = np.meshgrid(*(np.arange(a, b) for a, b in zip(first, last)), indexing="ij")
        numbers: list[int] = np.ravel_multi_index((z.ravel(), y.ravel(), x.ravel()), self.grid).tolist()
        return numbers

    def _pack(self, basins: Basins, region: Region, height: NDArray[np.uint8]) -> dict[str, Array]:
        z, y, x = (a - s for a, s in zip(np.unravel_index(basins.shell, self.dense.size), region.start))
        return {
            "basins": np.frombuffer(imagecodecs.zstd_encode(basins.ids.tobytes(), level=1), np.uint8),
            "end": basins.end,
            "height": basins.height,
            "leaves": basins.leaves,
            "voxels": basins.voxels,
            "a": basins.pairs.a,
            "b": basins.pairs.b,
            "saddle": basins.pairs.saddle,
            "place": basins.pairs.place,
            "shell": basins.shell,
            "shell_id": basins.ids[z, y, x].astype(np.int64) - 1,
            "shell_height": height[z + 1, y + 1, x + 1],
        }

    def join(self) -> tuple[NDArray[np.uint32], list[int]]:
        """Stage 2: return each basin's object number, and where each block's basins begin in that list."""
        base = [0]
        ends, heights, voxels = [], [], []
        for i in range(len(self.blocks)):
            graph = self._graph(i)
            base.append(base[-1] + len(graph["end"]))
            ends.append(graph["end"])
            heights.append(graph["height"])
            voxels.append(graph["voxels"])
        end, height, size = np.concatenate(ends), np.concatenate(heights), np.concatenate(voxels)
        require(NODE_BYTES * len(end), "joining objects across blocks does not fit")
        link = np.arange(len(end))
        edges, held, most = [], 0, most_pairs()
        for i in range(len(self.blocks)):
            link[base[i] : base[i + 1]] = self._entered(i, base)
            edges.append(self._edges(i, base))
            held += len(edges[-1])
            require(EDGE_BYTES * held, "joining objects across blocks does not fit")
            if held > most:
                raise DataError(
                    f"{self.dense.name}: over {most:,} pairs of touching basins, more than memory holds: the height "
                    "map is noise (train longer, or raise the persistence), or this takes a larger machine"
                )
        link = follow_links(link)
        pairs = Pairs.join(edges)
        pairs = strongest(Pairs(link[pairs.a], link[pairs.b], pairs.saddle, pairs.place))
        involved = np.unique(np.concatenate([pairs.a, pairs.b]))
        compact = Pairs(
            np.searchsorted(involved, pairs.a), np.searchsorted(involved, pairs.b), pairs.saddle, pairs.place
        )
        merged, _ = merge(compact, end[involved], height[involved], self.rule.tau)
        root = np.arange(len(end))
        root[involved] = involved[merged]
        number = number_objects(root, end, sum_by(link, size, len(end)), self.rule.min_voxels)
        return number[link], base

    def _entered(self, i: int, base: list[int]) -> Ints:
        """Return, per basin of block ``i``, the basin that it goes on in; itself if it has its peak."""
        graph = self._graph(i)
        link = np.arange(base[i], base[i + 1])
        leaves = np.flatnonzero(graph["leaves"])
        target, _ = self._look_up(graph["end"][leaves], base)
        link[leaves] = target
        return link

    def _edges(self, i: int, base: list[int]) -> Pairs:
        """Return the open edges inside block ``i`` and those that begin in it and end in another."""
        graph = self._graph(i)
        region, size = self.blocks[i], self.dense.size
        parts = [Pairs(graph["a"] + base[i], graph["b"] + base[i], graph["saddle"], graph["place"])]
        here = np.stack(np.unravel_index(graph["shell"], size), axis=1)
        steps = offsets(self.rule.neighbours)
        for direction, step in enumerate(steps[len(steps) // 2 :]):
            there = here + step
            inside = np.all((there >= region.start) & (there < region.stop), axis=1)
            beyond = np.any((there < 0) | (there >= size), axis=1)
            crossing = np.flatnonzero(~inside & ~beyond)
            other, height = self._look_up(np.ravel_multi_index(tuple(there[crossing].T), size), base)
            found = other >= 0
            crossing, other, height = crossing[found], other[found], height[found]
            parts.append(
                Pairs(
                    graph["shell_id"][crossing] + base[i],
                    other,
                    np.minimum(graph["shell_height"][crossing], height).astype(np.int16),
                    graph["shell"][crossing] * 16 + direction,
                )
            )
        return strongest(Pairs.join(parts))

    def _look_up(self, voxel: Ints, base: list[int]) -> tuple[Ints, NDArray[np.uint8]]:
        """Return basin and height at voxels on the shells of their blocks; -1 and 0 in the background."""
        node, height = np.full(len(voxel), -1), np.zeros(len(voxel), np.uint8)
        block = [c // n for c, n in zip(np.unravel_index(voxel, self.dense.size), self.block)]
        owner = np.ravel_multi_index(block, self.grid)
        for q in np.unique(owner).tolist():
            graph = self._graph(q)
            asked = np.flatnonzero(owner == q)
            at = np.searchsorted(graph["shell"], voxel[asked])
            found = at < len(graph["shell"])
            found[found] = graph["shell"][at[found]] == voxel[asked[found]]
            at, asked = at[found], asked[found]
            node[asked] = graph["shell_id"][at] + base[q]
            height[asked] = graph["shell_height"][at]
        return node, height

    def write(
        self,
        i: int,
        shard: Region,
        number: NDArray[np.uint32],
        base: list[int],
        layer: Layer | None,
        image: Volume | None,
    ) -> None:
        """Stage 3 for one shard: sums first, so that a shard that was written always has them."""
        if layer is None and f"sums/{i}.npz" in self.store:
            return
        labels = np.zeros(shard.size, np.uint32)
        sums = []
        for k in self._blocks_of(shard):
            names, region = number[base[k] : base[k + 1]], self.blocks[k]
            if not names.any():
                continue
            packed = self.store.load(f"graph/{k}.npz", ("basins",))["basins"]
            ids = np.frombuffer(imagecodecs.zstd_decode(packed.tobytes()), np.uint32).reshape(region.size)
            part = labels[region.relative_to(shard).slices]
            part[...] = np.concatenate([np.zeros(1, np.uint32), names])[ids]
            sums.append(
                measure_block(
                    part,
                    region.start,
                    self.dense.size,
                    self.dense.read(region)[0],
                    image.read(region) if image is not None else None,
                )
            )
        self.store.save(f"sums/{i}.npz", gather(sums))
        if layer is not None:
            layer.write(shard, labels[None])


def most_pairs() -> int:
    """Return how many edges the join may hold on this machine."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 16e9
    return int(SHARE * memory / PAIR_BYTES)
