"""Pictures of volumes: three orthogonal planes with outlines, error maps and a scale bar, as PNG.

Read in this order: :func:`cut` (three planes through one voxel, the only thing that is read of a volume),
:func:`draw` (planes to PNG), :func:`voxel_errors` and :func:`object_errors` (what an error map shows). Planes
are drawn in their true proportions: xy, xz below it, yz to its right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import find_objects, maximum_filter, minimum_filter

from aequorea.scores.matching import Matching
from aequorea.volume import Array, Region, Spacing, Triple, Volume

Colour = tuple[int, int, int]

# Bright on grey, and told apart with any colour vision as far as ten colours can be.
PALETTE: tuple[Colour, ...] = (
    (86, 180, 233),
    (240, 228, 66),
    (230, 110, 60),
    (60, 200, 140),
    (230, 140, 200),
    (255, 176, 0),
    (130, 150, 255),
    (170, 220, 90),
    (255, 120, 140),
    (110, 220, 220),
)

RIGHT, FALSE, MISSED, POOR = 1, 2, 3, 4
ERROR_COLOURS: dict[int, Colour] = {
    RIGHT: (120, 190, 130),
    FALSE: (240, 150, 20),
    MISSED: (60, 150, 240),
    POOR: (205, 95, 175),
}

_SUPERSAMPLE = 2
_MOST_SMOOTH = 600
_GAP = 8
_TYPE = 23
_PAPER = (255, 255, 255)
_INK = (70, 74, 80)


@dataclass(frozen=True)
class Planes:
    """Three orthogonal planes of a volume.

    Attributes
    ----------
    xy, xz, yz
        Axes Y X, Z X and Y Z.
    at
        The voxel (z, y, x) through which they are cut, within the planes.
    """

    xy: Array
    xz: Array
    yz: Array
    at: Triple

    def like(self, xy: Array, xz: Array, yz: Array) -> Planes:
        """Return other values on the same planes."""
        return Planes(xy, xz, yz, self.at)

    @property
    def all(self) -> tuple[Array, Array, Array]:
        """The planes xy, xz, yz."""
        return self.xy, self.xz, self.yz


@dataclass(frozen=True)
class Overlay:
    """Labels to draw over an image.

    Attributes
    ----------
    labels
        Objects, classes or error codes; 0 is left clear.
    colours
        Of each label, those without one are left clear; default: :func:`colours_of`.
    fill
        Opacity of the inside, 0 to 1.
    line
        Width of outlines in pixels; 0: none.
    """

    labels: Planes
    colours: Mapping[int, Colour] | None = None
    fill: float = 0.0
    line: float = 1.5


@dataclass(frozen=True)
class Key:
    """A line of text beside a picture, with a coloured square where it explains a colour."""

    text: str
    colour: Colour | None = None


def planes(read: Callable[[Region], Array], at: Triple, region: Region) -> Planes:
    """Read three planes through a voxel.

    Parameters
    ----------
    read
        Returns the voxels of a region, axes Z Y X; called three times.
    at
        The voxel (z, y, x).
    region
        How far the planes reach.
    """

    def plane(axis: int) -> Array:
        start, stop = list(region.start), list(region.stop)
        start[axis], stop[axis] = at[axis], at[axis] + 1
        part = Region((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
        return np.asarray(read(part)).squeeze(axis)

    z, y, x = (a - s for a, s in zip(at, region.start))
    return Planes(plane(0), plane(1), plane(2).T, (z, y, x))


def cut(volume: Volume, at: Triple, region: Region | None = None, channel: int | None = None) -> Planes:
    """Read three planes through a voxel of a volume.

    Parameters
    ----------
    volume
        Only the planes are read of it.
    at
        The voxel (z, y, x).
    region
        How far the planes reach; default: the whole volume.
    channel
        Which channel; default: the brighter of all at each voxel, each scaled to its own :func:`contrast`.
    """
    region = volume.region if region is None else region
    if channel is None and volume.shape[0] > 1:
        scaled = []
        for number in range(volume.shape[0]):
            one = cut(volume, at, region, number)
            black, white = contrast(one)
            scaled.append([(plane - black) / (white - black) for plane in one.all])
        return one.like(*(np.maximum.reduce(sides) for sides in zip(*scaled)))
    return planes(lambda part: volume.read(part)[channel or 0], at, region)


def frame(mask: Array, at: Triple, spacing: Spacing | None, margin: float = 0.12) -> Region:
    """Return the part of a block worth showing: the box of a mask and the voxel ``at``, with a margin.

    Parameters
    ----------
    mask
        Axes Z Y X.
    at
        A voxel that must be inside.
    spacing
        Voxel size in µm; the margin is equally wide in µm along every axis.
    margin
        Part of the box's longest side that is added on each side.
    """
    whole = Region.whole(mask.shape)
    if not np.any(mask):
        return whole
    inside = [np.flatnonzero(np.any(mask, axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    low = [min(int(found[0]), a) for found, a in zip(inside, at)]
    high = [max(int(found[-1]), a) + 1 for found, a in zip(inside, at)]
    step = np.asarray(spacing or (1.0, 1.0, 1.0))
    wide = margin * max((np.asarray(high) - low) * step)
    box = Region((low[0], low[1], low[2]), (high[0], high[1], high[2]))
    return box.grow([int(np.ceil(wide / s)) for s in step]).clip(whole)


def busiest(mask: Array) -> Triple:
    """Return the voxel (z, y, x) through which three planes show most of a mask; the middle of an empty one.

    Planes near the border of the volume count half: structures are cut off there.
    """
    mask = np.asarray(mask) != 0
    if not mask.any():
        z, y, x = (n // 2 for n in mask.shape)
        return z, y, x
    z = int((mask.sum(axis=(1, 2)) * _inward(mask.shape[0])).argmax())
    # The other two are chosen among what the first shows, so that the planes cross inside something.
    y = int((mask[z].sum(axis=1) * mask.sum(axis=(0, 2)) * _inward(mask.shape[1])).argmax())
    x = int((mask[z, y] * mask.sum(axis=(0, 1)) * _inward(mask.shape[2])).argmax())
    return z, y, x


def _inward(n: int) -> Array:
    """Return weights along an axis: 1 in the middle, a half at the ends."""
    return 1 - 0.5 * np.abs(2 * (np.arange(n) + 0.5) / n - 1)


def contrast(planes: Planes, low: float = 1.0, high: float = 99.8) -> tuple[float, float]:
    """Return the percentiles of all finite values of three planes, for black and white."""
    values = np.concatenate([plane.ravel() for plane in planes.all]).astype(np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    black, white = np.percentile(values, [low, high])
    return float(black), float(white) if white > black else float(black) + max(1.0, abs(float(black)))


def voxel_errors(truth: Array, pred: Array, ignore: Array | None = None) -> Array:
    """Return ``RIGHT``, ``FALSE`` or ``MISSED`` for each voxel of two class images, 0 where both are
    background.

    A voxel of the wrong class is ``POOR``. Ignored voxels are 0.
    """
    truth, pred = np.asarray(truth), np.asarray(pred)
    codes = np.zeros(truth.shape, np.uint8)
    codes[(truth != 0) & (pred == truth)] = RIGHT
    codes[(truth == 0) & (pred != 0)] = FALSE
    codes[(truth != 0) & (pred == 0)] = MISSED
    codes[(truth != 0) & (pred != 0) & (pred != truth)] = POOR
    if ignore is not None:
        codes[np.asarray(ignore, bool)] = 0
    return codes


def object_errors(truth: Array, pred: Array, matching: Matching, ignore: Array | None = None) -> Array:
    """Return a code for each voxel that says what became of its object.

    ``RIGHT`` in matched objects; ``MISSED`` in true and ``FALSE`` in predicted objects without a partner;
    ``POOR`` where two such lie on each other: found, but split, merged or badly outlined. Ignored voxels are
    0.
    """
    truth, pred = np.asarray(truth), np.asarray(pred)
    lost = (truth != 0) & ~np.isin(truth, matching.pairs[:, 0])
    wrong = (pred != 0) & ~np.isin(pred, matching.pairs[:, 1])
    codes = np.where((truth != 0) | (pred != 0), RIGHT, 0).astype(np.uint8)
    codes[lost] = MISSED
    codes[wrong] = FALSE
    codes[lost & (pred != 0)] = POOR
    codes[wrong & (truth != 0)] = POOR
    if ignore is not None:
        codes[np.asarray(ignore, bool)] = 0
    return codes


def values(planes: Planes) -> list[int]:
    """Return the labels that occur on three planes, without 0, ascending."""
    found = np.unique(np.concatenate([np.unique(plane) for plane in planes.all]))
    return [int(value) for value in found if value != 0]


def colours_of(labels: Iterable[int], partners: Mapping[int, int] | None = None) -> dict[int, Colour]:
    """Return a colour for each label: that of its partner, where it has one, so that matches look alike."""
    partners = partners or {}
    return {label: PALETTE[(partners.get(label, label) - 1) % len(PALETTE)] for label in labels}


def draw(
    image: Planes,
    spacing: Spacing | None,
    overlays: Sequence[Overlay] = (),
    *,
    keys: Sequence[Key] = (),
    limits: tuple[float, float] | None = None,
    width: int = 960,
) -> bytes:
    """Draw three planes side by side in their true proportions.

    Parameters
    ----------
    image
        Intensities.
    spacing
        Voxel size in µm (z, y, x); ``None`` draws voxels as cubes and the scale bar in voxels.
    overlays
        What to draw over it, first to last.
    keys
        Lines of text for the free corner, if it is large enough to hold them.
    limits
        Values shown black and white; default: :func:`contrast` of these planes.
    width
        Of the picture in pixels.

    Returns
    -------
    bytes
        A PNG file.
    """
    step = np.asarray(spacing or (1.0, 1.0, 1.0), np.float64)
    size = np.asarray((image.xz.shape[0], *image.xy.shape))
    extent = size * step
    flat = int(size[0]) == 1
    scale = (width - (0 if flat else _GAP)) / (extent[2] + (0 if flat else extent[0]))
    # A tall volume would make a strip of one picture: its height is bounded too.
    tall = extent[1] + (0 if flat else extent[0])
    scale = min(scale, 1.25 * width / tall)
    depth, height, breadth = (max(1, round(float(e * scale))) for e in extent)

    z, y, x = (a + 0.5 for a in image.at)
    panes = (
        ("xy", image.xy, (height, breadth), (0, 0), (y, x)),
        ("xz", image.xz, (depth, breadth), (height + _GAP, 0), (z, x)),
        ("yz", image.yz, (height, depth), (0, breadth + _GAP), (y, z)),
    )
    total = (height, breadth) if flat else (height + _GAP + depth, breadth + _GAP + depth)
    canvas = Image.new("RGB", (total[1], total[0]), _PAPER)
    black, white = limits or contrast(image)
    for index, (name, plane, shape, (top, left), tick) in enumerate(panes[:1] if flat else panes):
        grey = _grey(plane, black, white, shape)
        for overlay in overlays:
            grey = _paint(grey, overlay.labels.all[index], overlay)
        pane = Image.fromarray(grey)
        if not flat:
            _mark(pane, name, tick, plane.shape)
        if name == "xy":
            _scale_bar(pane, scale, "µm" if spacing is not None else "voxels")
        canvas.paste(pane, (left, top))
    if not flat and keys:
        _write_keys(canvas, keys, (height + _GAP, breadth + _GAP), (depth, depth))
    buffer = BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()


def _grey(plane: Array, black: float, white: float, shape: tuple[int, int]) -> Array:
    """Return a plane as RGB of ``shape`` pixels."""
    values = np.nan_to_num(
        (np.asarray(plane, np.float64) - black) / (white - black), nan=0.0, posinf=1.0, neginf=0.0
    )
    smaller = shape[0] < plane.shape[0] or shape[1] < plane.shape[1]
    resized = Image.fromarray(np.clip(values, 0, 1).astype(np.float32)).resize(
        (shape[1], shape[0]), Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR
    )
    grey = np.rint(np.asarray(resized) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _paint(grey: Array, label: Array, overlay: Overlay) -> Array:
    """Blend labels over a picture; drawn larger and averaged down, so that lines are smooth."""
    height, width = grey.shape[0] * _SUPERSAMPLE, grey.shape[1] * _SUPERSAMPLE
    colours = colours_of(values(overlay.labels)) if overlay.colours is None else overlay.colours
    large, table = _enlarge(label, (height, width), colours)
    opacity = np.where(large > 0, np.float32(overlay.fill), np.float32(0))
    if overlay.line:
        reach = 2 * round(overlay.line * _SUPERSAMPLE) + 1
        edge = maximum_filter(large, reach) != minimum_filter(large, reach)
        opacity[edge & (large > 0)] = 1.0
    paint = table[large] * opacity[..., None]

    def smaller(values: Array) -> Array:
        blocks = values.reshape(grey.shape[0], _SUPERSAMPLE, grey.shape[1], _SUPERSAMPLE, -1)
        return np.asarray(blocks.mean(axis=(1, 3)))

    mixed = grey * (1 - smaller(opacity)) + smaller(paint)
    return np.asarray(np.rint(mixed), np.uint8)


def _enlarge(label: Array, shape: tuple[int, int], colours: Mapping[int, Colour]) -> tuple[Array, Array]:
    """Return labels at ``shape`` pixels, numbered densely, and the colour of each number.

    Each label's mask is interpolated, so that outlines follow the shape and not the voxels. Too many labels,
    or labels that get smaller, are picked by nearest voxel.
    """
    ids = np.array([number for number in np.unique(label) if int(number) in colours], label.dtype)
    table = np.zeros((len(ids) + 1, 3), np.float32)
    for index, number in enumerate(ids):
        table[index + 1] = colours[int(number)]
    dense = np.zeros(label.shape, np.int32)
    if len(ids):
        place = np.clip(np.searchsorted(ids, label), 0, len(ids) - 1)
        dense = np.where(ids[place] == label, place + 1, 0).astype(np.int32)
    grow = (shape[0] / label.shape[0], shape[1] / label.shape[1])
    if len(ids) > _MOST_SMOOTH or min(grow) < 2:
        rows = (np.arange(shape[0]) + 0.5) / grow[0]
        columns = (np.arange(shape[1]) + 0.5) / grow[1]
        return np.asarray(dense[rows.astype(int)[:, None], columns.astype(int)[None]]), table
    large = np.zeros(shape, np.int32)
    best = np.full(shape, 0.5, np.float32)
    for index, box in enumerate(find_objects(dense)):
        if box is None:
            continue
        rows, columns = (
            slice(max(0, int((side.start - 1) * g)), min(n, int(np.ceil((side.stop + 1) * g))))
            for side, g, n in zip(box, grow, shape)
        )
        part = Image.fromarray((dense == index + 1).astype(np.float32)).resize(
            (columns.stop - columns.start, rows.stop - rows.start),
            Image.Resampling.BILINEAR,
            box=(columns.start / grow[1], rows.start / grow[0], columns.stop / grow[1], rows.stop / grow[0]),
        )
        share = np.asarray(part)
        inside = share > best[rows, columns]
        large[rows, columns][inside] = index + 1
        best[rows, columns][inside] = share[inside]
    return large, table


def _mark(pane: Image.Image, name: str, at: tuple[float, float], shape: tuple[int, ...]) -> None:
    """Write the name of a plane and tick where the other two cut it."""
    pen = ImageDraw.Draw(pane)
    y, x = at[0] * pane.height / shape[0], at[1] * pane.width / shape[1]
    reach = 9
    for line in (
        (0, y, reach, y),
        (pane.width - reach, y, pane.width, y),
        (x, 0, x, reach),
        (x, pane.height - reach, x, pane.height),
    ):
        pen.line(line, fill=(255, 225, 120), width=2)
    _text(pen, (10, 8), name)


def _scale_bar(pane: Image.Image, scale: float, unit: str) -> None:
    """Draw a bar of a round length, at most a third of the pane."""
    longest = pane.width / 3 / scale
    decade = 10.0 ** np.floor(np.log10(longest))
    length = max(n * decade for n in (1, 2, 5) if n * decade <= longest)
    pen = ImageDraw.Draw(pane)
    right, bottom, thick = pane.width - 14, pane.height - 14, 5
    left = right - length * scale
    pen.rectangle((left - 1, bottom - thick - 1, right + 1, bottom + 1), fill=(0, 0, 0))
    pen.rectangle((left, bottom - thick, right, bottom), fill=(255, 255, 255))
    text = f"{length:g} {unit}"
    wide = pen.textlength(text, font=_font(_TYPE))
    across = min((left + right - wide) / 2, pane.width - wide - 8)
    _text(pen, (across, bottom - thick - 32), text)


def _write_keys(
    canvas: Image.Image, keys: Sequence[Key], corner: tuple[int, int], room: tuple[int, int]
) -> None:
    """Write lines into the free corner where they fit."""
    pen, line = ImageDraw.Draw(canvas), 34
    widest = max(pen.textlength(key.text, font=_font(_TYPE)) + (28 if key.colour else 0) for key in keys)
    if widest + 12 > room[1] or line * len(keys) + 8 > room[0]:
        return
    for index, key in enumerate(keys):
        top, left = corner[0] + 8 + index * line, corner[1] + 12
        if key.colour is not None:
            pen.rounded_rectangle((left, top + 5, left + 18, top + 23), 3, fill=key.colour)
            left += 28
        pen.text((left, top), key.text, fill=_INK, font=_font(_TYPE))


def _text(pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str) -> None:
    pen.text(at, text, fill=(255, 255, 255), font=_font(_TYPE), stroke_width=2, stroke_fill=(0, 0, 0))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
