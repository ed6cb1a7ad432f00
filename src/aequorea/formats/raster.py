"""PNG and JPEG pictures: one plane, grey or in colour.

Neither can be read in part, so a picture is decoded as a whole when it is opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import imagecodecs

from aequorea.plugs import OpenOptions
from aequorea.signal.stored import Stored, as_volume, first_bytes, reading, refuse
from aequorea.volume import Array, Volume

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_JPEG_SCAN, _JPEG_END = b"\xff\xda", b"\xff\xd9"


class Raster:
    """PNG and JPEG; colours become the channels red, green, blue (and alpha)."""

    name: ClassVar[str] = "raster"
    suffixes: ClassVar[tuple[str, ...]] = (".png", ".jpg", ".jpeg")

    def sniff(self, path: Path) -> bool:
        """Whether the file begins as a PNG or JPEG does."""
        return first_bytes(path, 8).startswith((_PNG, _JPEG))

    def open(self, path: Path, options: OpenOptions) -> Volume:
        """Decode a picture; raises :class:`FormatError` if it is damaged."""
        refuse(path, options, "scene", "level", "dataset")
        picture = _decode(path)
        stored = Stored(
            fetch=lambda index: picture[index].copy(),
            shape=picture.shape,
            dtype=picture.dtype,
            axes="YXS"[: picture.ndim],
            name=str(path),
            format="raster",
            chunks=picture.shape,
            facts={"compression": "png" if first_bytes(path, 8) == _PNG else "jpeg"},
        )
        return as_volume(stored, options)

    def list(self, path: Path) -> Iterator[dict[str, str]]:
        """Yield the one picture."""
        yield {"shape": " x ".join(map(str, _decode(path).shape))}


def _decode(path: Path) -> Array:
    with reading(path, "PNG or JPEG"):
        data = path.read_bytes()
        if data.startswith(_PNG):
            picture: Array = imagecodecs.png_decode(data)
            return picture
        # the decoder fills what is missing at the end with grey and says nothing
        if data.rfind(_JPEG_END) < data.rfind(_JPEG_SCAN):
            raise ValueError("no end marker")
        picture = imagecodecs.jpeg_decode(data)
        return picture
