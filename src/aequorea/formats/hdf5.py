"""HDF5: plain files, Imaris ``.ims`` and BigDataViewer ``.h5`` (with its ``.xml`` beside it).

The file is opened anew for every read, under a lock: the HDF5 library is not safe in threads, and a file that
was open during a fork is not safe in the children.

Source: Imaris 5.5 file format (https://imaris.oxinst.com/support/imaris-file-format); BigDataViewer's HDF5
layout (https://imagej.net/plugins/bdv); ``element_size_um`` as h5 files of ilastik, PlantSeg and Fiji's HDF5
plug-in have it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import Any, ClassVar
from xml.etree import ElementTree

import numpy as np

from aequorea.errors import FormatError
from aequorea.plugs import OpenOptions
from aequorea.signal.axes import LETTERS, micrometres, voxel_spacing
from aequorea.signal.stored import Stored, as_volume, picked_scene, pyramid, reading, refuse, times_factor
from aequorea.volume import Array, Spacing, Volume

_MAGIC = b"\x89HDF\r\n\x1a\n"
_LOCK = RLock()


class Hdf5:
    """Datasets of HDF5 files (``dataset``), Imaris images, BigDataViewer set-ups (``scene``)."""

    name: ClassVar[str] = "hdf5"
    suffixes: ClassVar[tuple[str, ...]] = (".h5", ".hdf5", ".hdf", ".ims")

    def sniff(self, path: Path) -> bool:
        """Whether HDF5's signature stands at one of the places where it may."""
        try:
            with path.open("rb") as file:
                for place in (0, 512, 1024, 2048):
                    file.seek(place)
                    if file.read(8) == _MAGIC:
                        return True
        except OSError:
            return False
        return False

    def open(self, path: Path, options: OpenOptions) -> Volume:
        """Open lazily.

        Raises
        ------
        FormatError
            If the file is damaged, holds several datasets or set-ups and none is picked, or h5py is missing.
        """
        with _opened(path) as file:
            if options.dataset is None and "DataSet" in file and "DataSetInfo" in file:
                refuse(path, options, "scene")
                levels = _imaris(path, file)
            elif options.dataset is None and _setups(file):
                levels = _bigdataviewer(path, file, options.scene)
            else:
                refuse(path, options, "scene", "level")
                return as_volume(_plain(path, file, options.dataset), options)
        return pyramid(levels, options)

    def list(self, path: Path) -> Iterator[dict[str, str]]:
        """Yield each set-up of BigDataViewer, or each dataset."""
        with _opened(path) as file:
            if "DataSet" in file and "DataSetInfo" in file:
                found = [{"shape": " x ".join(map(str, _imaris(path, file)[0].shape))}]
            elif _setups(file):
                found = [{"scene": name} for name in _scenes(path, file)]
            else:
                found = [{"dataset": n, "shape": " x ".join(map(str, s))} for n, s in _datasets(file).items()]
        yield from found


