"""Patches of unlabelled volumes: blocks are read once and dealt, several patches from each.

Reading dominates where volumes are compressed: a random patch costs the chunks that it touches. So of each of B open
blocks a batch of B takes one patch, and after ``per_block`` batches the blocks are replaced. What is drawn is pure in
(seed, index): a resumed run, and any number of processes, see the same patches.

All patches of a batch have one geometry: planes or volumes, and about one anisotropy, since a body takes one spacing
at a time. Specimens are drawn evenly, whatever their size, and blocks without signal are passed over.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from aequorea.errors import DataError
from aequorea.volume import Array, Region, Triple, Volume

PER_BLOCK = 8
"""Patches that are cut from a block."""
SIDE = 2
"""Edge of a block in patches, where the volume allows."""
TRIES = 8
SIGNAL = 0.15
"""A block shows something where its brightest hundredth is above this share of the volume's range ..."""
CONTRAST = 0.05
"""... and its voxels vary by this share."""


@dataclass(frozen=True)
class Source:
    """A volume to draw from.

    Attributes
    ----------
    image
        Normalised, float32.
    group
        Its specimen: groups are drawn evenly.
    geometry
        What is alike in all patches of a batch.
    patch
        Voxels (z, y, x) cut from it.
    """

    image: Volume
    group: str
    geometry: Hashable
    patch: Triple


class BlockSampler:
    """Draws patches by number.

    Parameters
    ----------
    sources
        What to draw from.
    batch
        Patches of a global batch, and blocks that are open.
    seed
        Of every draw.
    per_block
        Patches cut from each block.
    """

    def __init__(self, sources: Sequence[Source], batch: int, seed: int, per_block: int = PER_BLOCK) -> None:
        if not sources:
            raise DataError("no volume to draw from")
        self.sources, self.batch, self.seed, self.per_block = list(sources), batch, seed, per_block
        by_geometry: dict[Hashable, dict[str, list[int]]] = {}
        for number, source in enumerate(sources):
            groups = by_geometry.setdefault(source.geometry, {})
            groups.setdefault(source.group, []).append(number)
        self._kinds = [list(groups.values()) for groups in by_geometry.values()]
        specimens = np.array([len(groups) for groups in self._kinds], float)
        self._share = specimens / specimens.sum()
        self._open: OrderedDict[tuple[int, int], Future[tuple[int, Array]]] = OrderedDict()
        self._lock = threading.Lock()
        self._reader = ThreadPoolExecutor(1)

    def __call__(self, index: int) -> tuple[int, Array]:
        """Return the number of the source and a patch_CZYX of it (float32) for sample ``index``."""
        step, slot = divmod(index, self.batch)
        turn = step // self.per_block
        number, block = self._block(turn, slot).result()
        self._block(turn + 1, slot)  # read while this one is used
        rng = np.random.Generator(np.random.Philox(key=np.array([self.seed, index], np.uint64)))
        patch = self.sources[number].patch
        start = [int(rng.integers(n - p + 1)) for n, p in zip(block.shape[1:], patch)]
        cut = tuple(slice(a, a + p) for a, p in zip(start, patch))
        out = block[(slice(None), *cut)]
        flips = tuple(axis for axis in (1, 2, 3) if rng.random() < 0.5)
        out = np.flip(out, flips)
        if rng.random() < 0.5 and out.shape[2] == out.shape[3]:
            out = out.swapaxes(2, 3)
        return number, np.ascontiguousarray(out)

    def drawn(self, steps: int) -> Counter[int]:
        """Return how many blocks of each source, by its number, so many steps take; nothing is read."""
        turns = -(-steps // self.per_block)
        return Counter(self._drawn(turn, slot)[0] for turn in range(turns) for slot in range(self.batch))

    def _block(self, turn: int, slot: int) -> Future[tuple[int, Array]]:
        key = (turn, slot)
        with self._lock:
            if key not in self._open:
                self._open[key] = self._reader.submit(self._read, turn, slot)
                while len(self._open) > 3 * self.batch:
                    self._open.popitem(last=False)
            return self._open[key]

    def _drawn(self, turn: int, slot: int) -> tuple[int, np.random.Generator]:
        """Return the source of a block, and the generator that says where in it."""
        kind = np.random.default_rng([self.seed, turn]).choice(len(self._share), p=self._share)
        groups = self._kinds[kind]
        rng = np.random.default_rng([self.seed, turn, slot])
        members = groups[int(rng.integers(len(groups)))]
        return members[int(rng.integers(len(members)))], rng

    def _read(self, turn: int, slot: int) -> tuple[int, Array]:
        number, rng = self._drawn(turn, slot)
        source = self.sources[number]
        for _ in range(TRIES):
            block = source.image.read(draw_block(source.image, source.patch, rng))
            if shows(block):
                break
        return number, _mirrored(block, source.patch)


def cut(source: Source, rng: np.random.Generator) -> Array:
    """Return a patch_CZYX at a random place of a volume, mirrored where the volume is smaller."""
    start = [int(rng.integers(max(0, n - p) + 1)) for n, p in zip(source.image.size, source.patch)]
    block = source.image.read(Region.at(start, source.patch).clip(source.image.region))
    return _mirrored(block, source.patch)


def _mirrored(block: Array, patch: Triple) -> Array:
    """Return a block_CZYX continued by mirror images where it is smaller than a patch."""
    short = [(0, max(0, p - n)) for p, n in zip(patch, block.shape[1:])]
    return np.pad(block, [(0, 0), *short], mode="symmetric") if any(after for _, after in short) else block


def draw_block(image: Volume, patch: Triple, rng: np.random.Generator) -> Region:
    """Return a random block of whole chunks, about twice a patch along each axis."""
    start, size = [], []
    for n, p, chunk in zip(image.size, patch, image.chunks):
        step = min(max(1, chunk), n)
        length = min(n, -(-SIDE * p // step) * step) if step <= SIDE * p else min(n, SIDE * p)
        if step <= SIDE * p:
            places = max(1, -(-(n - length) // step) + 1)
            at = min(int(rng.integers(places)) * step, n - length)
        else:
            at = int(rng.integers(n - length + 1))
        start.append(at)
        size.append(length)
    return Region.at(start, size)


def shows(block: Array) -> bool:
    """Whether a normalised block holds more than background."""
    few = block[:, :: 1 + (block.shape[1] > 8), ::4, ::4]
    return bool(few.std() > CONTRAST and np.percentile(few, 99) > SIGNAL)
