"""What was understood of a file: format, axes, spacing, channels, levels, intensities.

Of a large volume only blocks spread over it are read, and the text says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from aequorea.progress import quantity
from aequorea.volume import Array, Region, Volume
from aequorea.workflows.open import format_of, open

_BLOCK = (16, 128, 128)
_ALL_BELOW = 2**24
_BINS = 10
_BAR = 40


@dataclass(frozen=True)
class Intensity:
    """Values of one channel.

    Attributes
    ----------
    low, p1, median, p99, high
        Of the finite values; ``None`` where there are none.
    zero, nonfinite
        Shares of voxels that are exactly 0, and NaN or infinite.
    edges, counts
        Histogram of the finite values; the last bin holds what lies above it too.
    """

    low: float | None
    p1: float | None
    median: float | None
    p99: float | None
    high: float | None
    zero: float
    nonfinite: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Info:
    """Facts of a volume, JSON-ready in ``facts``, and as lines in ``text``."""

    facts: dict[str, Any]
    text: str


def info(source: Any, **options: Any) -> Info:
    """Return what is understood of a file or volume.

    Parameters
    ----------
    source
        As for :func:`aequorea.open`. Where a file holds several scenes or time points and none is picked, the
        first is described and all are counted.
    **options
        As for :func:`aequorea.open`.

    Raises
    ------
    FormatError
        As :func:`aequorea.open`.
    """
    scenes: list[str] = []
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        scenes = [found["scene"] for found in format_of(path).list(path) if "scene" in found]
        if len(scenes) > 1 and options.get("scene") is None and options.get("dataset") is None:
            options["scene"] = scenes[0]
        if options.get("time") is None:
            options["time"] = 0
        volume = open(path, **options)
    else:
        volume = open(source, **options)
    values, share = _sampled(volume)
    intensities = [_intensity(channel) for channel in values]
    facts = _facts(volume, scenes, intensities, share)
    return Info(facts, _text(volume, facts, intensities, share))


def _facts(volume: Volume, scenes: list[str], intensities: list[Intensity], share: float) -> dict[str, Any]:
    return {
        "name": volume.name,
        "format": volume.format,
        "axes": "CZYX",
        "shape": list(volume.shape),
        "dtype": str(volume.dtype),
        "spacing": None if volume.spacing is None else list(volume.spacing),
        "channels": list(volume.channels),
        "chunks": list(volume.chunks),
        "levels": [list(v.size) for v in (volume, *volume.levels)],
        "bytes": int(np.prod(volume.shape, dtype=object)) * volume.dtype.itemsize,
        "scenes": scenes if len(scenes) > 1 else [],
        "read": share,
        "intensity": [vars(intensity) for intensity in intensities],
        **volume.extra,
    }


def _sampled(volume: Volume) -> tuple[list[Array], float]:
    """Return flat values per channel, of the whole or of 27 blocks spread over it, and the share read."""
    voxels = volume.shape[0] * volume.region.voxels
    if voxels <= _ALL_BELOW:
        return list(volume.read().reshape(volume.shape[0], -1)), 1.0
    size = [min(a, b) for a, b in zip(_BLOCK, volume.size)]
    starts = [sorted({0, (n - m) // 2, n - m}) for n, m in zip(volume.size, size)]
    blocks = [
        volume.read(Region.at(corner, size)).reshape(volume.shape[0], -1) for corner in product(*starts)
    ]
    values = np.concatenate(blocks, axis=1)
    return list(values), values.size / voxels


def _intensity(values: Array) -> Intensity:
    numbers = values.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    nonfinite = 1 - finite.size / numbers.size
    if finite.size == 0:
        return Intensity(None, None, None, None, None, 0.0, nonfinite, (), ())
    low, p1, median, p99, high = (float(v) for v in np.percentile(finite, [0, 1, 50, 99, 100]))
    # one far outlier must not squeeze everything into one bin
    top = high if high - p99 <= 10 * max(p99 - low, 1e-12) else p99
    span = (low, top) if top > low else (low - 0.5, low + 0.5)
    counts, edges = np.histogram(np.minimum(finite, top), bins=_BINS if top > low else 1, range=span)
    return Intensity(
        low,
        p1,
        median,
        p99,
        high,
        float(np.mean(numbers == 0)),
        nonfinite,
        tuple(float(e) for e in edges),
        tuple(int(c) for c in counts),
    )


def _text(volume: Volume, facts: dict[str, Any], intensities: list[Intensity], share: float) -> str:
    c, z, y, x = volume.shape
    spacing = volume.spacing
    known = volume.extra.get("spacing", "the file does not say")
    if spacing is None:
        told = f"unknown ({known}; give --spacing Z,Y,X in µm)"
        extent = None
    else:
        told = ", ".join(f"{s:.5g}" for s in spacing) + " µm (z, y, x)"
        extent = " x ".join(f"{s * n:.4g}" for s, n in zip(spacing, volume.size)) + " µm"
    rows = [
        ("format", volume.format),
        ("shape", f"{c} x {z} x {y} x {x} (C Z Y X)"),
        ("dtype", str(volume.dtype)),
        ("spacing", told),
        ("extent", extent),
        ("channels", ", ".join(f"{i} '{name}'" for i, name in enumerate(volume.channels))),
        ("levels", ", ".join(" x ".join(map(str, size)) for size in facts["levels"])),
        ("chunks", " x ".join(map(str, volume.chunks))),
        ("size", f"{quantity(facts['bytes'])}B in memory"),
        *(
            (word, text)
            for word, text in volume.extra.items()
            if word not in ("spacing", "time points", "scenes")
        ),
    ]
    if "time points" in volume.extra:
        last = int(volume.extra["time points"]) - 1
        rows.append(("time points", f"{last + 1}: pick one with --time 0 to --time {last}"))
    if facts["scenes"]:
        named = ", ".join(facts["scenes"][:8]) + (", ..." if len(facts["scenes"]) > 8 else "")
        rows.append(("scenes", f"{len(facts['scenes'])}: {named}; pick one with --scene"))
    lines = [volume.name, *(f"  {word:<12} {text}" for word, text in rows if text)]
    read = (
        "all voxels" if share == 1 else f"{100 * share:.2g} % of the voxels, in blocks spread over the volume"
    )
    lines.append(f"  {'intensity':<12} from {read}; bars show the logarithm of the count")
    for name, intensity in zip(volume.channels, intensities):
        lines += _histogram(name, intensity)
    return "\n".join(lines)


def _histogram(name: str, intensity: Intensity) -> list[str]:
    if not intensity.counts:
        return [f"  {name}: no finite value"]
    line = (
        f"  {name}: {intensity.low:.5g} to {intensity.high:.5g}, 1 % below {intensity.p1:.5g}, "
        f"median {intensity.median:.5g}, 99 % below {intensity.p99:.5g}"
    )
    if intensity.zero:
        line += f", {100 * intensity.zero:.2g} % zero"
    if intensity.nonfinite:
        line += f", {100 * intensity.nonfinite:.2g} % not finite"
    tallest = np.log1p(max(intensity.counts))
    bars = []
    for low, high, count in zip(intensity.edges, intensity.edges[1:], intensity.counts):
        bar = "#" * round(_BAR * float(np.log1p(count) / tallest))
        above = intensity.high is not None and high < intensity.high and high == intensity.edges[-1]
        upto = "and above" if above else f"to {high:.5g}"
        bars.append(f"    {low:>10.5g} {upto:<13} {bar} {quantity(count)}")
    return [line, *bars]
