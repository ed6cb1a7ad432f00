"""A folder of planes as one volume.

Planes are the pictures in the folder, in natural order of their names (``plane_2`` before ``plane_10``), each
read by the format that knows it. A folder may as well hold separate images; nothing in it says which, so the
user does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import ClassVar

import numpy as np

from aequorea import registry
from aequorea.errors import FormatError
from aequorea.plugs import Format, OpenOptions
from aequorea.signal.recent import DECODED
from aequorea.signal.stored import Stored, as_volume, refuse
from aequorea.volume import Array, Region, Volume

_CHECKED = 64
"""Planes whose size is compared when the folder is opened; the others are when they are read."""
_OPENED = count()


class Sequence:
    """Folders of 2-D images."""

    name: ClassVar[str] = "sequence"
    suffixes: ClassVar[tuple[str, ...]] = ()

    def sniff(self, path: Path) -> bool:
        """Whether the path is a folder with images in it."""
        try:
            return path.is_dir() and bool(images_in(path))
        except OSError:
            return False

    def open(self, path: Path, options: OpenOptions) -> Volume:
        """Open the planes as one volume if ``options.many`` is ``"sequence"``, or the only image of a folder.

        Raises
        ------
        FormatError
            If it was not said what the folder is, or its images are no planes of one size and type.
        """
        refuse(path, options, "scene", "level", "dataset")
        files = images_in(path)
        if len(files) == 1 and options.many is None:
            return _format_of(files[0]).open(files[0], options)
        if options.many is None:
            raise FormatError(
                f"{path}: a folder of {len(files)} images: say --sequence if they are planes of one volume, "
                "--each if they are separate images"
            )
        if options.many == "each":
            raise FormatError(f"{path}: a folder of {len(files)} separate images; open them one by one")
        first = _plane(files[0])
        for i in sorted({round(f * (len(files) - 1)) for f in np.linspace(0, 1, min(_CHECKED, len(files)))}):
            _same(first, _plane(files[i]))
        channels, _, height, width = first.shape
        number = next(_OPENED)
        whole = first.chunks[1:] == (height, width)

        def fetch(index: tuple[slice, ...]) -> Array:
            z, c, y, x = index
            out = np.empty([s.stop - s.start for s in index], first.dtype)
            region = Region((0, y.start, x.start), (1, y.stop, x.stop))
            for i in range(z.start, z.stop):
                # what is stored as one piece is decoded as one piece, and serves the neighbouring tiles too
                if whole:
                    plane = DECODED.get((number, i), partial(_whole, first, files[i]))
                    out[i - z.start] = plane[c, 0, y, x]
                else:
                    out[i - z.start] = _same(first, _plane(files[i])).read(region)[c, 0]
            return out

        facts = {"planes": f"{len(files)} files, {files[0].name} to {files[-1].name}", **_kept(first)}
        if first.spacing is not None:
            facts["spacing"] = (
                f"the files say y {first.spacing[1]:.4g}, x {first.spacing[2]:.4g} µm, but no z step"
            )
        return as_volume(
            Stored(
                fetch=fetch,
                shape=(len(files), channels, height, width),
                dtype=first.dtype,
                axes="ZCYX",
                name=str(path),
                format="sequence",
                channels=first.channels,
                chunks=(1, channels, *first.chunks[1:]),
                facts=facts,
            ),
            options,
        )

    def list(self, path: Path) -> Iterator[dict[str, str]]:
        """Yield each image in the folder."""
        for file in images_in(path):
            yield {"file": file.name}


def images_in(folder: Path) -> list[Path]:
    """Return the image files of a folder, by the suffixes of the other formats, in natural order."""
    formats = [registry.find("formats", name) for name in registry.names("formats") if name != Sequence.name]
    suffixes = tuple(suffix for cls in formats for suffix in cls.suffixes)
    found = [f for f in folder.iterdir() if not f.name.startswith(".") and f.name.lower().endswith(suffixes)]
    return sorted(found, key=lambda file: natural(file.name))


def natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key that orders numbers in names by value.

    >>> sorted(["p10", "p9"], key=natural)
    ['p9', 'p10']
    """
    return [
        (int(part), part) if part.isdecimal() else (-1, part.lower()) for part in re.split(r"(\d+)", name)
    ]


def _format_of(path: Path) -> Format:
    for name in registry.names("formats"):
        if name != Sequence.name:
            candidate: Format = registry.find("formats", name)()
            if candidate.sniff(path):
                return candidate
    raise FormatError(f"{path}: is not the image that its name says; is it damaged?")


def _plane(path: Path) -> Volume:
    plane = _format_of(path).open(path, OpenOptions())
    if plane.size[0] != 1:
        raise FormatError(f"{path}: holds {plane.size[0]} planes, so its folder is no sequence: say --each")
    return plane


def _same(first: Volume, plane: Volume) -> Volume:
    if plane.shape != first.shape or plane.dtype != first.dtype:
        now, then = (f"{v.shape[0]} x {v.size[1]} x {v.size[2]} of {v.dtype}" for v in (plane, first))
        raise FormatError(
            f"{plane.name}: is {now}, but {first.name} is {then}: no planes of one volume, say --each"
        )
    return plane


def _whole(first: Volume, file: Path) -> Array:
    return _same(first, _plane(file)).read()


def _kept(first: Volume) -> dict[str, str]:
    return {word: first.extra[word] for word in ("kind", "compression") if word in first.extra}
