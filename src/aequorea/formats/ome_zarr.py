"""OME-Zarr (0.1 to 0.5, Zarr 2 and 3) and plain Zarr arrays.

An image group gives its pyramid. A plate (wells and fields), a collection of images as bioformats2raw writes
it, and several multiscales in one group are scenes. Labels are images too: ``dataset="labels/NAME"``.
Metadata is read leniently, since much of what lies about does not validate; what is written elsewhere in the
package does.

Source: OME-Zarr 0.4 and 0.5 (https://ngff.openmicroscopy.org).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import zarr

from aequorea.errors import FormatError
from aequorea.plugs import OpenOptions
from aequorea.signal.axes import micrometres, voxel_spacing
from aequorea.signal.stored import Stored, as_volume, first_line, pyramid, reading, refuse
from aequorea.volume import Spacing, Volume

_METADATA = ("zarr.json", ".zgroup", ".zarray", ".zattrs")


class OmeZarr:
    """OME-Zarr images, plates, collections and labels; plain Zarr arrays."""

    name: ClassVar[str] = "ome_zarr"
    suffixes: ClassVar[tuple[str, ...]] = (".ome.zarr", ".zarr")

    def sniff(self, path: Path) -> bool:
        """Whether the path is a folder with Zarr metadata, or is named like one."""
        try:
            return path.is_dir() and (
                path.suffix == ".zarr" or any((path / name).is_file() for name in _METADATA)
            )
        except OSError:
            return False

    def open(self, path: Path, options: OpenOptions) -> Volume:
        """Open an image lazily.

        Raises
        ------
        FormatError
            If metadata is missing or damaged, or it holds several images or arrays and none is picked.
        """
        node = _node(path, options.dataset)
        if isinstance(node, zarr.Array):
            refuse(path, options, "scene", "level")
            return as_volume(_array(path, node), options)
        scenes = _scenes(path, node)
        if not scenes:
            refuse(path, options, "scene", "level")
            return as_volume(_array(path, _only_array(path, node)), options)
        group, number = scenes[_scene(path, list(scenes), options.scene)]
        with reading(path, "OME-Zarr"):
            levels = _levels(path, group, number)
        if len(scenes) > 1:
            levels[0].facts["scenes"] = str(len(scenes))
        return pyramid(levels, options)

    def list(self, path: Path) -> Iterator[dict[str, str]]:
        """Yield each image: fields of wells, members of a collection."""
        node = _node(path, None)
        if isinstance(node, zarr.Array):
            yield {"shape": " x ".join(map(str, node.shape))}
            return
        for scene, (group, number) in _scenes(path, node).items():
            with reading(path, "OME-Zarr"):
                stored = _levels(path, group, number)[0]
            yield {"scene": scene, "axes": str(stored.axes), "shape": " x ".join(map(str, stored.shape))}


def _node(path: Path, inside: str | None) -> zarr.Array | zarr.Group:
    try:
        node = zarr.open(str(path), mode="r")
    except PermissionError:
        raise FormatError(f"{path}: no permission to read it") from None
    except FileNotFoundError:
        raise FormatError(f"{path}: no .zgroup, .zarray or zarr.json in it: not a Zarr") from None
    except Exception as error:
        raise FormatError(
            f"{path}: cannot be read as Zarr ({first_line(error)}); is its metadata damaged?"
        ) from error
    if not inside:
        return node
    with reading(path, "Zarr"):
        if isinstance(node, zarr.Array) or inside not in node:
            raise FormatError(f"{path}: nothing called '{inside}' in it; --dataset takes e.g. labels/NAME")
        return node[inside]


def _ngff(group: zarr.Group) -> Mapping[str, Any]:
    attributes = group.attrs.asdict()
    inner = attributes.get("ome", attributes)
    return inner if isinstance(inner, Mapping) else {}


def _scenes(path: Path, group: zarr.Group) -> dict[str, tuple[zarr.Group, int]]:
    """Return each image by what ``scene`` calls it: its group and the number of its multiscales entry."""
    with reading(path, "OME-Zarr"):
        words = _ngff(group)
        if "multiscales" in words:
            several = words["multiscales"]
            names = [str(entry.get("name", i)) for i, entry in enumerate(several)]
            if len(set(names)) < len(names):
                names = [str(i) for i in range(len(several))]
            return {name: (group, i) for i, name in enumerate(names)}
        if "plate" in words:
            return {
                f"{well['path']}/{field['path']}": (_child(group, f"{well['path']}/{field['path']}"), 0)
                for well in words["plate"]["wells"]
                for field in _ngff(_child(group, well["path"]))["well"]["images"]
            }
        if "well" in words:
            return {
                str(field["path"]): (_child(group, field["path"]), 0) for field in words["well"]["images"]
            }
        if "bioformats2raw.layout" in words:
            listed = _ngff(_child(group, "OME")).get("series") if "OME" in group else None
            names = listed or sorted((name for name in group.group_keys() if name.isdecimal()), key=int)
            return {str(name): (_child(group, str(name)), 0) for name in names}
        return {}


def _child(group: zarr.Group, name: str) -> zarr.Group:
    child = group[name]
    if not isinstance(child, zarr.Group):
        raise FormatError(f"{group.store_path}: '{name}' should be a group")
    return child


def _scene(path: Path, names: list[str], scene: int | str | None) -> str:
    listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    if not names:
        raise FormatError(f"{path}: holds no image")
    if scene is None and len(names) > 1:
        raise FormatError(f"{path}: holds {len(names)} images ({listed}); pick one with --scene")
    if scene is None:
        return names[0]
    word = str(scene).strip("/")
    if word in names:
        return word
    fields = [name for name in names if name.startswith(f"{word}/")]
    if len(fields) == 1:
        return fields[0]
    if fields:
        raise FormatError(f"{path}: well {word} has {len(fields)} fields; pick one with --scene {fields[0]}")
    if word.isdecimal() and int(word) < len(names):
        return names[int(word)]
    raise FormatError(f"{path}: no scene '{word}'; --scene takes {listed}")


def _levels(path: Path, group: zarr.Group, number: int) -> list[Stored]:
    words = _ngff(group)
    image = words["multiscales"][number]
    arrays = [group[entry["path"]] for entry in image["datasets"]]
    if not all(isinstance(array, zarr.Array) for array in arrays):
        raise FormatError(f"{path}: its pyramid names something that is no array")
    axes = image.get("axes") or ["t", "c", "z", "y", "x"][-arrays[0].ndim :]
    letters = "".join(_letter(axis) for axis in axes)
    scales = [
        _scale(len(letters), entry.get("coordinateTransformations"), image.get("coordinateTransformations"))
        for entry in image["datasets"]
    ]
    units = [micrometres(axis.get("unit")) if isinstance(axis, Mapping) else None for axis in axes]
    channels = [str(c.get("label", "")) for c in words.get("omero", {}).get("channels", [])]
    levels = []
    for array, scale in zip(arrays, scales):
        if array.ndim != len(letters):
            raise FormatError(f"{path}: {len(letters)} axes declared, but '{array.path}' has {array.ndim}")
        step = dict(zip(letters, scale))
        size = {a: s * u for a, s, u in zip(letters, scale, units) if u is not None}
        depth = array.shape[letters.index("Z")] if "Z" in letters else 1
        spacing = voxel_spacing(size.get("Z"), size.get("Y"), size.get("X"), depth)
        facts = {
            "version": str(image.get("version") or words.get("version") or "0.5"),
            "compression": _compression(array),
        }
        if array.shards:
            facts["shards"] = " x ".join(map(str, array.shards))
        if spacing is None and any(s != 1 for a, s in step.items() if a in "ZYX"):
            told = ", ".join(f"{a.lower()} {step[a]:.4g}" for a in "ZYX" if a in step)
            facts["spacing"] = f"the file says {told} without a unit of length"
        levels.append(
            Stored(
                fetch=array.__getitem__,
                shape=array.shape,
                dtype=np.dtype(array.dtype),
                axes=letters,
                name=str(path),
                format="ome_zarr",
                spacing=spacing,
                factor=_factor(letters, scale, scales[0]),
                channels=channels,
                chunks=array.chunks,
                facts=facts,
            )
        )
    return levels


def _letter(axis: Any) -> str:
    name, kind = (axis.get("name", ""), axis.get("type")) if isinstance(axis, Mapping) else (str(axis), None)
    if name.upper() in set("TCZYX"):
        return str(name.upper())
    return {"time": "T", "channel": "C"}.get(str(kind), "?")


def _scale(ndim: int, *transformations: Any) -> list[float]:
    scale = [1.0] * ndim
    for several in transformations:
        for one in several or []:
            if one.get("type") == "scale":
                scale = [a * float(b) for a, b in zip(scale, one["scale"], strict=True)]
    return scale


def _factor(letters: str, scale: list[float], finest: list[float]) -> Spacing:
    ratio = {a: s / f if f > 0 else 1.0 for a, s, f in zip(letters, scale, finest)}
    return ratio.get("Z", 1.0), ratio.get("Y", 1.0), ratio.get("X", 1.0)


def _array(path: Path, array: zarr.Array) -> Stored:
    name = str(path) if not array.path else f"{path}/{array.path}"
    dimensions = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    named = isinstance(dimensions, (list, tuple)) and all(str(d).upper() in set("TCZYX") for d in dimensions)
    shape = tuple(array.shape)
    return Stored(
        fetch=array.__getitem__,
        shape=shape,
        dtype=np.dtype(array.dtype),
        axes="".join(str(d).upper() for d in dimensions) if named and dimensions else None,
        name=name,
        format="ome_zarr",
        chunks=array.chunks,
        facts={"compression": _compression(array)},
    )


def _only_array(path: Path, group: zarr.Group) -> zarr.Array:
    with reading(path, "Zarr"):
        arrays = [(name, node) for name, node in group.members(max_depth=4) if isinstance(node, zarr.Array)]
    images = [(name, node) for name, node in arrays if node.ndim >= 2]
    if len(images) == 1:
        return images[0][1]
    if not images:
        raise FormatError(f"{path}: holds no image")
    listed = ", ".join(sorted(name for name, _ in images)[:8])
    raise FormatError(f"{path}: holds {len(images)} arrays ({listed}); pick one with --dataset")


def _compression(array: zarr.Array) -> str:
    def word(codec: Any) -> str:
        words = codec.to_dict() if hasattr(codec, "to_dict") else codec.get_config()
        inner = words.get("configuration", words)
        return str(inner.get("cname") or words.get("name") or words.get("id"))

    return " + ".join(word(codec) for codec in array.compressors) or "none"
