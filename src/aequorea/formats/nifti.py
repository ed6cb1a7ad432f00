"""NIfTI-1 and -2 (``.nii``, ``.nii.gz``), sliced on disk by nibabel.

A compressed file cannot be read in part: it is unpacked once, when its first region is read, into a nameless
temporary file that vanishes with the volume.

Source: NIfTI-1.1 (https://nifti.nimh.nih.gov); axes X Y Z T C become C Z Y X.
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from aequorea.errors import FormatError
from aequorea.plugs import OpenOptions
from aequorea.signal.axes import micrometres, voxel_spacing
from aequorea.signal.stored import Stored, as_volume, first_bytes, reading, refuse
from aequorea.volume import Array, Volume

_AXES = "XYZTC"


class Nifti:
    """NIfTI images. The fourth axis is time, as the standard has it; ``--axes XYZC`` says otherwise."""

    name: ClassVar[str] = "nifti"
    suffixes: ClassVar[tuple[str, ...]] = (".nii", ".nii.gz")

    def sniff(self, path: Path) -> bool:
        """Whether the name ends in .nii or .nii.gz and the header begins with its own size."""
        if not path.name.lower().endswith(self.suffixes):
            return False
        head = first_bytes(path, 4)
        if head[:2] == b"\x1f\x8b":
            try:
                with gzip.open(path) as file:
                    head = file.read(4)
            except (OSError, EOFError, zlib.error):
                return False
        return any(int.from_bytes(head, order) in (348, 540) for order in ("little", "big"))

    def open(self, path: Path, options: OpenOptions) -> Volume:
        """Open lazily; raises :class:`FormatError` if the header is damaged or the file cut off."""
        refuse(path, options, "scene", "level", "dataset")
        image = _image(path)
        with reading(path, "NIfTI"):
            header, proxy = image.header, image.dataobj
            shape = tuple(int(n) for n in proxy.shape)
            packed = np.dtype(proxy.dtype)
            slope, intercept = float(proxy.slope), float(proxy.inter)
            scaled = (slope, intercept) != (1.0, 0.0)
            dtype = np.result_type(packed, np.float32) if scaled and packed.kind in "biuf" else packed
            unit = micrometres(header.get_xyzt_units()[0])
            zooms = [float(s) for s in header.get_zooms()[:3]]
            compressed = first_bytes(path, 2) == b"\x1f\x8b"
            needed = int(proxy.offset) + int(np.prod(shape, dtype=object)) * packed.itemsize
            if not compressed and path.stat().st_size < needed:
                raise FormatError(
                    f"{path}: is cut off: {path.stat().st_size} bytes where {needed} are declared"
                )
        values = _Values(path, (shape, packed, proxy.offset, slope, intercept), dtype, compressed)
        facts = {"compression": "gzip" if compressed else "none"}
        if scaled:
            facts["values"] = f"stored {packed} x {slope:.6g} + {intercept:.6g}"
        sizes = dict(zip("XYZ", zooms))
        spacing = None
        if unit is not None:
            z, y, x = (sizes[a] * unit if a in sizes else None for a in "ZYX")
            spacing = voxel_spacing(z, y, x, shape[2] if len(shape) > 2 else 1)
        else:
            told = ", ".join(f"{a.lower()} {sizes[a]:.4g}" for a in "ZYX" if a in sizes)
            facts["spacing"] = f"the file says {told} without a unit of length"
        stored = Stored(
            fetch=values.fetch,
            shape=shape,
            dtype=dtype,
            axes=_AXES[: len(shape)] if len(shape) <= 5 else "?" * len(shape),
            name=str(path),
            format="nifti",
            spacing=spacing,
            chunks=tuple(shape[:2]) + (1,) * (len(shape) - 2),
            facts=facts,
        )
        return as_volume(stored, options)

    def list(self, path: Path) -> Iterator[dict[str, str]]:
        """Yield the one image."""
        yield {"shape": " x ".join(map(str, _image(path).shape))}


@cache
def _nibabel() -> ModuleType:
    try:
        import nibabel
    except ImportError:
        raise FormatError("NIfTI needs nibabel: pip install 'aequorea[formats]'") from None
    module: ModuleType = nibabel
    return module


def _image(path: Path) -> Any:
    nibabel = _nibabel()
    with reading(path, "NIfTI"):
        return nibabel.load(path)


class _Values:
    """Slices of the voxels, scaled.

    ``layout`` is (shape, type, offset, slope, intercept).
    """

    def __init__(self, path: Path, layout: tuple[Any, ...], dtype: np.dtype[Any], compressed: bool) -> None:
        self.path, self.layout, self.dtype, self.compressed = path, layout, dtype, compressed
        self._lock = Lock()
        self._unpacked: Any = None

    def fetch(self, index: tuple[slice, ...]) -> Array:
        """Read slices along X Y Z T C."""
        source = self._file() if self.compressed else str(self.path)
        values: Array = np.asarray(_nibabel().arrayproxy.ArrayProxy(source, self.layout)[index])
        with np.errstate(over="ignore"):
            return values.astype(self.dtype)

    def _file(self) -> Any:
        with self._lock:
            if self._unpacked is None:
                unpacked = tempfile.NamedTemporaryFile(prefix="aequorea_", suffix=".nii")  # noqa: SIM115
                with gzip.open(self.path) as packed:
                    shutil.copyfileobj(packed, unpacked, 2**20)
                unpacked.flush()
                self._unpacked = unpacked
            return self._unpacked.name
