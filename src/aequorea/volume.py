"""Regions and volumes: what is where, in which units, and how its voxels are read.

A :class:`Volume` is a lazy image with axes ``C Z Y X`` (a 2-D image has Z = 1). It knows its spacing in µm, or
that nobody said (``None``). A :class:`Region` is a box of voxels on the Z Y X grid; it never carries channels.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aequorea.errors import DataError

Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]
Array = NDArray[Any]
ORIGIN: Triple = (0, 0, 0)


@dataclass(frozen=True, order=True)
class Region:
    """A half-open box ``start <= voxel < stop`` on the Z Y X grid; may reach outside a volume."""

    start: Triple
    stop: Triple

    @classmethod
    def whole(cls, size: Sequence[int]) -> Region:
        """Return the region of all voxels of a Z Y X ``size``."""
        z, y, x = (int(n) for n in size)
        return cls((0, 0, 0), (z, y, x))

    @classmethod
    def at(cls, start: Sequence[int], size: Sequence[int]) -> Region:
        """Return the region of ``size`` voxels that begins at ``start``."""
        a, b, c = (int(s) for s in start)
        d, e, f = (int(n) for n in size)
        return cls((a, b, c), (a + d, b + e, c + f))

    @classmethod
    def parse(cls, text: str, size: Sequence[int]) -> Region:
        """Read ``"z0:z1,y0:y1,x0:x1"``; an empty bound means the border of ``size``.

        Raises
        ------
        DataError
            If the text is malformed, or the region is empty or not inside ``size``.
        """
        parts = text.split(",")
        try:
            if len(parts) != 3:
                raise ValueError
            bounds = []
            for part, n in zip(parts, size):
                low, colon, high = part.partition(":")
                if not colon:
                    raise ValueError
                bounds.append((int(low) if low.strip() else 0, int(high) if high.strip() else int(n)))
        except ValueError:
            raise DataError(f"region '{text}' is not of the form z0:z1,y0:y1,x0:x1") from None
        region = cls(
            (bounds[0][0], bounds[1][0], bounds[2][0]),
            (bounds[0][1], bounds[1][1], bounds[2][1]),
        )
        if region.empty or not region.inside(cls.whole(size)):
            raise DataError(
                f"region '{text}' is empty or not inside the volume of {tuple(size)} voxels (z, y, x)"
            )
        return region

    @property
    def size(self) -> Triple:
        """Voxels along z, y, x (0 where empty)."""
        z, y, x = (max(0, b - a) for a, b in zip(self.start, self.stop))
        return z, y, x

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        z, y, x = self.size
        return z * y * x

    @property
    def empty(self) -> bool:
        """Whether no voxel lies inside."""
        return self.voxels == 0

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Slices that cut this region out of a Z Y X array that begins at the origin."""
        z, y, x = (slice(a, b) for a, b in zip(self.start, self.stop))
        return z, y, x

    def __str__(self) -> str:
        return ",".join(f"{a}:{b}" for a, b in zip(self.start, self.stop))

    def _map(self, move: Callable[[int, int, int], tuple[int, int]]) -> Region:
        ends = [move(axis, a, b) for axis, (a, b) in enumerate(zip(self.start, self.stop))]
        return Region((ends[0][0], ends[1][0], ends[2][0]), (ends[0][1], ends[1][1], ends[2][1]))

    def grow(self, margin: Sequence[int]) -> Region:
        """Return the region widened by ``margin`` voxels (z, y, x) on both sides."""
        return self._map(lambda i, a, b: (a - margin[i], b + margin[i]))

    def shift(self, by: Sequence[int]) -> Region:
        """Return the region moved by ``by`` voxels (z, y, x)."""
        return self._map(lambda i, a, b: (a + by[i], b + by[i]))

    def clip(self, other: Region) -> Region:
        """Return the intersection with ``other`` (maybe empty)."""
        return self._map(
            lambda i, a, b: (
                min(max(a, other.start[i]), other.stop[i]),
                max(min(b, other.stop[i]), other.start[i]),
            )
        )

    def snap(self, grid: Sequence[int]) -> Region:
        """Return the smallest region that holds this one and begins and ends at multiples of ``grid``."""
        return self._map(lambda i, a, b: (a // grid[i] * grid[i], -(-b // grid[i]) * grid[i]))

    def inside(self, other: Region) -> bool:
        """Whether every voxel lies in ``other``."""
        return all(c <= a and b <= d for a, b, c, d in zip(self.start, self.stop, other.start, other.stop))

    def relative_to(self, other: Region) -> Region:
        """Return this region in the coordinates of an array that begins where ``other`` does."""
        return self.shift([-s for s in other.start])

    def split(self, size: Sequence[int]) -> Iterator[Region]:
        """Yield the blocks of a grid of ``size`` voxels anchored at the volume's origin, cut to this region."""
        starts = [range(a // n * n, b, n) for a, b, n in zip(self.start, self.stop, size)]
        for corner in product(*starts):
            yield Region.at(corner, size).clip(self)


Reader = Callable[[Region], Array]


@dataclass(frozen=True)
class Volume:
    """A lazy image.

    Attributes
    ----------
    reader
        ``reader(region)`` returns the voxels of a region that lies inside the volume, as an array of axes
        ``C Z Y X``. It must be safe to call from several threads and touch only that region.
    shape
        Channels and voxels along z, y, x.
    dtype
        What ``read`` returns, in native byte order.
    spacing
        Voxel size in µm along z, y, x; ``None`` where it is not known.
    channels
        One name per channel.
    chunks
        Voxels (z, y, x) of the unit in which the source is stored: aligned reads cost least.
    levels
        The same image at coarser resolutions, finest first, without this one.
    name
        For messages: a path or ``"array"``.
    format
        Registered name of the format that opened it.
    extra
        Facts of the source that ``aequorea info`` prints (compression, time points, ...).
    """

    reader: Reader = field(repr=False)
    shape: tuple[int, int, int, int]
    dtype: np.dtype[Any]
    spacing: Spacing | None = None
    channels: tuple[str, ...] = ()
    chunks: Triple = (64, 64, 64)
    levels: tuple[Volume, ...] = field(default=(), repr=False)
    name: str = "array"
    format: str = "array"
    extra: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.channels:
            object.__setattr__(self, "channels", tuple(f"channel {i}" for i in range(self.shape[0])))
        if len(self.channels) != self.shape[0]:
            raise DataError(f"{self.name}: {self.shape[0]} channels but {len(self.channels)} channel names")
        if np.dtype(self.dtype).kind == "c":
            raise DataError(f"{self.name}: complex numbers are no image; save the magnitude or phase instead")

    @property
    def size(self) -> Triple:
        """Voxels along z, y, x."""
        return self.shape[1:]

    @property
    def region(self) -> Region:
        """The region of all voxels."""
        return Region.whole(self.size)

    def read(self, region: Region | None = None) -> Array:
        """Return the voxels of a region (default: all) as a C-contiguous native array of axes ``C Z Y X``.

        Raises
        ------
        DataError
            If the region is not inside the volume.
        """
        region = self.region if region is None else region
        if not region.inside(self.region):
            raise DataError(f"{self.name}: region {region} is not inside {self.region}")
        if region.empty:
            return np.empty((self.shape[0], *region.size), self.dtype)
        block = np.asarray(self.reader(region))
        if block.shape != (self.shape[0], *region.size):
            raise DataError(
                f"{self.name}: read {block.shape} where {(self.shape[0], *region.size)} was asked for"
            )
        return np.ascontiguousarray(block, dtype=self.dtype)

    def crop(self, region: Region) -> Volume:
        """Return the lazy sub-volume of a region inside this one; its voxel (0, 0, 0) is ``region.start``."""
        if not region.inside(self.region) or region.empty:
            raise DataError(f"{self.name}: region {region} is empty or not inside {self.region}")
        return replace(
            self,
            reader=lambda part: self.read(part.shift(region.start)),
            shape=(self.shape[0], *region.size),
            levels=(),
        )

    def pick(self, channels: Sequence[int | str]) -> Volume:
        """Return the lazy volume of some channels, by number or name, in the given order.

        Raises
        ------
        DataError
            If a channel does not exist; the message lists those that do.
        """
        index = []
        for channel in channels:
            if isinstance(channel, str) and channel in self.channels:
                index.append(self.channels.index(channel))
            elif str(channel).isdigit() and int(channel) < self.shape[0]:
                index.append(int(channel))
            else:
                known = ", ".join(f"{i} '{name}'" for i, name in enumerate(self.channels))
                raise DataError(f"{self.name}: no channel '{channel}'; there are {known}")
        return replace(
            self,
            reader=lambda region: self.read(region)[index],
            shape=(len(index), *self.size),
            channels=tuple(self.channels[i] for i in index),
            levels=tuple(level.pick(index) for level in self.levels),
        )

    @cached_property
    def fingerprint(self) -> str:
        """A digest of shape, type, spacing and 27 small blocks: tells whether two volumes are the same data."""
        # In the middles of thirds: at corners many volumes hold nothing.
        thirds = (sorted({n * i // 6 for i in (1, 3, 5)}) for n in self.size)
        around = (Region((z, y - 16, x - 16), (z + 1, y + 16, x + 16)) for z, y, x in product(*thirds))
        return self._digest(self.read(block.clip(self.region)) for block in around)

    @cached_property
    def contents(self) -> str:
        """A digest of every voxel, for masks and labels, where a few of them matter; reads all of them."""
        return self._digest(self.blocks())

    def blocks(self) -> Iterator[Array]:
        """Yield all of the volume, a block of at most 64 x 512 x 512 voxels at a time, axes ``C Z Y X``."""
        return map(self.read, self.region.split((64, 512, 512)))

    def _digest(self, blocks: Iterable[Array]) -> str:
        digest = hashlib.sha256(repr((self.shape, self.dtype.str, self.spacing)).encode())
        for block in blocks:
            digest.update(block.tobytes())
        return digest.hexdigest()[:16]


def is_length(value: float | None) -> bool:
    """Whether a number can be a voxel's edge: finite and above 0."""
    return value is not None and math.isfinite(value) and value > 0


def from_array(
    array: Any, spacing: Spacing | None = None, channels: Sequence[str] = (), name: str = "array"
) -> Volume:
    """Wrap anything with ``shape``, ``dtype`` and slicing (NumPy, Dask, Zarr) as a volume.

    Parameters
    ----------
    array
        Axes ``Y X``, ``Z Y X`` or ``C Z Y X``; read only where a region is asked for.
    spacing
        Voxel size in µm (z, y, x).
    channels
        Channel names.
    name
        For messages.

    Raises
    ------
    DataError
        For other numbers of axes, empty arrays, types that are no numbers, and spacings that are none.
    """
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        raise DataError(f"{name}: a {type(array).__name__} is no array; files are opened by aequorea.open")
    if spacing is not None and (len(spacing) != 3 or not all(map(is_length, spacing))):
        raise DataError(f"{name}: spacing {spacing} is not three positive numbers in µm (z, y, x)")
    shape = tuple(int(n) for n in array.shape)
    dtype = np.dtype(array.dtype)
    if len(shape) not in (2, 3, 4):
        raise DataError(f"{name}: {len(shape)} axes where Y X, Z Y X or C Z Y X are expected")
    if 0 in shape:
        raise DataError(f"{name}: empty array of shape {shape}")
    if dtype.kind not in "biufc":
        raise DataError(f"{name}: values of type {dtype} are no intensities")
    full = (1,) * (4 - len(shape)) + shape

    def reader(region: Region) -> Array:
        index = region.slices if len(shape) >= 3 else region.slices[1:]
        block = np.asarray(array[(slice(None), *index) if len(shape) == 4 else index])
        return block.reshape(full[0], *region.size)

    chunks = getattr(array, "chunks", None)
    plain = isinstance(chunks, tuple) and len(chunks) >= 3 and all(isinstance(n, int) for n in chunks)
    return Volume(
        reader=reader,
        shape=(full[0], full[1], full[2], full[3]),
        dtype=dtype.newbyteorder("="),
        spacing=spacing,
        channels=tuple(channels),
        chunks=(chunks[-3], chunks[-2], chunks[-1]) if plain and chunks is not None else (64, 64, 64),
        name=name,
    )
