"""Choose places worth labelling: informative, and unlike each other.

The volume is looked at in blocks of the crop's size, at a coarse level where it has one. Each block is
described by brightness, local contrast, edges and grain, relative to the other blocks, so that neither units
nor outliers matter. Blocks with hardly any contrast are left out; among the others the one with most goes
first, and each next one is the block farthest from all chosen before, in description and in space (Gonzalez,
"Clustering to minimize the maximum intercluster distance", Theoretical Computer Science 38, 1985).

Each crop is written as an OME-TIFF image and an empty label, ready for napari or Fiji, with a line in
``crops.csv``; the intensity range of the whole volume goes into ``intensity.json``, so that a model trained on
crops sees them as it will see the volume. What 0 means in the label is said in the column ``unlabelled``: empty
where crops are painted wholly (0 is background, objects or classes begin at 1), 0 where they are painted with
strokes (0 is unlabelled, 1 is background, objects or classes begin at 2).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.random import Generator, Philox
from scipy import ndimage

from aequorea.engine.durable import write_file, write_json
from aequorea.errors import DataError
from aequorea.progress import track
from aequorea.signal.intensity import measure
from aequorea.volume import Array, Region, Spacing, Triple, Volume
from aequorea.workflows.dataset import INDEX, RANGES

MOST_BLOCKS = 400
"""Blocks looked at; of larger volumes a sample."""
LEAST_COARSE = 12
"""A level serves for choosing where a crop is still this many voxels wide."""
INFORMATIVE = 0.5
"""Share of the blocks, by contrast and edges, among which crops are chosen."""
FAINT = 0.25
"""A block with less than this share of the contrast that one block in ten reaches is taken only in want."""
MOST_ASKED = 48
"""Blocks for which a model is asked how unsure it is."""
NEIGHBOURHOOD = 9
"""Voxels across which contrast is local."""
WIDE = 8.0
"""Robust standard deviations across which blocks are told apart; those beyond are all alike."""
FAR = 0.5
"""What a distance across the whole volume counts against one across all of a description."""
COLUMNS = ("image", "label", "group", "unlabelled", "z", "y", "x")

Unsureness = Callable[[Region], float]


@dataclass(frozen=True)
class Crop:
    """One crop on disk.

    Attributes
    ----------
    region
        Where it was cut out of the volume.
    image, label
        Its files.
    """

    region: Region
    image: Path
    label: Path


def crops(
    volume: Volume,
    out: str | Path,
    *,
    name: str,
    n: int = 5,
    size: Triple = (48, 48, 48),
    seed: int = 0,
    strokes: bool = False,
    unsureness: Unsureness | None = None,
) -> list[Crop]:
    """Write crops worth labelling into a folder.

    Parameters
    ----------
    volume
        The image; all its channels are written.
    out
        A folder without crops in it; made where it is missing.
    name
        Stem of the files, and the specimen that they belong to.
    n, size, seed, unsureness
        As in :func:`choose`.
    strokes
        Whether 0 in the labels is to mean unlabelled.

    Returns
    -------
    list of Crop
        In the order chosen; fewer than ``n`` where the volume has no more places that are not constant.

    Raises
    ------
    DataError
        If the folder already holds crops, the disk does not take them, or nothing is worth labelling.
    """
    out = Path(out)
    if (out / INDEX).exists():
        raise DataError(f"{out}: already holds crops; choose another folder with --out")
    chosen = choose(volume, n=n, size=size, seed=seed, unsureness=unsureness)
    write_json(out / RANGES, {name: measure(volume).plain()})
    made, rows = [], []
    for region in chosen:
        z, y, x = region.start
        stem = f"{name}_z{z:04d}_y{y:04d}_x{x:04d}"
        crop = Crop(region, out / f"{stem}.ome.tif", out / f"{stem}_label.ome.tif")
        write_file(crop.image, ome_tiff(volume.read(region), volume.spacing, volume.channels))
        write_file(crop.label, ome_tiff(np.zeros((1, *region.size), np.uint16), volume.spacing, ("label",)))
        rows.append((crop.image.name, crop.label.name, name, "0" if strokes else "", z, y, x))
        made.append(crop)
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows(rows)
    write_file(out / INDEX, text.getvalue().encode())
    return made


def choose(
    volume: Volume,
    *,
    n: int = 5,
    size: Triple = (48, 48, 48),
    seed: int = 0,
    unsureness: Unsureness | None = None,
) -> list[Region]:
    """Return up to ``n`` places worth labelling that do not overlap.

    Parameters
    ----------
    volume
        The image.
    n
        How many.
    size
        Voxels along z, y, x; cut to the volume where it is larger.
    seed
        Moves the grid of blocks, and picks those looked at in large volumes.
    unsureness
        Says how unsure a model is in a region; the chosen are then among the most unsure.

    Raises
    ------
    DataError
        If ``n`` or the size is not positive, or no block has any contrast.
    """
    if n < 1 or min(size) < 1:
        raise DataError(f"{n} crops of {size} voxels (z, y, x): give positive numbers")
    rng = Generator(Philox(key=seed))
    blocks = _blocks(volume.size, size, rng)
    level = _level(volume, size)
    known = [(b, _describe(level, volume.size, b)) for b in track(blocks, "look", len(blocks), "block")]
    usable = [(block, numbers) for block, numbers in known if numbers is not None]
    if not usable:
        raise DataError(f"{volume.name}: all values are equal or not finite wherever it was looked at")
    regions = [block for block, _ in usable]
    ranks = _ranks(np.stack([numbers for _, numbers in usable]))
    worth = ranks[:, 1::4].max(1) + ranks[:, 2::4].max(1)
    contrast = np.stack([numbers[1::4] for _, numbers in usable])
    # Ranks do not tell how empty the emptier half is.
    shown = (contrast / np.maximum(np.quantile(contrast, 0.9, axis=0), 1e-12)).max(1) >= FAINT
    order = np.lexsort((-worth, ~shown))[: max(n, int(shown.sum()))]
    if unsureness is None:
        order = order[: max(n, round(INFORMATIVE * len(regions)))]
    else:
        order = order[:MOST_ASKED]
        asked = track(order, "ask", len(order), "block")
        doubt = np.array([unsureness(regions[index]) for index in asked])
        order = order[np.argsort(-doubt, kind="stable")][: max(n, len(order) // 3)]
    places = np.array([regions[index].start for index in order]) / np.array(volume.size)
    likeness = _standardised(np.stack([numbers for _, numbers in usable]))
    described = np.concatenate([likeness[order] / np.sqrt(likeness.shape[1]), FAR * places], axis=1)
    return [regions[order[index]] for index in _farthest(described, n)]


def _blocks(whole: Triple, size: Triple, rng: Generator) -> list[Region]:
    """Return blocks of a grid that begins at a random place, or a sample of them."""
    size = tuple(min(a, b) for a, b in zip(size, whole))  # type: ignore[assignment]
    counts = [a // b for a, b in zip(whole, size)]
    first = [int(rng.integers(0, a - k * b + 1)) for a, b, k in zip(whole, size, counts)]
    total = int(np.prod(counts, dtype=np.int64))
    chosen = (
        np.arange(total) if total <= MOST_BLOCKS else np.sort(rng.choice(total, MOST_BLOCKS, replace=False))
    )
    corners = np.stack(np.unravel_index(chosen, counts), 1) * size + first
    return [Region.at(corner, size) for corner in corners]


def _level(volume: Volume, size: Triple) -> Volume:
    """Return the coarsest level at which a crop still shows something."""
    chosen = volume
    for level in volume.levels:
        wide = [s * a / b for s, a, b in zip(size, level.size, volume.size)]
        if all(w >= LEAST_COARSE or a == b for w, a, b in zip(wide, level.size, volume.size)):
            chosen = level
    return chosen


def _describe(level: Volume, size: Triple, region: Region) -> Array | None:
    """Return four numbers per channel: mean, local contrast, edges, grain; ``None`` where nothing is seen."""
    scale = np.array(level.size) / np.array(size)
    low = np.floor(np.array(region.start) * scale).astype(int)
    high = np.maximum(np.ceil(np.array(region.stop) * scale).astype(int), low + 1)
    block = level.read(Region.at(low, high - low).clip(level.region)).astype(np.float32)
    if not np.isfinite(block).any():
        return None
    block[~np.isfinite(block)] = block[np.isfinite(block)].min()
    if all(np.ptp(channel) == 0 for channel in block):
        return None
    numbers: list[float] = []
    for channel in block:
        along = [n > 1 for n in channel.shape]
        smooth = ndimage.gaussian_filter(channel, [1.0 * a for a in along])
        local = smooth - ndimage.uniform_filter(smooth, [NEIGHBOURHOOD if a else 1 for a in along])
        contrast = float(np.subtract(*np.percentile(local, (95, 5))))
        # The root counts many edges for more than one strong one, such as the border of the specimen.
        edges = [np.sqrt(np.abs(np.diff(smooth, axis=axis))).mean() for axis, a in enumerate(along) if a]
        numbers += [float(channel.mean()), contrast, float(sum(edges)), float((channel - smooth).std())]
    return np.array(numbers)


def _ranks(numbers_NF: Array) -> Array:
    """Return each number's place among those of its column, 0 to 1; equal numbers get equal places."""
    below = [np.searchsorted(np.sort(column), column) for column in numbers_NF.T]
    return np.stack(below, 1) / max(1, len(numbers_NF) - 1)


