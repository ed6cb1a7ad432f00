"""Objects of a volume larger than memory: the blocks of :mod:`aequorea.signal.basins` joined into one answer.

Three stages, each of which can be killed and taken up again:

1. ``find``: each block on its own: basins, merged as far as the block alone decides it. To disk go the
   basin of each voxel and a small graph: peaks, edges, and the voxels that touch foreground in other blocks.
2. ``tree``: the graphs of eight blocks become one, those of eight such regions one again, until one is left
   (:mod:`aequorea.engine.join_tree`); then objects are numbered by their peaks.
3. ``write``: basins become object numbers, shard by shard; objects are measured on the way.

A block is a shard of the output or a part of it, of bounded size, so memory does not grow with the volume
except in stage 2: by about 0.2 entries per foreground voxel on the faces of the largest regions, and one number per
object.

All stages are shared by all processes that write the layer; only the numbering is one's.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from aequorea.engine.block_store import BlockStore
from aequorea.engine.join_tree import JoinTree
from aequorea.engine.memory import workers
from aequorea.engine.tiles import part_of
from aequorea.errors import DataError
from aequorea.progress import track
from aequorea.results import Layer, Table
from aequorea.signal.basins import find_basins, merge_closed
from aequorea.signal.graphs import Graph
from aequorea.signal.measure import add_up, gather, measure_block, object_table
from aequorea.volume import Array, Region, Triple, Volume

MOST_VOXELS = 1 << 22
"""Voxels of a block at most: about 30 bytes each while it is worked on."""
THREADS = min(2, os.cpu_count() or 1)
"""Shards worked on at a time; each holds a block."""
SHARD_BYTES = 30
"""Bytes in memory for each voxel of a shard that is worked on."""


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
        self.blocks = list(dense.region.split(self.block))
        self.store = BlockStore(scratch)
        recipe = {"rule": asdict(rule), "shard": self.shard, "block": self.block, "dense": dense.fingerprint}
        self.store.begin(json.dumps(recipe, sort_keys=True))
        self.tree = JoinTree(self.store, dense.name, dense.size, self.block, rule.neighbours, rule.tau)

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
        self.tree.run(crew)
        if not self.tree.numbered and crew.one(lambda: self.tree.numbered, "number objects"):
            self.tree.number(self.rule.min_voxels)
        unwritten = set(layer.left())

        def write(i: int) -> None:
            self.write(i, shards[i], layer if i in unwritten else None, image)

        with ThreadPoolExecutor(threads) as pool:
            mine = crew.mine(self._not_written(layer, total), total)
            for _ in track(pool.map(write, mine), "write objects", len(mine), "shard"):
                pass
        crew.wait(lambda: self._not_written(layer, total), total, "write objects")

    def table(self, image: Volume | None = None) -> Table:
        """Return the table of the objects that :meth:`run` wrote, with the intensities of the same image."""
        channels = image.channels if image is not None else ()
        sums = [self.store.load(f"sums/{i}") for i in sorted(self.store.numbers("sums"))]
        return object_table(add_up(sums, self.tree.count), self.dense.spacing, channels)

    def _not_found(self, shards: Sequence[Region]) -> list[int]:
        """Return the numbers of the shards that are not through stage 1."""
        found = self.store.numbers("graph")
        return [i for i, shard in enumerate(shards) if not found.issuperset(self._blocks_of(shard))]

    def _not_written(self, layer: Layer, total: int) -> list[int]:
        """Return the numbers of the shards that are not through stage 3."""
        return sorted({*layer.left(), *(set(range(total)) - self.store.numbers("sums"))})

    def find(self, shard: Region) -> None:
        """Stage 1 for the blocks of one shard; those that were done are left alone."""
        todo = [i for i in self._blocks_of(shard) if f"graph/{i}" not in self.store]
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
            graph = Graph.of_block(basins, height, region.start, self.dense.size)
            packed = np.frombuffer(imagecodecs.zstd_encode(basins.ids.tobytes(), level=1), np.uint8)
            self.store.save(f"graph/{i}", graph.arrays() | {"basins": packed})

    def _blocks_of(self, shard: Region) -> list[int]:
        """Return the numbers of the blocks that a shard consists of."""
        first = [a // b for a, b in zip(shard.start, self.block)]
        last = [-(-a // b) for a, b in zip(shard.stop, self.block)]
        z, y, x = np.meshgrid(*(np.arange(a, b) for a, b in zip(first, last)), indexing="ij")
        numbers: list[int] = np.ravel_multi_index(
            (z.ravel(), y.ravel(), x.ravel()), self.tree.grids[0]
        ).tolist()
        return numbers

    def write(
        self,
        i: int,
        shard: Region,
        layer: Layer | None,
        image: Volume | None,
    ) -> None:
        """Stage 3 for one shard: sums first, so that a shard that was written always has them."""
        if layer is None and f"sums/{i}" in self.store:
            return
        labels = np.zeros(shard.size, np.uint32)
        sums = []
        for k in self._blocks_of(shard):
            names, region = self.tree.names(0, k), self.blocks[k]
            if not names.any():
                continue
            packed = self.store.load(f"graph/{k}", ("basins",))["basins"]
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
        self.store.save(f"sums/{i}", gather(sums))
        if layer is not None:
            layer.write(shard, labels[None])