@cache
def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError:
        raise FormatError("HDF5 needs h5py: pip install 'aequorea[formats]'") from None
    module: ModuleType = h5py
    return module


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open the file for this thread alone."""
    library = _h5py()
    with _LOCK:
        with reading(path, "HDF5"):
            file = library.File(path, "r", locking="best-effort")
        with file:
            yield file


def _fetch(path: Path, dataset: str) -> Callable[[tuple[slice, ...]], Array]:
    def fetch(index: tuple[slice, ...]) -> Array:
        with _opened(path) as file:
            values: Array = file[dataset][index]
            return values

    return fetch


def _chunks(dataset: Any) -> tuple[int, ...]:
    # what is not chunked lies in C order
    chunks: tuple[int, ...] = dataset.chunks or (1,) * (dataset.ndim - 2) + (
        min(64, dataset.shape[-2]),
        dataset.shape[-1],
    )
    return chunks


def _facts(dataset: Any) -> dict[str, str]:
    return {
        "compression": str(
            dataset.compression or ("filtered" if dataset.id.get_create_plist().get_nfilters() else "none")
        )
    }


def _datasets(file: Any) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, _h5py().Dataset) and node.ndim >= 2 and node.dtype.kind in "biufc":
            found[name] = tuple(node.shape)

    file.visititems(visit)
    return found


def _plain(path: Path, file: Any, name: str | None) -> Stored:
    with reading(path, "HDF5"):
        found = _datasets(file)
        listed = ", ".join(list(found)[:8]) + (", ..." if len(found) > 8 else "")
        if not found:
            raise FormatError(f"{path}: holds no image")
        if name is None and len(found) > 1:
            raise FormatError(f"{path}: holds {len(found)} datasets ({listed}); pick one with --dataset")
        name = next(iter(found)) if name is None else name.strip("/")
        if name not in found:
            raise FormatError(f"{path}: no dataset '{name}'; --dataset takes {listed}")
        dataset = file[name]
        axes = _axes(dataset)
        spacing = None
        size = dataset.attrs.get("element_size_um")
        if size is not None and np.size(size) == 3:
            z, y, x = (float(s) for s in np.ravel(size))
            at = axes.find("Z") if axes else dataset.ndim - 3
            spacing = voxel_spacing(z, y, x, dataset.shape[at] if at >= 0 else 1)
        return Stored(
            fetch=_fetch(path, name),
            shape=found[name],
            dtype=dataset.dtype,
            axes=axes,
            name=str(path),
            format="hdf5",
            spacing=spacing,
            chunks=_chunks(dataset),
            facts={"dataset": name, **_facts(dataset)},
        )


def _axes(dataset: Any) -> str | None:
    """Return the axes as ilastik tags them, or as HDF5 dimension labels, or ``None``."""
    tags = dataset.attrs.get("axistags")
    if tags is not None:
        words = json.loads(tags if isinstance(tags, str) else bytes(tags).decode())
        letters = "".join(str(axis["key"]) for axis in words["axes"]).upper()
    else:
        letters = "".join(str(dimension.label)[:1] or "?" for dimension in dataset.dims).upper()
    return letters if set(letters) <= set(LETTERS) and len(letters) == dataset.ndim else None


def _text(value: Any) -> str:
    """Return the text of an Imaris attribute, which is an array of single characters."""
    if isinstance(value, (bytes, str)):
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return b"".join(np.asarray(value).astype("S1").ravel().tolist()).decode("utf-8", "replace")


def _numbered(group: Any, word: str) -> list[str]:
    names = [name for name in group if name.startswith(word) and name[len(word) :].strip().isdecimal()]
    return sorted(names, key=lambda name: int(name[len(word) :]))


def _stack(
    path: Path, parts: dict[tuple[int, int], str], unsigned: bool
) -> Callable[[tuple[slice, ...]], Array]:
    """Return a fetch over (time, channel, z, y, x) where every volume is a dataset of its own.

    ``unsigned`` reads 16-bit integers as unsigned: BigDataViewer declares them signed, since Java knows no
    others.
    """

    def fetch(index: tuple[slice, ...]) -> Array:
        t, c, *box = index
        with _opened(path) as file:
            values = [
                [file[parts[i, j]][tuple(box)] for j in range(c.start, c.stop)]
                for i in range(t.start, t.stop)
            ]
        stacked = np.asarray(values)
        return stacked.view(np.uint16) if unsigned and stacked.dtype == np.int16 else stacked

    return fetch


def _imaris(path: Path, file: Any) -> list[Stored]:
    with reading(path, "Imaris"):
        info = file["DataSetInfo/Image"].attrs
        unit = micrometres(_text(info["Unit"])) if "Unit" in info else None
        extent = [float(_text(info[f"ExtMax{i}"])) - float(_text(info[f"ExtMin{i}"])) for i in (2, 1, 0)]
        levels: list[Stored] = []
        for level in _numbered(file["DataSet"], "ResolutionLevel "):
            times = _numbered(file["DataSet"][level], "TimePoint ")
            channels = _numbered(file["DataSet"][level][times[0]], "Channel ")
            parts = {
                (i, j): f"DataSet/{level}/{time}/{channel}/Data"
                for i, time in enumerate(times)
                for j, channel in enumerate(channels)
            }
            first = file[parts[0, 0]]
            attributes = file[f"DataSet/{level}/{times[0]}/{channels[0]}"].attrs
            # the data is padded to whole chunks; the size of the image stands beside it
            size = tuple(int(_text(attributes[f"ImageSize{axis}"])) for axis in "ZYX")
            steps = [e / n for e, n in zip(extent, size)]
            z, y, x = (None if unit is None else step * unit for step in steps)
            finest = levels[0].shape[2:] if levels else size
            levels.append(
                Stored(
                    fetch=_stack(path, parts, unsigned=False),
                    shape=(len(times), len(channels), *size),
                    dtype=first.dtype,
                    axes="TCZYX",
                    name=str(path),
                    format="hdf5",
                    spacing=voxel_spacing(z, y, x, size[0]),
                    factor=(finest[0] / size[0], finest[1] / size[1], finest[2] / size[2]),
                    channels=_imaris_names(file, channels),
                    chunks=(1, 1, *_chunks(first)),
                    facts={"kind": "Imaris", **_facts(first)},
                )
            )
        return levels


def _imaris_names(file: Any, channels: list[str]) -> list[str]:
    info = file["DataSetInfo"]
    return [_text(info[c].attrs["Name"]) if c in info and "Name" in info[c].attrs else "" for c in channels]


def _setups(file: Any) -> list[str]:
    """Return the names of BigDataViewer's set-ups; none where the file is of another kind."""
    return (
        [name for name in _numbered(file, "s") if "resolutions" in file[name]] if _numbered(file, "t") else []
    )


