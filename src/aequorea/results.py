"""What a task hands over: named layers (volumes) and tables (columns), in memory or on disk.

A task's ``decode`` writes to an :class:`Output` and never knows whether that is memory or a store on disk, nor
whether an earlier run was killed halfway: it asks a layer which blocks are pending.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from aequorea.crew import Crew
from aequorea.volume import Array, Region, Spacing, Triple, Volume

Table = dict[str, Array]
"""Columns by name, all of one length; a name ends in its unit where it has one (``volume_um3``)."""


@dataclass
class Result:
    """Named layers and tables."""

    layers: dict[str, Volume] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)


class Layer(Protocol):
    """A volume being written, block by block; a block is one output shard."""

    @property
    def block(self) -> Triple:
        """Voxels (z, y, x) of one block; blocks lie on a grid from the origin, cut at the far ends."""

    @property
    def crew(self) -> Crew:
        """The processes that write it; most often this one alone."""

    def left(self) -> list[int]:
        """Return the numbers of the blocks that nobody has written yet, in the order of ``Region.split``."""

    def pending(self) -> Iterator[Region]:
        """Yield the blocks that are not written yet and that this process is to write.

        Together with those written, and those of other processes, they cover the volume once.
        """

    def write(self, region: Region, block: Array) -> None:
        """Write one block of axes ``C Z Y X``; whole or not at all."""

    def finish(self) -> Volume:
        """Make everything durable (pyramid, digests) and return the volume for reading.

        Waits for other processes that write it; raises :class:`aequorea.crew.TakeOver` where one of them is lost.
        """


class Output(Protocol):
    """Where decoded results go."""

    def layer(
        self,
        name: str,
        *,
        size: Triple,
        dtype: Any,
        kind: Literal["label", "image"],
        channels: tuple[str, ...] = ("",),
        spacing: Spacing | None = None,
    ) -> Layer:
        """Begin (or take up again) a layer."""

    def table(self, name: str, columns: Table | Callable[[], Table]) -> None:
        """Write a table, whole or not at all; of several processes one makes it, if it is still to be made."""

    def scratch(self, name: str) -> Path:
        """Return a folder for intermediate files, kept if the run is killed, deleted when it ends."""


class MemoryOutput:
    """An output that keeps everything in memory, for crops and tests.

    Parameters
    ----------
    scratch
        A folder for decoders that need one; made and removed by the caller.
    block
        Voxels (z, y, x) of one block; default: each layer in one block.
    """

    def __init__(self, scratch: Path | None = None, block: Triple | None = None) -> None:
        self.result = Result()
        self._scratch = scratch
        self._block = block

    def layer(
        self,
        name: str,
        *,
        size: Triple,
        dtype: Any,
        kind: Literal["label", "image"],
        channels: tuple[str, ...] = ("",),
        spacing: Spacing | None = None,
    ) -> MemoryLayer:
        """Begin a layer."""
        return MemoryLayer(self.result, name, size, np.dtype(dtype), channels, spacing, self._block or size)

    def table(self, name: str, columns: Table | Callable[[], Table]) -> None:
        """Keep a table."""
        self.result.tables[name] = columns() if callable(columns) else columns

    def scratch(self, name: str) -> Path:
        """Return the folder given to the constructor."""
        if self._scratch is None:
            raise ValueError("this decoder needs a scratch folder: MemoryOutput(scratch=...)")
        path = self._scratch / name
        path.mkdir(parents=True, exist_ok=True)
        return path


@dataclass
class MemoryLayer:
    """One layer of a :class:`MemoryOutput`."""

    result: Result
    name: str
    size: Triple
    dtype: np.dtype[Any]
    channels: tuple[str, ...]
    spacing: Spacing | None
    block: Triple

    def __post_init__(self) -> None:
        self._array = np.zeros((len(self.channels), *self.size), self.dtype)
        self._blocks = list(Region.whole(self.size).split(self.block))
        self._left = dict.fromkeys(self._blocks)
        self.crew = Crew()

    def left(self) -> list[int]:
        """Return the numbers of the blocks that were not written."""
        return [number for number, block in enumerate(self._blocks) if block in self._left]

    def pending(self) -> Iterator[Region]:
        """Yield the blocks that were not written."""
        yield from list(self._left)

    def write(self, region: Region, block: Array) -> None:
        """Keep one block."""
        self._left.pop(region, None)
        self._array[(slice(None), *region.slices)] = block

    def finish(self) -> Volume:
        """Return the volume and enter it into the result."""
        array = self._array
        volume = Volume(
            reader=lambda region: array[(slice(None), *region.slices)],
            shape=(len(self.channels), *self.size),
            dtype=self.dtype,
            spacing=self.spacing,
            channels=self.channels,
            name=self.name,
        )
        self.result.layers[self.name] = volume
        return volume
