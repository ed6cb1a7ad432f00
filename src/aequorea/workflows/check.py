"""Look through a dataset before it is learnt from, and say what is wrong, a line each.

Errors are what stops or ruins training: files that do not fit, labels without anything in them, a specimen on
both sides of the split. Warnings are what may be meant: objects in several pieces, labels that seem shifted,
images much brighter than the others, cut-off intensities, spacing that nobody gave.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage

from aequorea.annotations import LabelImage, Points
from aequorea.errors import AequoreaError
from aequorea.progress import track
from aequorea.volume import Array, Region, Spacing, Volume
from aequorea.workflows.dataset import Entry, Item, Kind, an, entries, read

MOST_VOXELS = 2**26
"""Of larger images the middle is looked at."""
FEW_VOXELS = 50
"""A class with fewer labelled voxels is warned of."""
SHIFT = 2
"""Voxels by which a label must seem shifted along an axis to be warned of."""
REACH = 8
"""Voxels by which a label is tried to be shifted."""
CLEARER = 1.25
"""So many times better must the label's borders fit the image shifted than as they are."""
SATURATED = 0.002
"""Share of voxels at the largest value from which an image is called cut off."""
APART = 4.0
"""Factor by which an image's range may differ from the others'."""

UNPAINTED = "nothing painted yet: it will be left out (or was it saved under another name?)"


@dataclass(frozen=True)
class Finding:
    """Something that is wrong or may be.

    Attributes
    ----------
    level
        ``"error"`` or ``"warning"``.
    where
        The file or item.
    text
        What it is and what to do.
    """

    level: Literal["error", "warning"]
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.level}: {self.where}: {self.text}"


def check(
    path: str | Path,
    *,
    kind: Kind = "label",
    unlabelled: int | None = None,
    spacing: Spacing | None = None,
    axes: str | None = None,
    channel: str | None = None,
) -> tuple[list[Finding], int]:
    """Look through a dataset.

    Parameters
    ----------
    path, kind, unlabelled, spacing, axes, channel
        As in :func:`aequorea.workflows.dataset.dataset`.

    Returns
    -------
    list of Finding
        Errors first.
    int
        How many images were looked at.

    Raises
    ------
    DataError
        If the path is no dataset at all.
    """
    found = entries(path, kind=kind)
    findings = _sides(found)
    items: list[Item] = []
    ranges: dict[str, list[float]] = {}
    for entry in track(found, "check", len(found), "image"):
        if entry.label is None:
            findings.append(Finding("warning", str(entry.image), f"no {kind}: it will be left out"))
            continue
        try:
            item = read(entry, kind=kind, unlabelled=unlabelled, spacing=spacing, axes=axes, channel=channel)
            part = _middle(item.image)
            block = item.image.read(part)
            findings += [Finding(level, str(entry.image), text) for level, text in _image(item.image, block)]
            findings += [Finding(level, str(entry.label), text) for level, text in _label(item, block, part)]
        except AequoreaError as error:
            findings.append(Finding("error", entry.name, str(error)))
            continue
        items.append(item)
        ranges[entry.name] = [float(np.subtract(*np.nanpercentile(b, (99, 1)))) for b in block]
    findings += _brightness(ranges) + _spacings(items) + _copies(items)
    labelled = [item.annotation for item in items if isinstance(item.annotation, LabelImage)]
    marked = [known for known in labelled if known.unlabelled is not None]
    if marked and not any((block == k.unlabelled).any() for k in marked for block in k.volume.blocks()):
        findings.append(
            Finding(
                "warning", str(path), f"no label is {marked[0].unlabelled}, the value of unlabelled voxels"
            )
        )
    if not any(entry.label is not None for entry in found):
        findings.append(Finding("error", str(path), f"none of {len(found)} images has {an(kind)}"))
    elif len(found) == sum(finding.text == UNPAINTED for finding in findings):
        findings.append(Finding("error", str(path), f"none of {len(found)} crops is painted yet"))
    return sorted(findings, key=lambda finding: finding.level), len(found)


