"""TIFF: plain, ImageJ, OME and BigTIFF, read by strip, tile or memory map without loading the stack.

Read :class:`Tiff` first, then :class:`_Pages` (decoding) and the functions that find axes and spacing in the
tags. tifffile parses and decodes; what it parsed is kept, the file is not: every read opens it anew, so that
threads and forked processes never share a file position.

Source: TIFF 6.0; OME-TIFF (https://docs.openmicroscopy.org/ome-model); ImageJ's tags as in
``ij.io.TiffDecoder``.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count, product
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import numpy as np
from tifffile import TiffFile, TiffPage, TiffPageSeries

from aequorea.errors import FormatError
from aequorea.plugs import OpenOptions
from aequorea.signal.axes import LETTERS, micrometres, voxel_spacing
from aequorea.signal.recent import DECODED
from aequorea.signal.stored import Stored, first_bytes, picked_scene, pyramid, reading, refuse, times_factor
from aequorea.volume import Array, Spacing, Volume

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_OPENED = count()


class Tiff:
    """TIFF files with one or several images (``scene``) and pyramids (``level``)."""

    name: ClassVar[str] = "tiff"
    suffixes: ClassVar[tuple[str, ...]] = (".tif", ".tiff", ".btf", ".lsm")

    def sniff(self, path: Path) -> bool:
        """Whether the file begins as a TIFF or BigTIFF does."""
        return first_bytes(path, 4) in _MAGIC

    def open(self, path: Path, options: OpenOptions) -> Volume:
        """Open one image of the file lazily.

        Raises
        ------
        FormatError
            If the file is damaged or cut off, holds several images and none is picked, or its axes are
            ambiguous.
        """
        refuse(path, options, "dataset")
        with _parsed(path) as file:
            number = picked_scene([str(s.name) for s in file.series], options.scene, str(path))
            series = _images(file)[number]
            metadata = _metadata(file, series, number)
            levels = []
            for level in series.levels:
                factor = _factor(series, level)
                levels.append(_stored(path, level, metadata, factor))
        return pyramid(levels, options)

    def list(self, path: Path) -> Iterator[dict[str, str]]:
        """Yield each image in the file."""
        with _parsed(path) as file:
            found = [
                {
                    "scene": str(i),
                    "name": str(series.name),
                    "axes": str(series.axes),
                    "shape": " x ".join(map(str, series.shape)),
                }
                for i, series in enumerate(file.series)
            ]
        yield from found


@contextmanager
def _parsed(path: Path) -> Iterator[TiffFile]:
    """Open with tifffile and raise where it only logs that it skipped something damaged."""
    complaints: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == mine:
                complaints.append(record.getMessage())

    mine = threading.get_ident()
    log, listener = logging.getLogger("tifffile"), Listener(logging.ERROR)
    log.addHandler(listener)
    try:
        with reading(path, "TIFF"), TiffFile(path) as file:
            if not file.series:
                raise FormatError(f"{path}: holds no image")
            len(file.pages)
            if complaints:
                raise ValueError(complaints[0])
            yield file
            if complaints:
                raise ValueError(complaints[0])
    finally:
        log.removeHandler(listener)


def _stored(path: Path, series: TiffPageSeries, metadata: dict[str, Any], factor: Spacing) -> Stored:
    """Describe one level of one image."""
    if series.transform is not None or series.dtype is None:
        raise FormatError(
            f"{path}: values stored as '{series.kind}' TIFF are not understood; save it as OME-TIFF"
        )
    shape, axes = _shape(series), _axes(series)
    pages = _Pages(series, shape, path)
    contiguous = series.dataoffset
    facts = {"kind": _KINDS.get(series.kind, series.kind), "compression": pages.compression}
    fetch: Callable[[tuple[slice, ...]], Array] = pages.fetch
    chunks: tuple[int, ...] | None = pages.chunks
    if contiguous is not None and not series.is_multifile:
        kind = np.dtype(series.parent.byteorder + series.dtype.char)
        if contiguous + math.prod(shape) * kind.itemsize > path.stat().st_size:
            raise FormatError(f"{path}: is cut off: its voxels reach beyond the end of the file")
        fetch, chunks = partial(_mapped, path, kind, contiguous, shape), None
    else:
        pages.check()
    unknown = [i for i, a in enumerate(axes) if a not in LETTERS and shape[i] > 1]
    if len(unknown) == 1 and "T" not in axes and not any(a == "Z" and n > 1 for a, n in zip(axes, shape)):
        axes = "".join("Z" if i == unknown[0] else "-" if a == "Z" else a for i, a in enumerate(axes))
        facts["axes"] = "pages taken as z, in the order of the file (--axes says otherwise)"
    z, y, x = metadata["sizes"]
    depth = math.prod(n for a, n in zip(axes, shape) if a == "Z")
    spacing = voxel_spacing(z, y, x, depth)
    if spacing is None and y and x:
        facts["spacing"] = f"the file says y {y:.4g}, x {x:.4g} µm, but no z step"
    if spacing is not None:
        spacing = times_factor(spacing, factor)
    return Stored(
        fetch=fetch,
        shape=shape,
        dtype=np.dtype(series.dtype),
        axes=axes,
        name=str(path),
        format="tiff",
        spacing=spacing,
        factor=factor,
        channels=metadata["channels"],
        chunks=chunks,
        facts=facts,
    )


def _mapped(path: Path, kind: Any, offset: int, shape: tuple[int, ...], index: tuple[slice, ...]) -> Array:
    # a map holds its file open, so it lives only as long as the read
    return np.array(np.memmap(path, kind, "r", offset, shape)[index])


_KINDS = {
    "ome": "OME-TIFF",
    "imagej": "ImageJ",
    "shaped": "plain (tifffile)",
    "uniform": "plain",
    "generic": "plain",
    "lsm": "Zeiss LSM",
}


def _images(file: TiffFile) -> Sequence[TiffPageSeries]:
    """Return the images of a file with axes of one element; tifffile 2026.5 has another call for it."""
    found: Sequence[TiffPageSeries] = file.series(squeeze=False) if callable(file.series) else file.series
    return found


def _shape(series: TiffPageSeries) -> tuple[int, ...]:
    return tuple(series.get_shape(squeeze=False) if hasattr(series, "get_shape") else series.shape)


def _axes(series: TiffPageSeries) -> str:
    return str(series.get_axes(squeeze=False) if hasattr(series, "get_axes") else series.axes)


def _factor(finest: TiffPageSeries, level: TiffPageSeries) -> Spacing:
    fine, coarse = (dict(zip(_axes(s), _shape(s))) for s in (finest, level))
    z, y, x = (fine.get(axis, 1) / coarse.get(axis, 1) for axis in "ZYX")
    return z, y, x


class _Pages:
    """Pages of one image, decoded segment by segment (a strip or a tile).

    Every page is an array of axes (plane, z, y, x, sample), most of them of length 1, cut into equal
    segments.
    """

    def __init__(self, series: TiffPageSeries, shape: tuple[int, ...], path: Path) -> None:
        key: TiffPage = series.keyframe
        self.path, self.dtype, self.shape = path, np.dtype(series.dtype), shape
        self.number = next(_OPENED)
        self.compression = str(getattr(key.compression, "name", key.compression)).lower()
        self.decode = key.decode
        self.hints = {"jpegtables": key.jpegtables, "jpegheader": key.jpegheader} if key.jpegtables else {}
        self.fill = key.nodata
        self.page_shape = tuple(int(n) for n in key.shaped)
        *_, height, width, samples = self.page_shape
        if key.is_tiled:
            self.segment = (1, key.tiledepth, key.tilelength, key.tilewidth, samples)
        else:
            self.segment = (1, 1, min(key.rowsperstrip, height), width, samples)
        self.grid = tuple(-(-n // m) for n, m in zip(self.page_shape, self.segment))
        within = next(
            k for k in range(len(shape), -1, -1) if math.prod(shape[k:]) == math.prod(self.page_shape)
        )
        self.lead = shape[:within]
        pages = list(series.pages)
        missing = sum(page is None for page in pages)
        if missing:
            raise FormatError(
                f"{path}: {missing} of its {len(pages)} planes are missing; is a file of the set gone?"
            )
        self.files = (
            [Path(page.parent.filehandle.path) for page in pages]
            if series.is_multifile
            else [path] * len(pages)
        )
        self.offsets = [page.dataoffsets for page in pages]
        self.counts = [page.databytecounts for page in pages]
        self.frame = shape[within:]
        # the page's axes that are longer than 1 are the same ones, in the same order, in both shapes
        long = [i for i, n in enumerate(self.page_shape) if n > 1]
        self.places = dict(zip([i for i, n in enumerate(self.frame) if n > 1], long))
        chunk = [1] * len(self.frame)
        for i, place in self.places.items():
            chunk[i] = min(self.segment[place], self.frame[i])
        self.chunks = (1,) * within + tuple(chunk)

    def check(self) -> None:
        """Raise where segments are not there, or lie beyond the end of the file."""
        if len(self.offsets) != math.prod(self.lead):
            raise FormatError(
                f"{self.path}: {len(self.offsets)} of {math.prod(self.lead)} planes found; is it cut off?"
            )
        length = {file: file.stat().st_size for file in set(self.files)}
        segments = math.prod(self.grid)
        for file, offsets, counts in zip(self.files, self.offsets, self.counts):
            if len(offsets) != segments or len(counts) != segments:
                raise FormatError(
                    f"{file}: is damaged: a plane has {len(offsets)} strips or tiles instead of {segments}"
                )
            if int(np.max(np.add(offsets, counts, dtype=np.int64))) > length[file]:
                raise FormatError(f"{file}: is cut off: its voxels reach beyond the end of the file")

    def fetch(self, index: tuple[slice, ...]) -> Array:
        """Decode the segments that the slices touch."""
        lead, frame = index[: len(self.lead)], index[len(self.lead) :]
        within = [slice(0, 1)] * 5
        for i, place in self.places.items():
            within[place] = frame[i]
        out = np.empty([s.stop - s.start for s in (*lead, *within)], self.dtype)
        for target in product(*(range(s.stop - s.start) for s in lead)):
            page = (
                int(np.ravel_multi_index([s.start + t for s, t in zip(lead, target)], self.lead))
                if lead
                else 0
            )
            self._page(page, within, out[target])
        return out.reshape([s.stop - s.start for s in index])

    def _page(self, page: int, within: list[slice], out: Array) -> None:
        touched = [range(s.start // n, -(-s.stop // n)) for s, n in zip(within, self.segment)]
        for corner in product(*touched):
            number = int(np.ravel_multi_index(corner, self.grid))
            block = DECODED.get((self.number, page, number), partial(self._segment, page, number))
            source, target = [], []
            for place, s, n, m in zip(corner, within, self.segment, block.shape):
                low, high = max(s.start, place * n), min(s.stop, place * n + m)
                source.append(slice(low - place * n, high - place * n))
                target.append(slice(low - s.start, high - s.start))
            out[tuple(target)] = block[tuple(source)]

    def _segment(self, page: int, number: int) -> Array:
        offset, length = self.offsets[page][number], self.counts[page][number]
        if length == 0:
            return np.full(self.segment, self.fill, self.dtype)
        with self.files[page].open("rb") as file:
            file.seek(offset)
            data = file.read(length)
        if len(data) < length:
            raise FormatError(f"{self.files[page]}: is cut off: its voxels reach beyond the end of the file")
        block, _, _ = self.decode(data, number, **self.hints)
        return np.asarray(block)[np.newaxis]


def _metadata(file: TiffFile, series: TiffPageSeries, number: int) -> dict[str, Any]:
    """Return ``sizes`` (voxel size in µm along z, y, x, each maybe ``None``) and ``channels``."""
    if series.kind == "ome" and file.ome_metadata:
        return _ome(file.ome_metadata, number)
    if series.kind == "imagej" and file.imagej_metadata is not None:
        return {"sizes": _imagej_sizes(file), "channels": ()}
    if series.kind == "lsm" and file.lsm_metadata:
        metres = [file.lsm_metadata.get(f"VoxelSize{axis}") for axis in "ZYX"]
        return {"sizes": [None if m is None else m * 1e6 for m in metres], "channels": ()}
    return {"sizes": (None, None, None), "channels": ()}


def _ome(xml: str, index: int) -> dict[str, Any]:
    images = [e for e in ElementTree.fromstring(xml) if e.tag.rpartition("}")[2] == "Image"]
    if index >= len(images):
        return {"sizes": (None, None, None), "channels": ()}
    pixels = next(e for e in images[index] if e.tag.rpartition("}")[2] == "Pixels")
    sizes: list[float | None] = []
    for axis in "ZYX":
        value, unit = pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")
        scale = micrometres(unit)
        sizes.append(None if value is None or scale is None else float(value) * scale)
    channels = [e.get("Name", "") for e in pixels if e.tag.rpartition("}")[2] == "Channel"]
    return {"sizes": sizes, "channels": channels}


def _imagej_sizes(file: TiffFile) -> list[float | None]:
    words, tags = file.imagej_metadata, file.pages[0].tags
    # The units along y and z stand there only where they are not that of x.
    unit_z, unit_y, unit_x = (
        micrometres(words.get(key, words.get("unit"))) for key in ("zunit", "yunit", "unit")
    )
    sizes: list[float | None] = []
    step = words.get("spacing")
    # ImageJ writes a negative step for stacks that were acquired downwards
    sizes.append(None if step is None or unit_z is None else abs(float(step)) * unit_z)
    for name, unit in (("YResolution", unit_y), ("XResolution", unit_x)):
        pixels, per = tags.valueof(name) or (0, 1)
        sizes.append(None if unit is None or pixels == 0 else per / pixels * unit)
    return sizes