def _standardised(numbers_NF: Array) -> Array:
    """Return each number's distance from its column's median, 0 to 1 across ``WIDE`` robust deviations."""
    away = numbers_NF - np.median(numbers_NF, axis=0)
    deviation = 1.4826 * np.median(np.abs(away), axis=0)
    scale = np.where(deviation > 0, deviation, away.std(axis=0) + 1e-12)
    return np.asarray(np.clip(away / scale, -WIDE / 2, WIDE / 2) / WIDE)


def _farthest(points_NF: Array, n: int) -> list[int]:
    """Return the first point and then, each time, the one farthest from all returned before."""
    chosen = [0]
    away = np.linalg.norm(points_NF - points_NF[0], axis=1)
    while len(chosen) < min(n, len(points_NF)):
        # Places differ between blocks, so a point not chosen yet is never at distance 0.
        chosen.append(int(np.argmax(away)))
        away = np.minimum(away, np.linalg.norm(points_NF - points_NF[chosen[-1]], axis=1))
    return chosen


def ome_tiff(image_CZYX: Array, spacing: Spacing | None, channels: tuple[str, ...]) -> bytes:
    """Return the bytes of an OME-TIFF; types that OME does not know become the nearest that it does."""
    words: dict[str, Any] = {"axes": "CZYX", "Channel": {"Name": list(channels)}}
    for axis, size in zip("ZYX", spacing or ()):
        words[f"PhysicalSize{axis}"], words[f"PhysicalSize{axis}Unit"] = size, "µm"
    kind = image_CZYX.dtype
    if kind.kind == "b":
        image_CZYX = image_CZYX.astype(np.uint8)
    elif kind == np.float16 or kind.itemsize == 8:
        image_CZYX = image_CZYX.astype(np.float32 if kind.kind == "f" else np.dtype(f"{kind.kind}4"))
    file = io.BytesIO()
    with tifffile.TiffWriter(file, ome=True) as writer:
        writer.write(image_CZYX, photometric="minisblack", compression="zlib", metadata=words)
    return file.getvalue()
