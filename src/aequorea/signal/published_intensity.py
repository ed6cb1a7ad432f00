"""How published networks scale their images, as the intensity range that this package scales by."""

from __future__ import annotations

import numpy as np

from aequorea.errors import SpecError, nearest
from aequorea.signal.intensity import ChannelIntensity, Intensity
from aequorea.volume import Array, Volume

LOW, HIGH = 2.0, 99.8
HEADROOM = 1.1
BLOCK = (32, 512, 512)
KINDS = ("range", "percentiles", "counts", "highest")


def published_intensity(image: Volume, kind: str) -> Intensity:
    """Return the range by which a published network's image is scaled.

    Parameters
    ----------
    image
        As it was read. Percentiles of types of more than 16 bits take all of it in memory.
    kind
        ``range``: least to most is 0 to 1. ``percentiles``: 2nd to 99.8th of all voxels is 0 to 1. ``highest``: 0 to
        1.1 times the most is -1 to 1. ``counts``: the image as it is.

    Raises
    ------
    SpecError
        For other kinds.
    """
    if kind not in KINDS:
        raise SpecError(f"no normalisation is called '{kind}'; {nearest(kind, KINDS)}")
    channels = []
    for index in range(image.shape[0]):
        channel = image.pick([index])
        parts = (_finite(channel.read(region)) for region in channel.region.split(BLOCK))
        ends = [(float(part.min()), float(part.max())) for part in parts if part.size]
        least = min((low for low, _ in ends), default=0.0)
        most = max((high for _, high in ends), default=0.0)
        low, high = least, most
        if kind == "percentiles" and ends:
            low, high = _percentiles(channel)
        elif kind == "highest":
            low, high = HEADROOM * most / 2, HEADROOM * most
        elif kind == "counts":
            low, high = 0.0, 1.0
        channels.append(
            ChannelIntensity(low=low, high=high, minimum=least, maximum=most, voxels=image.region.voxels)
        )
    return Intensity(channels=tuple(channels), cut=False)


def _finite(block: Array) -> Array:
    """Return the voxels that float32 holds, in one row; of a mask, 0 and 1."""
    numbers = block.view(np.uint8) if block.dtype == bool else block
    if block.dtype.kind == "f":
        with np.errstate(over="ignore"):
            numbers = block.astype(np.float32)
    found: Array = numbers[np.isfinite(numbers)]
    return found


def _percentiles(channel: Volume) -> tuple[float, float]:
    """Return both percentiles of a channel; exact, of whole numbers of up to 16 bits by counting each."""
    if channel.dtype.kind not in "iu" or channel.dtype.itemsize > 2:
        low, high = np.percentile(_finite(channel.read()), [LOW, HIGH])
        return float(low), float(high)
    first = int(np.iinfo(channel.dtype).min)
    counts = np.zeros(1 << 8 * channel.dtype.itemsize, np.int64)
    for region in channel.region.split(BLOCK):
        values = channel.read(region).ravel().astype(np.int64) - first
        counts += np.bincount(values, minlength=len(counts))
    until = np.cumsum(counts)
    found = []
    for percent in (LOW, HIGH):
        rank = percent / 100 * (until[-1] - 1)
        below, above = (np.searchsorted(until, k, side="right") for k in (np.floor(rank), np.ceil(rank)))
        found.append(first + float(below + (above - below) * (rank - np.floor(rank))))
    return found[0], found[1]
