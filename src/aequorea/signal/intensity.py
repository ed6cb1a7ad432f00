"""The intensity range of a whole volume, and the scaling of any part of it by that range.

Percentiles are of the whole image, never of a tile. They are exact: voxels are counted by the upper 16 bits
of their number format, and where that is not all of a number, the few bins in which the wanted ranks lie are
counted again by the lower 16 bits. So there is no bin width to choose, no outlier spoils it, and neither the
size nor the order of the blocks changes a digit. Types of up to 16 bits are read once, others twice; doubles
and whole numbers of more than 16 bits are rounded to float32 first; less than 1e-40 is zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aequorea.progress import Progress
from aequorea.specs import Spec
from aequorea.volume import Array, Region, Triple, Volume, from_array

LOW_PERCENT = 1.0
HIGH_PERCENT = 99.8
CLIP = (-1.0, 8.0)
UNCUT = (-3e38, 3e38)
SAFE = (1e-30, 1e30)  # ranges that float32 divides by without loss
BARS = 32
CODES = 1 << 16
COUNTED_AT_ONCE = 1 << 18
BLOCK_VOXELS = 1 << 23
THREADS = 2
PLACES: Triple = (3, 4, 4)
"""Blocks along z, y, x that :func:`places` looks at."""
SIDE = 48
"""Voxels along an edge of such a block."""

Counts = NDArray[np.int64]
Values = NDArray[np.float64]
Count = Callable[[int, Array], Counts]
"""Of the voxels of a channel of some number."""
Total = Callable[[str, list[Region], Count], Counts]


class ChannelIntensity(Spec):
    """The range of one channel without exact zeros (padding) and non-finite voxels; all 0 if none are left.

    Attributes
    ----------
    low, high
        The 1st and the 99.8th percentile.
    minimum, maximum
        Of the voxels counted.
    voxels
        How many were counted.
    left_out
        How many were zero or not finite.
    bars
        Counts in 32 equal steps from ``low`` to ``high``, what lies outside in the first and last.
    """

    low: float = 0.0
    high: float = 0.0
    minimum: float = 0.0
    maximum: float = 0.0
    voxels: int = 0
    left_out: int = 0
    bars: tuple[int, ...] = ()


class Intensity(Spec):
    """The range of a volume by channel; ``plain()`` and ``parse()`` make and read JSON-ready data."""

    channels: tuple[ChannelIntensity, ...]
    cut: bool = True
    """Whether what lies far outside of the range is cut off; published networks do not."""


def measure(volume: Volume, *, progress: bool = True, total: Total | None = None) -> Intensity:
    """Return the intensity range of a whole volume, reading it block by block with two threads.

    Parameters
    ----------
    volume
        Any type; read once, or twice where a voxel has more than 16 bits.
    progress
        Whether a live line is shown.
    total
        In place of :func:`count_all`: adds up counts over the regions given, under a name.

    Returns
    -------
    Intensity
        Equal to ``numpy.percentile`` of the voxels that are finite and not zero.
    """
    regions = list(volume.region.split(_block(volume)))

    def added(name: str, count: Count) -> Counts:
        if total is not None:
            return total(name, regions, count)
        return count_all(volume, regions, count, progress=progress)

    upper = added("upper", lambda _, channel: count_upper(channel))
    values = _upper_values(volume.dtype)
    orders = [_Order(values, counts) for counts in upper]
    if volume.dtype.itemsize > 2:
        bins = [order.bins(_ranks(order.voxels)) for order in orders]
        most = max(len(found) for found in bins)
        lower = added("lower", lambda index, channel: _count_lower(channel, bins[index], most))
        for order, found, counts in zip(orders, bins, lower):
            order.refine(found, counts)
    return Intensity(channels=tuple(_summary(order, volume.region.voxels) for order in orders))


def count_all(volume: Volume, regions: Sequence[Region], count: Count, *, progress: bool = True) -> Counts:
    """Return the sum over regions of what ``count(channel, voxels)`` finds in each; axes channel, then its own."""

    def of(region: Region) -> Counts:
        return np.stack([count(index, channel.ravel()) for index, channel in enumerate(volume.read(region))])

    added: Counts | None = None
    bar = Progress("intensity", sum(region.voxels for region in regions), "voxel") if progress else None
    with bar or nullcontext(), ThreadPoolExecutor(THREADS) as pool:
        for region, counts in zip(regions, pool.map(of, regions)):
            added = counts if added is None else added + counts
            if bar is not None:
                bar.advance(region.voxels)
    assert added is not None  # a volume has voxels
    return added


def sampled(volume: Volume) -> Intensity:
    """Return the intensity range of :func:`places`: of a volume too large, or a look too short, to count all."""
    return measure(places(volume))


def places(volume: Volume) -> Volume:
    """Return blocks on a coarse grid as one volume; a small volume as it is."""
    if volume.region.voxels <= math.prod(PLACES) * SIDE**3:
        return volume
    size = [min(n, SIDE) for n in volume.size]
    starts = [np.linspace(0, max(0, n - SIDE), k, dtype=int).tolist() for n, k in zip(volume.size, PLACES)]
    parts = [volume.read(Region.at(corner, size)) for corner in product(*starts)]
    return from_array(np.concatenate(parts, axis=1))


def normalise(block: Array, intensity: Intensity) -> NDArray[np.float32]:
    """Return ``(block - low) / (high - low)``, cut to [-1, 8] where it says so; 0 where a voxel is not finite.

    Parameters
    ----------
    block
        Axes ``C Z Y X``, any type. What lies outside of a volume is 0 *after* this.
    intensity
        Of the whole volume, as many channels.

    Returns
    -------
    ndarray
        float32, same axes; zeros in a channel whose ``low`` and ``high`` do not differ.

    Raises
    ------
    ValueError
        If the numbers of channels differ.
    """
    if len(block) != len(intensity.channels):
        raise ValueError(f"{len(block)} channels where intensities are known of {len(intensity.channels)}")
    limits = CLIP if intensity.cut else UNCUT
    out = np.zeros(block.shape, np.float32)
    for channel, scaled, about in zip(block, out, intensity.channels):
        span = about.high - about.low
        if not span > 0:
            continue
        single = channel.dtype.itemsize <= 2 or channel.dtype == np.float32
        with np.errstate(over="ignore", invalid="ignore"):
            for plane, target in zip(channel, scaled):  # plane by plane: stays in the cache
                if single and SAFE[0] < span < SAFE[1]:
                    np.copyto(target, plane)
                    target -= np.float32(about.low)
                    target *= np.float32(1 / span)
                else:
                    target[...] = np.clip((plane.astype(np.float64) - about.low) / span, *limits)
                np.clip(target, *limits, out=target)
                if plane.dtype.kind == "f":
                    finite = np.isfinite(plane)
                    if not finite.all():
                        target[~finite] = 0
    return out


class _Order:
    """Distinct values from the lowest to the highest and how often each occurs."""

    def __init__(self, values: Values, counts: Counts) -> None:
        self.kept = np.flatnonzero(np.isfinite(values) & (values != 0) & (counts > 0))
        self.kept = self.kept[np.argsort(values[self.kept])]
        self.values = values[self.kept]
        self.counts = counts[self.kept]
        self.until = np.cumsum(self.counts)
        self.voxels = int(self.counts.sum())
        self._exact: dict[int, float] = {}

    def bins(self, ranks: list[int]) -> list[int]:
        """Return the upper codes (ascending, each once) in which values of some ranks lie."""
        return sorted({int(self.kept[self._index(rank)]) for rank in ranks})

    def refine(self, bins: list[int], lower: Counts) -> None:
        """Learn what is in some bins; ``lower`` has a row for each, counted by lower code."""
        for code, counts in zip(bins, lower):
            position = int(np.flatnonzero(self.kept == code)[0])
            bits = (np.uint32(code) << np.uint32(16)) | np.flatnonzero(counts).astype(np.uint32)
            values = bits.view(np.float32).astype(np.float64)
            inside = _Order(values, counts[np.flatnonzero(counts)])
            before = int(self.until[position] - self.counts[position])
            for rank in _ranks(self.voxels):
                if before <= rank < self.until[position]:
                    self._exact[rank] = inside.at(rank - before)

    def at(self, rank: int) -> float:
        """Return the value of a rank, counted from 0."""
        if rank in self._exact:
            return self._exact[rank]
        return float(self.values[self._index(rank)])

    def percentile(self, percent: float) -> float:
        """Return a percentile, interpolated linearly between neighbouring ranks."""
        place = (self.voxels - 1) * (percent / 100)
        below, above = self.at(math.floor(place)), self.at(math.ceil(place))
        return below + (above - below) * (place - math.floor(place))

    def _index(self, rank: int) -> int:
        return int(np.searchsorted(self.until, rank, side="right"))


def _ranks(voxels: int) -> list[int]:
    """Return the ranks that the summary asks for."""
    if not voxels:
        return []
    places = [(voxels - 1) * (percent / 100) for percent in (LOW_PERCENT, HIGH_PERCENT)]
    return sorted({0, voxels - 1, *map(math.floor, places), *map(math.ceil, places)})


def _summary(order: _Order, voxels: int) -> ChannelIntensity:
    if not order.voxels:
        return ChannelIntensity(left_out=voxels)
    low, high = order.percentile(LOW_PERCENT), order.percentile(HIGH_PERCENT)
    bars = np.zeros(BARS, np.int64)
    if high > low:
        step = np.clip((order.values - low) / (high - low) * BARS, 0, BARS - 1).astype(np.intp)
        np.add.at(bars, step, order.counts)
    return ChannelIntensity(
        low=low,
        high=high,
        minimum=order.at(0),
        maximum=order.at(order.voxels - 1),
        voxels=order.voxels,
        left_out=voxels - order.voxels,
        bars=tuple(bars.tolist()) if high > low else (),
    )


def _upper_values(dtype: np.dtype[Any]) -> Values:
    """Return the value of each code of the upper 16 bits (of all bits, where there are no more)."""
    codes: Array
    if dtype.itemsize == 1:
        codes = np.arange(256, dtype=np.uint8).view(np.uint8 if dtype.kind == "b" else dtype)
    elif dtype.itemsize == 2:
        codes = np.arange(CODES, dtype=np.uint16).view(dtype)
    else:
        codes = (np.arange(CODES, dtype=np.uint32) << np.uint32(16)).view(np.float32)
    with np.errstate(invalid="ignore"):  # signalling NaNs are among them
        return codes.astype(np.float64)


def count_upper(flat: Array) -> Counts:
    """Count by value of 16 bits at most, or by the upper 16 bits of float32; in parts that stay in the cache."""
    bins = 256 if flat.itemsize == 1 else CODES
    counts = np.zeros(bins, np.int64)
    for piece in _pieces(flat):
        if flat.itemsize <= 2:
            counts += np.bincount(piece.view(f"u{flat.itemsize}"), minlength=bins)
        else:
            counts += np.bincount(_bits(piece) >> np.uint32(16), minlength=bins)
    return counts


def _count_lower(flat: Array, codes: list[int], rows: int) -> Counts:
    """Count by the lower 16 bits what has one of some upper codes; a row a code."""
    counts = np.zeros((rows, CODES), np.int64)
    for piece in _pieces(flat):
        bits = _bits(piece)
        upper, lower = (bits >> np.uint32(16)).astype(np.uint16), bits.astype(np.uint16)
        for row, code in enumerate(codes):
            counts[row] += np.bincount(lower[upper == code], minlength=CODES)
    return counts


def _bits(piece: Array) -> NDArray[np.uint32]:
    with np.errstate(over="ignore", invalid="ignore"):
        return piece.astype(np.float32, copy=False).view(np.uint32)


def _pieces(flat: Array) -> Iterator[Array]:
    """Yield parts that stay in the cache."""
    for start in range(0, len(flat), COUNTED_AT_ONCE):
        yield flat[start : start + COUNTED_AT_ONCE]


def _block(volume: Volume) -> Triple:
    """Return voxels (z, y, x) of what is read at once: whole chunks, about cubic, a few million."""
    block = [min(c, n) for c, n in zip(volume.chunks, volume.size)]
    while math.prod(block) * volume.shape[0] < BLOCK_VOXELS and any(
        b < n for b, n in zip(block, volume.size)
    ):
        axis = min((i for i in range(3) if block[i] < volume.size[i]), key=lambda i: block[i])
        block[axis] = min(2 * block[axis], volume.size[axis])
    return block[0], block[1], block[2]
