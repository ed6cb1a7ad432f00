"""NumPy's ``.npy`` files, memory-mapped.

Source: NumPy enhancement proposal 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from aequorea.errors import FormatError
from aequorea.plugs import OpenOptions
from aequorea.signal.stored import Stored, as_volume, first_bytes, reading, refuse
from aequorea.volume import Array, Volume


class Npy:
    """Arrays saved by ``numpy.save``: they know neither axes nor spacing."""

    name: ClassVar[str] = "npy"
    suffixes: ClassVar[tuple[str, ...]] = (".npy",)

    def sniff(self, path: Path) -> bool:
        """Whether the file begins with NumPy's magic string."""
        return first_bytes(path, 6) == b"\x93NUMPY"

    def open(self, path: Path, options: OpenOptions) -> Volume:
        """Map the file; raises :class:`FormatError` if it is cut off or holds no numbers."""
        refuse(path, options, "scene", "level", "dataset")
        mapped = _map(path)
        shape, dtype, offset = mapped.shape, mapped.dtype, mapped.offset
        order: Literal["C", "F"] = "C" if mapped.flags.c_contiguous else "F"
        del mapped  # a map holds its file open, so it lives only as long as a read

        def fetch(index: tuple[slice, ...]) -> Array:
            # The header is not read again: before Python 3.12 several threads cannot (python/cpython#106905).
            with reading(path, "NPY"):
                return np.array(np.memmap(path, dtype, "r", offset, shape, order)[index])

        return as_volume(Stored(fetch, shape, dtype, None, str(path), "npy"), options)

    def list(self, path: Path) -> Iterator[dict[str, str]]:
        """Yield the one array."""
        yield {"shape": " x ".join(map(str, _map(path).shape))}


def _map(path: Path) -> np.memmap[Any, Any]:
    with reading(path, "NPY"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.memmap):
            raise FormatError(f"{path}: holds no single array")
        return array