@dataclass(frozen=True)
class _Setup:
    """What the XML says of one set-up."""

    spacing: Spacing | None
    size: str
    channel: str
    place: tuple[tuple[str, str], ...]


def _described(path: Path) -> dict[str, _Setup]:
    """Return the set-ups of the ``.xml`` beside the file, by number; nothing where there is none."""
    beside = path.with_suffix(".xml")
    if not beside.is_file():
        return {}
    with reading(beside, "BigDataViewer XML"):
        root = ElementTree.parse(beside).getroot()
        called = {e.findtext("id", ""): e.findtext("name", "") for e in root.iter("Channel")}
        found = {}
        for setup in root.iter("ViewSetup"):
            unit = micrometres(setup.findtext("voxelSize/unit"))
            words = (setup.findtext("voxelSize/size") or "").split()
            x, y, z = (float(s) * unit for s in words) if unit and len(words) == 3 else (None, None, None)
            attributes = {e.tag: (e.text or "").strip() for e in setup.iterfind("attributes/*")}
            channel = attributes.pop("channel", "")
            found[setup.findtext("id", "").strip()] = _Setup(
                voxel_spacing(z, y, x, depth=0),
                setup.findtext("size", ""),
                called.get(channel) or channel,
                tuple(sorted(attributes.items())),
            )
        return found


def _scenes(path: Path, file: Any) -> dict[str, tuple[list[str], list[str]]]:
    """Return what can be opened as one volume, by name: its set-ups and the names of their channels.

    Set-ups that differ in nothing but the channel, as the XML says, are the channels of one volume.
    """
    setups, described = _setups(file), _described(path)
    numbers = [str(int(name[1:])) for name in setups]
    known = [described[n] for n in numbers if n in described]
    channels = [setup.channel for setup in known]
    alike = len({(setup.size, setup.spacing, setup.place) for setup in known}) == 1
    if len(setups) > 1 and len(known) == len(setups) and alike and len(set(channels)) == len(channels):
        return {"0": (setups, channels)}
    return {n: ([name], []) for n, name in zip(numbers, setups)}


def _bigdataviewer(path: Path, file: Any, scene: int | str | None) -> list[Stored]:
    with reading(path, "BigDataViewer HDF5"):
        scenes = _scenes(path, file)
        names = list(scenes)
        setups, channels = scenes[names[picked_scene(names, scene, str(path), "set-ups")]]
        described = _described(path).get(str(int(setups[0][1:])))
        times = _numbered(file, "t")
        levels = []
        for level, resolution in enumerate(np.asarray(file[setups[0]]["resolutions"], float)):
            parts = {
                (i, j): f"{time}/{setup}/{level}/cells"
                for i, time in enumerate(times)
                for j, setup in enumerate(setups)
            }
            first = file[parts[0, 0]]
            factor = (float(resolution[2]), float(resolution[1]), float(resolution[0]))
            spacing = described.spacing if described else None
            levels.append(
                Stored(
                    fetch=_stack(path, parts, unsigned=True),
                    shape=(len(times), len(setups), *first.shape),
                    dtype=np.dtype(np.uint16) if first.dtype == np.int16 else first.dtype,
                    axes="TCZYX",
                    name=str(path),
                    format="hdf5",
                    spacing=None if spacing is None else times_factor(spacing, factor),
                    factor=factor,
                    channels=channels,
                    chunks=(1, 1, *_chunks(first)),
                    facts={"kind": "BigDataViewer", **_facts(first)},
                )
            )
        return levels
