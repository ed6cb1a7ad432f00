"""Volumes that are slow to read in blocks, converted once: a bounded folder of sharded zstd OME-Zarrs.

Compressed planes have to be decoded whole, however small a block is. How much more than the block that is, follows from
what the file says of itself, its compression and its unit (:func:`slow`); nothing is timed. Small volumes are left
alone, since decoding them takes no time, and so is what is not compressed.

``CACHE/KEY.ome.zarr``
    one converted volume; the key is made of its fingerprint, and of size and time of its file. A conversion that was
    killed is gone on with. Its time of change says when a run last used it.
``CACHE/lock``
    held by the process that converts or makes room
``CACHE/in-use/``
    a file for each run, locked as long as the run lives, with the keys that must not be removed
``CACHE/CACHEDIR.TAG``
    says that this is a cache: backups, and whoever looks for images, pass it over

Whether a volume was converted changes nothing but the time it takes: voxels are equal, and blocks are drawn as if it
were, also where there is no room for it.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aequorea.engine.durable import bytes_in, digest, explained, make_folder, write_file
from aequorea.engine.layer import OURS, ZarrLayer
from aequorea.engine.processes import first_alone
from aequorea.engine.writer import ZarrOutput
from aequorea.progress import Progress, quantity
from aequorea.volume import Array, Region, Triple, Volume
from aequorea.workflows.index import Handles, Stamp
from aequorea.workflows.unlabelled import CACHE_TAG

WASTE = 4.0
"""Voxels decoded for each one wanted above which a volume is slow, ..."""
LEAST = 1 << 23
"""... where a block makes it decode more than these (a tenth of a second)."""
EDGE = 64
"""Voxels along an edge of a chunk."""
SHARD: Triple = (64, 512, 512)
"""Voxels (z, y, x) of one file, at most."""
SLAB = 1 << 29
"""Bytes that are read at a time: whole planes, where so few fit."""
MOST = 100 * 10**9
"""Bytes of a cache, where nobody says it and half of the free disk is not less."""
THREADS = min(4, os.cpu_count() or 1)
LAYER = "dense"
SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55\n"
"""What the tag of a cache begins with, by which backups know that they need not keep it."""


def slow(volume: Volume, block: Triple) -> bool:
    """Whether reading a block of (z, y, x) voxels anywhere decodes many more than it has.

    Parameters
    ----------
    volume
        As a format opened it: its ``chunks`` and its compression decide.
    block
        Voxels (z, y, x) wanted at a time.
    """
    unit = volume.chunks
    whole = volume.format in ("sequence", "bioio")  # one plane is one piece, compressed or not
    if volume.extra.get("compression", "") in ("", "none") and not whole:
        return False
    if volume.format == "sequence":
        unit = (1, *volume.size[1:])
    elif volume.format == "nifti":  # a compressed one is a single piece
        unit = volume.size
    decoded, wanted = volume.shape[0], volume.shape[0]
    for n, b, u in zip(volume.size, block, unit):
        length, piece = min(n, b), min(n, u)
        wanted *= length
        decoded *= length if piece <= length else min(n, piece + length - 1)
    return decoded >= WASTE * wanted and decoded > LEAST


def shard_of(volume: Volume) -> Triple:
    """Return voxels (z, y, x) of a file: thin ones of wide planes, so that a few whole planes are read at a time."""
    plane = volume.shape[0] * volume.size[1] * volume.size[2] * volume.dtype.itemsize
    depth = next((z for z in (SHARD[0], 32, 16) if z * plane <= SLAB and z <= SHARD[0]), min(16, SHARD[0]))
    return depth, SHARD[1], SHARD[2]


def chunk_of(volume: Volume) -> Triple:
    """Return voxels (z, y, x) of a chunk of the converted volume."""
    z, y, x = (min(n, s, EDGE) for n, s in zip(volume.size, shard_of(volume)))
    return z, y, x


@dataclass(frozen=True)
class Slow:
    """A volume that is worth converting.

    Attributes
    ----------
    key
        Name in the cache.
    source
        As it was opened.
    stored
        Bytes of its file; ``None`` where it has none.
    """

    key: str
    source: Volume
    stored: int | None

    @property
    def expected(self) -> int:
        """Bytes that it will take: zstd at its quickest is not much worse than what it was compressed with."""
        raw = int(np.prod(self.source.shape, dtype=object)) * self.source.dtype.itemsize
        return min(raw, int(1.5 * self.stored)) if self.stored else raw


class Cache:
    """Converted volumes.

    Parameters
    ----------
    folder
        Where they are; need not be there. Several runs may share it.
    limit
        Bytes that all of them may take; default: 100 GB, or half of the free disk where that is less.
    say
        Receives lines for the user.
    """

    def __init__(self, folder: Path, limit: int | None = None, say: Callable[[str], None] = print) -> None:
        self.folder, self._limit, self._say = folder, limit, say
        self._handles = Handles(32)
        self._in_use: Any = None

    def over(self, volume: Volume, block: Triple, stamp: Stamp | None = None) -> tuple[Volume, Slow | None]:
        """Return a volume that reads from the cache what :meth:`fill` put there; itself, if it is not slow.

        Parameters
        ----------
        volume
            As a format opened it.
        block
            Voxels (z, y, x) that will be wanted at a time.
        stamp
            Size and time of its file.
        """
        if not slow(volume, block):
            return volume, None
        chunks = chunk_of(volume)
        key = digest(repr((volume.fingerprint, stamp, shard_of(volume), chunks)).encode())[:24]
        found = Slow(key, volume, stamp[0] if stamp else None)

        def reader(region: Region) -> Array:
            return self._handles.get(key, lambda: self._converted(found)).read(region)

        made = replace(volume, reader=reader, chunks=chunks, levels=())
        made.__dict__["fingerprint"] = volume.fingerprint
        return made, found

    def fill(self, wanted: Sequence[Slow]) -> None:
        """Convert volumes as far as there is room; of several processes the first does it.

        Room is made by removing those that no run uses, the longest unused first.

        Parameters
        ----------
        wanted
            What will be read, what is worth most first.

        Raises
        ------
        FormatError
            If a source is damaged.
        DataError
            If the disk does not take it.
        """
        unique = {one.key: one for one in wanted}
        if unique:
            first_alone(lambda: self._fill(unique))

    def close(self) -> None:
        """Let other runs remove what this one has read."""
        if self._in_use is not None:
            self._in_use.close()
            self._in_use = None

    def _place(self, key: str) -> Path:
        return self.folder / f"{key}.ome.zarr"

    def _finished(self, key: str) -> bool:
        with suppress(OSError, ValueError):
            state = json.loads((self._place(key) / OURS / "state.json").read_bytes())
            return bool(state["status"] == "finished")
        return False

    def _output(self, slow: Slow) -> ZarrOutput:
        shard = shard_of(slow.source)
        chunk = (min(EDGE, shard[0]), EDGE, EDGE)
        return ZarrOutput(self._place(slow.key), identity=slow.key, shard=shard, chunk=chunk, pyramid=False)

    def _converted(self, slow: Slow) -> Volume:
        if self._finished(slow.key):
            output = self._output(slow)
            if output.finished:
                return output.result.layers[LAYER]
        return slow.source

    def _fill(self, wanted: Mapping[str, Slow]) -> None:
        make_folder(self.folder / "in-use")
        if not (self.folder / CACHE_TAG).exists():
            write_file(self.folder / CACHE_TAG, SIGNATURE)
        with explained(self.folder), _locked(self.folder / "lock"):
            for rest in self.folder.glob(".gone-*"):
                shutil.rmtree(rest)
            sizes = {path.name.split(".")[0]: bytes_in(path) for path in self.folder.glob("*.ome.zarr")}
            limit = self._limit
            if limit is None:
                limit = min(MOST, (shutil.disk_usage(self.folder).free + sum(sizes.values())) // 2)
            todo, left = self._plan(wanted, sizes, limit)
            self._note([one.key for one in todo])
            new = [one for one in todo if self._converted(one) is one.source]
            if new:
                self._say(
                    f"{_named(new)} slow to read in blocks: converted once to {self.folder}, "
                    f"at most {_bytes(sum(one.expected for one in new))} (--cache-size bounds it)"
                )
                left += self._convert(new, sizes, limit)
            for one in todo:
                if one not in left:
                    os.utime(self._place(one.key))
        self._handles = Handles(32)
        if left:
            enough = _bytes(1.1 * (limit + sum(one.expected for one in left)))
            self._say(
                f"{_named(left)} slow to read and stay as they are: no room in {_bytes(limit)}; "
                f"e.g. --cache-size {enough}"
            )

    def _plan(
        self, wanted: Mapping[str, Slow], sizes: dict[str, int], limit: int
    ) -> tuple[list[Slow], list[Slow]]:
        """Return what is or will be converted, and what there is no room for; remove what is in the way.

        What is there already comes first, so that nothing is converted twice.
        """
        kept = self._used_by_others() & sizes.keys()
        used = {key: self._place(key).stat().st_mtime_ns for key in sizes}
        ready = {key for key in wanted if self._finished(key)}
        planned = sum(sizes[key] for key in kept)
        todo: list[Slow] = []
        left: list[Slow] = []
        for one in sorted(wanted.values(), key=lambda one: one.key not in ready):
            needed = 0 if one.key in kept else sizes[one.key] if one.key in ready else one.expected
            (todo if planned + needed <= limit else left).append(one)
            if todo and todo[-1] is one:
                planned += needed
                kept.add(one.key)
        spare = sorted(sizes.keys() - kept, key=lambda key: (key in wanted, used[key]))
        held = sum(sizes[key] for key in spare)
        while spare and planned + held > limit:
            held -= sizes.pop(spare[0])
            self._remove(spare.pop(0))
        return todo, left

    def _convert(self, todo: Sequence[Slow], sizes: dict[str, int], limit: int) -> list[Slow]:
        """Convert volumes; returns those that turned out too large."""
        left = []
        with Progress("convert", sum(one.source.region.voxels for one in todo), "voxel") as bar:
            for one in todo:
                output = self._output(one)
                layer = output.layer(
                    LAYER,
                    size=one.source.size,
                    dtype=one.source.dtype,
                    kind="image",
                    channels=one.source.channels,
                    spacing=one.source.spacing,
                )
                pending = sum(region.voxels for region in layer.pending())
                bar.skip(one.source.region.voxels - pending)
                others = sum(size for key, size in sizes.items() if key != one.key)
                for region, shards in slabs(layer, one.source):
                    _write(layer, region, shards, one.source)
                    bar.advance(region.voxels)
                    if others + bytes_in(output.path) > limit:
                        self._remove(one.key)
                        left.append(one)
                        break
                else:
                    layer.finish()
                    output.complete()
                    sizes[one.key] = bytes_in(output.path)
        return left

    def _remove(self, key: str) -> None:
        """Delete a converted volume; a kill in between leaves nothing that looks like one."""
        gone = self.folder / f".gone-{key}"
        self._place(key).rename(gone)
        shutil.rmtree(gone)

    def _note(self, keys: list[str]) -> None:
        """Say to other runs what this one reads, as long as it lives."""
        file = (self.folder / "in-use" / f"{os.getpid()}-{time.time_ns()}.json").open("w")
        file.write(json.dumps(keys))
        file.flush()
        _lock(file, wait=True)
        self._in_use = file

    def _used_by_others(self) -> set[str]:
        keys: set[str] = set()
        for path in sorted((self.folder / "in-use").glob("*.json")):
            with path.open("r+") as file:
                if _lock(file, wait=False):
                    path.unlink()
                else:
                    with suppress(ValueError):
                        keys.update(json.loads(file.read()))
        return keys


def drop_cache(folder: Path) -> None:
    """Delete a cache, its tag last, so that what a kill leaves is still one; nothing else is deleted."""
    inside = sorted(folder.iterdir(), key=lambda path: path.name == CACHE_TAG) if folder.is_dir() else []
    if not inside or inside[-1].name != CACHE_TAG:
        return
    for path in inside:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    folder.rmdir()


def slabs(layer: ZarrLayer, source: Volume) -> Iterator[tuple[Region, list[Region]]]:
    """Yield regions to read at a time, each with the pending shards in it: whole planes where they fit in memory."""
    depth, height, _ = layer.block
    row = depth * source.shape[0] * source.size[2] * source.dtype.itemsize
    band = max(1, SLAB // row // height) * height
    groups: dict[tuple[int, int], list[Region]] = {}
    for region in layer.pending():
        groups.setdefault((region.start[0], region.start[1] // band), []).append(region)
    for shards in groups.values():
        starts, stops = zip(*((region.start, region.stop) for region in shards))
        (a, b, c), (d, e, f) = np.min(starts, axis=0).tolist(), np.max(stops, axis=0).tolist()
        yield Region((a, b, c), (d, e, f)), shards


def _write(layer: ZarrLayer, region: Region, shards: list[Region], source: Volume) -> None:
    """Read a region with several threads and write its shards."""
    block = np.empty((source.shape[0], *region.size), source.dtype)
    unit = source.chunks[0]
    step = -(-region.size[0] // (THREADS * unit)) * unit

    def read(part: Region) -> None:
        block[(slice(None), *part.relative_to(region).slices)] = source.read(part)

    def write(shard: Region) -> None:
        layer.write(shard, block[(slice(None), *shard.relative_to(region).slices)])

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(read, region.split((step, *source.size[1:]))))
        list(pool.map(write, shards))


def _bytes(count: float) -> str:
    return f"{quantity(count)}B".replace(" ", "")


def _named(several: Sequence[Slow]) -> str:
    first = Path(several[0].source.name).name
    return f"{first} is" if len(several) == 1 else f"{first} and {len(several) - 1} more are"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file, waiting for another run that holds it."""
    with path.open("w") as file:
        _lock(file, wait=True)
        yield


def _lock(file: Any, *, wait: bool) -> bool:
    """Lock a file until it is closed; False where another process has it, or where there are no such locks."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True