def _middle(volume: Volume) -> Region:
    """Return the whole volume or, where it is large, a box in its middle."""
    size = np.array(volume.size)
    while volume.shape[0] * np.prod(size, dtype=np.int64) > MOST_VOXELS:
        size[np.argmax(size)] = -(-size.max() // 2)
    return Region.at(((np.array(volume.size) - size) // 2).tolist(), size.tolist())


def _sides(found: Sequence[Entry]) -> list[Finding]:
    splits: dict[str, set[str]] = defaultdict(set)
    for entry in found:
        splits[entry.group].add(entry.split or "train")
    marked = any(entry.split for entry in found)
    return [
        Finding(
            "error",
            group,
            f"one specimen on both sides of the split ({', '.join(sorted(sides))}): keep it on one",
        )
        for group, sides in splits.items()
        if marked and len(sides) > 1
    ]


Said = list[tuple[Literal["error", "warning"], str]]


def _image(image: Volume, block: Array) -> Said:
    said: Said = []
    finite = np.isfinite(block) if block.dtype.kind == "f" else np.ones((), bool)
    if not finite.all():
        said.append(
            ("warning", f"{np.mean(~finite):.1%} of its values are not finite; they count as the darkest")
        )
    for name, channel in zip(image.channels, block):
        where = f"{name}: " if len(block) > 1 else ""
        values = channel[np.isfinite(channel)]
        if values.size == 0 or values.min() == values.max():
            said.append(("error", f"{where}all values are equal: there is nothing to see"))
            continue
        share = float(np.mean(values == values.max()))
        if share > SATURATED and np.unique(values).size > 2:
            said.append(
                ("warning", f"{where}{share:.1%} of the voxels are cut off at {values.max():g} (saturated)")
            )
    return said


def _label(item: Item, block: Array, part: Region) -> Said:
    annotation = item.annotation
    if isinstance(annotation, Points):
        size = item.image.size
        outside = int(
            (~np.all((annotation.zyx >= -0.5) & (annotation.zyx < np.array(size) - 0.5), axis=1)).sum()
        )
        said: Said = [("error", "no points in it")] if not len(annotation.zyx) else []
        if outside:
            said.append(("error", f"{outside} points lie outside the image of {size} voxels (z, y, x)"))
        return said
    if not isinstance(annotation, LabelImage):
        return []
    labels = annotation.crop(part, item.image.size).volume.read()[0]
    known = np.ones(labels.shape, bool) if annotation.unlabelled is None else labels != annotation.unlabelled
    background = 1 if annotation.unlabelled == 0 else 0
    if labels.min() < 0 and (annotation.unlabelled is None or annotation.unlabelled >= 0):
        return [("error", f"negative values ({labels.min()}); mark unlabelled voxels with --unlabelled")]
    values, counts = np.unique(labels[known], return_counts=True)
    objects = values[values != background]
    if not len(objects):
        return [_empty(item, len(values))]
    said = []
    pieces = _pieces(labels, objects)
    if pieces is not None:
        torn = [f"{value} ({count})" for value, count in pieces.items() if count > 1]
        if torn:
            more = ", ..." if len(torn) > 6 else ""
            said.append(
                ("warning", f"ids in several pieces: {', '.join(torn[:6])}{more}; one number, one object")
            )
    else:
        said += [
            ("warning", f"only {count} labelled voxels of class {value}: label more of it")
            for value, count in zip(values, counts)
            if count < FEW_VOXELS
        ]
    if labels.shape == block.shape[1:]:
        shift = estimate_shift(block, labels, known)
        if shift is not None:
            z, y, x = shift
            said.append(
                (
                    "warning",
                    f"seems shifted against its image: z {z:+d}, y {y:+d}, x {x:+d} voxels would fit better",
                )
            )
    return said


def _empty(item: Item, values: int) -> tuple[Literal["error", "warning"], str]:
    if item.offset is not None:
        return "warning", UNPAINTED
    if values:
        return "error", "empty: only background is labelled"
    return "error", "empty: every voxel is unlabelled"


def _pieces(labels: Array, values: Array) -> dict[int, int] | None:
    """Return the pieces that each object is in, or ``None`` where values seem to be classes.

    Values are taken for object numbers where there are more than three and most are in one piece.
    """
    if len(values) <= 3 or labels.dtype.kind == "b":
        return None
    numbered = np.searchsorted(values, labels) + 1
    numbered[~np.isin(labels, values)] = 0
    pieces = {
        int(value): int(ndimage.label(numbered[box] == number, np.ones((3, 3, 3)))[1])
        for number, (value, box) in enumerate(zip(values, ndimage.find_objects(numbered)), 1)
    }
    whole = sum(count == 1 for count in pieces.values())
    return pieces if whole >= 0.7 * len(pieces) else None


def estimate_shift(image_CZYX: Array, labels_ZYX: Array, known_ZYX: Array) -> tuple[int, int, int] | None:
    """Return by how many voxels (z, y, x) a label should be moved to fit its image, where that is clear.

    The borders between labels are correlated, at every shift up to ``REACH`` voxels, with the image's edges
    (for stained objects) and with its ridges (for stained borders). What correlates better decides: its best
    shift counts if it is longer than ``SHIFT`` along an axis and ``CLEARER`` than none.

    Parameters
    ----------
    image_CZYX
        The image.
    labels_ZYX
        Label values.
    known_ZYX
        Where they were given; borders of the unlabelled are no borders.
    """
    border = _borders(labels_ZYX, known_ZYX)
    if not border.any():
        return None
    edges, ridges = np.zeros((2, *border.shape), np.float32)
    wide = [1.0 if n > 1 else 0.0 for n in border.shape]
    for channel in image_CZYX:
        values = np.nan_to_num(channel.astype(np.float32))
        low, high = np.percentile(values, (1, 99.5))
        if high > low:
            scaled = np.sqrt(np.clip((values - low) / (high - low), 0, 1))
            edges += ndimage.gaussian_gradient_magnitude(scaled, wide)
            ridges += ndimage.gaussian_filter(scaled, wide) - ndimage.gaussian_filter(
                scaled, [4 * w for w in wide]
            )
    # Borders are one voxel wide and edges a few: blurring makes near misses count.
    border = ndimage.gaussian_filter(border, wide)
    match = max((_correlation(feature, border) for feature in (edges, ridges)), key=lambda m: float(m.max()))
    best = np.unravel_index(int(np.argmax(match)), match.shape)
    z, y, x = (int(b) - n // 2 for b, n in zip(best, match.shape))
    here = float(match[tuple(n // 2 for n in match.shape)])
    if max(abs(z), abs(y), abs(x)) <= SHIFT or float(match[best]) < CLEARER * max(here, 0.0):
        return None
    return z, y, x


def _borders(labels_ZYX: Array, known_ZYX: Array) -> Array:
    """Return 1 where a voxel's neighbour along an axis has another label, else 0."""
    border = np.zeros(labels_ZYX.shape, np.float32)
    for axis in range(3):
        labels, known, out = (np.moveaxis(a, axis, 0) for a in (labels_ZYX, known_ZYX, border))
        meet = (labels[:-1] != labels[1:]) & known[:-1] & known[1:]
        out[:-1][meet] = 1
        out[1:][meet] = 1
    return border


def _correlation(feature: Array, border: Array) -> Array:
    """Return Pearson's correlation at every shift of the border up to ``REACH``; the middle is none."""
    reach = [min(REACH, n // 4) for n in border.shape]
    padded = [n + r for n, r in zip(border.shape, reach)]
    a, b = feature - feature.mean(), border - border.mean()
    axes = (0, 1, 2)
    spectrum = np.fft.rfftn(a, padded, axes) * np.conj(np.fft.rfftn(b, padded, axes))
    match = np.fft.irfftn(spectrum, padded, axes)
    shifts = np.ix_(*(np.arange(-r, r + 1) for r in reach))
    return np.asarray(match[shifts] / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-12))


def _brightness(ranges: dict[str, list[float]]) -> list[Finding]:
    """Return the images whose range (1st to 99th percentile) lies far from the others' median."""
    found = []
    for name, own in ranges.items():
        others = [r for other, r in ranges.items() if other != name and len(r) == len(own)]
        if not others:
            continue
        usual = np.median(others, axis=0)
        for index, (mine, theirs) in enumerate(zip(own, usual)):
            if min(mine, theirs) > 0 and not 1 / APART <= mine / theirs <= APART:
                what = f"channel {index}: " if len(own) > 1 else ""
                text = (
                    f"{what}intensities span {mine:g}, the others' {theirs:g}; the same stain and exposure?"
                )
                found.append(Finding("warning", name, text))
    return found


def _spacings(items: Sequence[Item]) -> list[Finding]:
    found = []
    for item in items:
        image, label = item.image.spacing, item.annotation.spacing
        if image is None and item.image.size[0] > 1:
            text = "no voxel size: distances and anisotropy are unknown; give --spacing Z,Y,X in µm"
            found.append(Finding("warning", item.name, text))
        same = isinstance(item.annotation, LabelImage) and item.annotation.volume.size == item.image.size
        if same and image is not None and label is not None and not np.allclose(image, label, rtol=0.02):
            found.append(
                Finding("warning", item.name, f"image has {image} µm, its label {label} µm (z, y, x)")
            )
    return found


def _copies(items: Sequence[Item]) -> list[Finding]:
    """Return images that are the same data under two groups or splits."""
    same: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        same[item.image.fingerprint].append(item)
    return [
        Finding("error", f"{a.name}, {b.name}", "the same image as two specimens or on both sides: drop one")
        for copies in same.values()
        for a, b in combinations(copies, 2)
        if a.group != b.group or a.split != b.split
    ]
