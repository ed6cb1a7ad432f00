"""One layer of a result on disk: a pyramid of sharded arrays with a journal of what is written.

The unit is one shard: encoded in memory by zarr-python, written beside its place, flushed, renamed, then
entered with size, time and digest into the journal. What the journal does not hold, or what no longer looks
as it says, is pending. Shards of nothing but zeros are entered and not written. Of several processes each has a
journal of its own and reads those of the others.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore, MemoryStore

from aequorea.crew import Crew
from aequorea.engine import ome_metadata
from aequorea.engine.durable import Journal, explained, file_digest, remove_file, write_file
from aequorea.engine.memory import workers
from aequorea.errors import DataError
from aequorea.progress import Progress
from aequorea.results import Result
from aequorea.signal.pyramid import Reduction, factors, halved, reduce
from aequorea.specs import Spec
from aequorea.volume import Array, Region, Spacing, Triple, Volume

ZSTD_LEVEL = 1  # level 3 costs twice the time and saves 2 % of a probability map
THREADS = min(2, os.cpu_count() or 1)
"""Shards of a coarser level that are made at a time."""
OURS = ".aequorea"
"""The folder in a store that is not for viewers: state, journals, unfinished files, scratch."""


class LayerSpec(Spec):
    """What a layer is; an interrupted one is taken up only if it was begun as exactly this."""

    name: str
    size: Triple
    dtype: str
    kind: Literal["label", "image"]
    channels: tuple[str, ...]
    spacing: Spacing | None
    shard: Triple
    chunk: Triple
    how: Reduction
    pyramid: bool
    folder: str
    origin: Spacing = (0.0, 0.0, 0.0)

    @property
    def channel_axis(self) -> bool:
        """Whether the arrays have one: plain label images have not, as viewers lay them over any channel."""
        return self.kind == "image" or len(self.channels) > 1


class ZarrLayer:
    """One layer of a store; implements :class:`aequorea.results.Layer`.

    ``write`` may be called from several threads at once.

    Parameters
    ----------
    store
        The OME-Zarr that it is part of.
    spec
        What it is.
    result
        Takes the volume when the layer is finished.
    crew
        The processes that write it.
    """

    def __init__(self, store: Path, spec: LayerSpec, result: Result, crew: Crew | None = None) -> None:
        self.spec, self.crew = spec, crew or Crew()
        self.store = store
        self.folder = store / spec.folder
        self._result = result
        enough = spec.chunk if spec.pyramid else spec.size
        self._factors = factors(spec.size, spec.spacing, enough)
        self._sizes = [halved(spec.size, factor) for factor in self._factors]
        self._tiling = [fit(size, spec.chunk, spec.shard) for size in self._sizes]
        self._journals = store / OURS / "journal"
        part = "" if self.crew.part == 1 else f".part{self.crew.part}"
        self._journal = Journal(self._journals / f"{spec.name}{part}.jsonl")
        self._done: list[set[Triple]] = [set() for _ in self._sizes]
        self._read: dict[Path, int] = {}
        self._lock = threading.Lock()

    @property
    def whole(self) -> bool:
        """Whether every shard of every level is written."""
        return not any(self._pending(level) for level in range(len(self._sizes)))

    @property
    def block(self) -> Triple:
        """Voxels (z, y, x) of one shard."""
        return self.spec.shard

    def pending(self) -> Iterator[Region]:
        """Yield the regions of the shards that are not written; shards lie on a grid from the origin."""
        yield from self._mine(0)

    def left(self, level: int = 0) -> list[int]:
        """Return the numbers of the shards of a level that nobody has written."""
        self._learn()
        return list(self._pending(level))

    def write(self, region: Region, block: Array) -> None:
        """Write one shard, whole or not at all, and lastingly.

        Parameters
        ----------
        region
            Exactly one shard, cut to the volume, as :meth:`pending` yields them.
        block
            Axes ``C Z Y X``; converted to the layer's type.

        Raises
        ------
        ValueError
            If the region is not one shard, or the block is not of its shape.
        DataError
            If the disk does not take it.
        """
        shape = (len(self.spec.channels), *region.size)
        corner = [at * n for at, n in zip(_place(region, self.spec.shard), self.spec.shard)]
        if region.empty or region != Region.at(corner, self.spec.shard).clip(Region.whole(self.spec.size)):
            raise ValueError(
                f"layer '{self.spec.name}': region {region} is not one shard of {self.spec.shard} voxels"
            )
        if block.shape != shape:
            raise ValueError(
                f"layer '{self.spec.name}': block of shape {block.shape} where {shape} is expected"
            )
        self._commit(0, region, block)

    def finish(self) -> Volume:
        """Make the coarser levels, as far as they are not there, and return the volume with its levels.

        Raises
        ------
        ValueError
            If shards are pending.
        DataError
            If the disk does not take it, or what was written is damaged.
        TakeOver
            If shards are pending that another process was to write, which is lost.
        """
        if self.crew.alone and (left := self.left()):
            raise ValueError(f"layer '{self.spec.name}': {len(left)} shards are not written")
        self._wait(0)
        total = sum(r.voxels for level in range(1, len(self._sizes)) for r in self._mine(level))
        itemsize = np.dtype(self.spec.dtype).itemsize
        with (
            Progress(f"pyramid of {self.spec.name}", total, "voxel") as bar,
            ThreadPoolExecutor(
                workers(THREADS, 4 * len(self.spec.channels) * math.prod(self.block) * itemsize)
            ) as pool,
        ):
            for level in range(1, len(self._sizes)):
                regions = self._mine(level)
                for region, _ in zip(regions, pool.map(partial(self._coarsen, level), regions)):
                    bar.advance(region.voxels)
                self._wait(level)
        volume = self.volume()
        self._result.layers[self.spec.name] = volume
        return volume

    def volume(self) -> Volume:
        """Return what is written, for reading; what is pending reads as zeros."""
        levels = [self._level(level) for level in range(1, len(self._sizes))]
        return self._level(0, tuple(levels))

    def check(self) -> list[Path]:
        """Compare the journal with the disk and return the shards that are not as they were written."""
        entries: dict[tuple[int, Triple], list[dict[str, Any]]] = {}
        for file in self._journal_files():
            for entry in Journal(file).entries():
                z, y, x = entry["at"]
                entries.setdefault((entry["level"], (z, y, x)), []).append(entry)
        damaged = []
        for (level, at), said in entries.items():
            path = self._shard_path(level, at)
            if any(_intact(path, entry) for entry in said[::-1]):
                self._done[level].add(at)
            else:
                damaged.append(path)
        return damaged

    def create(self) -> None:
        """Write the metadata of the arrays."""
        for level, (size, (chunk, shard)) in enumerate(zip(self._sizes, self._tiling)):
            found: dict[str, Any] = {}
            self._array_in(found, size, chunk, shard)
            put(self.store, self.folder / str(level) / "zarr.json", found["zarr.json"].to_bytes())

    def ome(self, *, from_root: bool = False) -> dict[str, Any]:
        """Return the ``ome`` attributes of the layer's group, or of a root group that shows this layer."""
        spec = self.spec
        prefix = f"{spec.folder}/" if from_root and spec.folder else ""
        return ome_metadata.image(
            spec.name,
            [f"{prefix}{level}" for level in range(len(self._sizes))],
            self._factors,
            spec.spacing,
            how=spec.how,
            channels=spec.channels if spec.channel_axis else None,
            dtype=np.dtype(spec.dtype),
            label=spec.kind == "label" and not from_root,
            origin=spec.origin,
        )

    def _pending(self, level: int) -> dict[int, Region]:
        """Return the shards of a level that are not written as far as this process knows, by number."""
        shard = self._tiling[level][1]
        with self._lock:
            done = set(self._done[level])
        regions = enumerate(Region.whole(self._sizes[level]).split(shard))
        return {number: region for number, region in regions if _place(region, shard) not in done}

    def _mine(self, level: int) -> list[Region]:
        """Return the shards of a level that this process is to write now."""
        self._learn()
        pending = self._pending(level)
        return [pending[number] for number in self.crew.mine(list(pending), self._count(level))]

    def _count(self, level: int) -> int:
        return math.prod(-(-n // s) for n, s in zip(self._sizes[level], self._tiling[level][1]))

    def _wait(self, level: int) -> None:
        """Return when a level is whole."""
        stage = f"{self.spec.name}, level {level}"
        self.crew.wait(partial(self.left, level), self._count(level), stage)

    def _journal_files(self) -> list[Path]:
        name = self.spec.name
        return [*self._journals.glob(f"{name}.jsonl"), *self._journals.glob(f"{name}.part*.jsonl")]

    def _learn(self) -> None:
        """Read what other processes have written, if there are any."""
        if self.crew.alone:
            return
        for file in self._journal_files():
            size = file.stat().st_size
            if file == self._journal.path or size == self._read.get(file):
                continue
            self._read[file] = size
            for entry in Journal(file).entries():
                z, y, x = entry["at"]
                with self._lock:
                    self._done[entry["level"]].add((z, y, x))

    def _commit(self, level: int, region: Region, block: Array) -> None:
        chunk, shard = self._tiling[level]
        at = _place(region, shard)
        path = self._shard_path(level, at)
        block = np.asarray(block, self.spec.dtype)
        entry: dict[str, Any] = {"level": level, "at": at}
        if block.any():
            pieces: dict[str, Any] = {}
            parts = [(slice(None), *part.slices) for part in Region.whole(region.size).split(chunk)]
            # zarr-python looks for empty chunks thoroughly; a glance tells that most shards have none.
            full = all(channel[None][part].any() for part in parts for channel in block)
            self._array_in(pieces, region.size, chunk, shard, full)[...] = (
                block if self.spec.channel_axis else block[0]
            )
            del pieces["zarr.json"]
            (encoded,) = pieces.values()
            stamp = write_file(path, encoded.to_bytes(), beside=self.store / OURS / "partial")
            entry |= stamp._asdict()
        else:
            remove_file(path)
            entry["size"] = 0
        self._journal.append(entry)
        with self._lock:
            self._done[level].add(at)

    def _coarsen(self, level: int, region: Region) -> None:
        self._commit(level, region, self._coarser(level, region))

    def _coarser(self, level: int, region: Region) -> Array:
        """Compute one shard from the level below, in pieces that each need no more than one shard of that."""
        steps = self._steps(level)
        chunk, shard = self._tiling[level]
        z, y, x = (max(c, s // step // c * c) for c, s, step in zip(chunk, shard, steps))
        block = np.empty((len(self.spec.channels), *region.size), self.spec.dtype)
        below = self._level(level - 1)
        for part in region.split((z, y, x)):
            corner = [a * step for a, step in zip(part.start, steps)]
            source = Region.at(corner, [n * step for n, step in zip(part.size, steps)]).clip(below.region)
            block[(slice(None), *part.relative_to(region).slices)] = reduce(
                below.read(source), steps, self.spec.how
            )
        return block

    def _steps(self, level: int) -> Triple:
        z, y, x = (now // before for now, before in zip(self._factors[level], self._factors[level - 1]))
        return z, y, x

    def _level(self, level: int, levels: tuple[Volume, ...] = ()) -> Volume:
        spec = self.spec
        array = zarr.open_array(LocalStore(self.folder / str(level), read_only=True), mode="r")

        def reader(region: Region) -> Array:
            try:
                block = np.asarray(array[(..., *region.slices)])
            except (ValueError, RuntimeError):  # of checksums and of zstd
                self._distrust(level, region)
                raise DataError(
                    f"{self.folder / str(level)}: damaged in {region}; run the same command again to mend it"
                ) from None
            return block if spec.channel_axis else block[None]

        z, y, x = spec.spacing or (1.0, 1.0, 1.0)
        a, b, c = self._factors[level]
        return Volume(
            reader=reader,
            shape=(len(spec.channels), *self._sizes[level]),
            dtype=np.dtype(spec.dtype),
            spacing=(z * a, y * b, x * c) if spec.spacing else None,
            channels=spec.channels,
            chunks=self._tiling[level][0],
            levels=levels,
            name=f"{self.store}:{spec.name}",
            format="ome_zarr",
        )

    def _distrust(self, level: int, region: Region) -> None:
        """Remove those shards whose bytes are not the ones that were written, so that the next run makes them."""
        shard = self._tiling[level][1]
        digests = {
            (entry["level"], tuple(entry["at"]), entry.get("digest"))
            for file in self._journal_files()
            for entry in Journal(file).entries()
        }
        for block in region.snap(shard).split(shard):
            at = _place(block, shard)
            path = self._shard_path(level, at)
            if path.is_file() and (level, at, file_digest(path)) not in digests:
                remove_file(path)

    def _shard_path(self, level: int, at: Triple) -> Path:
        front = ("0",) if self.spec.channel_axis else ()
        return self.folder.joinpath(str(level), "c", *front, *(str(i) for i in at))

    def _array_in(
        self, store: dict[str, Any], size: Triple, chunk: Triple, shard: Triple, full: bool = False
    ) -> Any:
        """Make an empty array of this layer's kind in a dictionary; ``full``: none of its chunks will be zeros."""
        channels = len(self.spec.channels)
        axis = self.spec.channel_axis
        return zarr.create_array(
            MemoryStore(store),
            shape=(channels, *size) if axis else size,
            shards=(channels, *shard) if axis else shard,
            chunks=(1, *chunk) if axis else chunk,
            dtype=self.spec.dtype,
            compressors=[ZstdCodec(level=ZSTD_LEVEL), Crc32cCodec()],
            fill_value=0,
            dimension_names=("c", "z", "y", "x") if axis else ("z", "y", "x"),
            config={"write_empty_chunks": full},
        )


def put(store: Path, path: Path, data: bytes) -> None:
    """Write metadata into a store unless they are there already."""
    with explained(path):
        if path.exists() and path.read_bytes() == data:
            return
    write_file(path, data, beside=store / OURS / "partial")


def fit(size: Triple, chunk: Triple, shard: Triple) -> tuple[Triple, Triple]:
    """Return chunk and shard for an array that may be smaller than they are, so that no padding is stored."""
    a, b, c = (min(n, k) for n, k in zip(size, chunk))
    z, y, x = (-(-min(n, s) // k) * k for n, s, k in zip(size, shard, (a, b, c)))
    return (a, b, c), (z, y, x)


def _place(region: Region, shard: Triple) -> Triple:
    z, y, x = (a // n for a, n in zip(region.start, shard))
    return z, y, x


def _intact(path: Path, entry: dict[str, Any]) -> bool:
    """Whether a shard is as it was written; its bytes are read only where its time has changed."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return bool(entry["size"] == 0)
    if entry["size"] == 0 or found.st_size != entry["size"]:
        return False
    same_time: bool = found.st_mtime_ns == entry["mtime_ns"]
    return same_time or _same_bytes(path, entry)


def _same_bytes(path: Path, entry: dict[str, Any]) -> bool:
    return path.is_file() and file_digest(path) == str(entry["digest"])
