"""Opening anything as a volume: ``aequorea.open``.

Paths go to the first registered format that knows them; arrays are wrapped where they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from aequorea import registry
from aequorea.errors import AequoreaError, FormatError
from aequorea.plugs import Format, OpenOptions
from aequorea.signal.axes import picked_channels, told_spacing
from aequorea.signal.stored import Stored, as_volume, first_bytes, reading
from aequorea.volume import Array, Spacing, Volume, from_array


def open(
    source: Any,
    *,
    axes: str | None = None,
    spacing: Spacing | None = None,
    channel: str | int | None = None,
    time: int | None = None,
    scene: int | str | None = None,
    level: int | None = None,
    dataset: str | None = None,
    many: Literal["sequence", "each"] | None = None,
) -> Volume:
    """Open a file, folder or array as a lazy volume of axes ``C Z Y X``.

    Parameters
    ----------
    source
        A path; a NumPy, Dask or Zarr array (without ``axes``: ``Y X``, ``Z Y X`` or ``C Z Y X``, or what a
        Zarr array's dimensions are called); or a volume, which comes back as it is or with ``spacing`` and
        ``channel`` applied.
    axes
        One letter per stored axis (T, C, Z, Y, X, S for the samples of a colour), where the metadata does not
        say or is wrong.
    spacing
        Voxel size in µm (z, y, x) of the finest level, overriding the file's.
    channel
        What to keep: a number, a name, or several separated by commas.
    time, scene, level, dataset
        What to pick in a file that holds several time points, images, levels of a pyramid, or arrays.
    many
        What a folder of 2-D images is: the planes of one volume, ``"sequence"``, or separate images,
        ``"each"``.

    Returns
    -------
    Volume
        Nothing but metadata is read until ``read`` is called (PNG and JPEG excepted).

    Raises
    ------
    FormatError
        One line: if the file is missing, damaged or of no known format, or if what it holds is ambiguous;
        then the line names the option that settles it.

    Examples
    --------
    >>> import numpy as np
    >>> open(np.zeros((5, 40, 60), np.uint8), spacing=(2.0, 0.5, 0.5)).shape
    (1, 5, 40, 60)
    """
    options = OpenOptions(
        axes=axes,
        spacing=told_spacing(spacing),
        channel=None if channel is None else str(channel),
        time=time,
        scene=scene,
        level=level,
        dataset=dataset,
        many=many,
    )
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        plug = format_of(path)
        with reading(path, plug.name):
            return plug.open(path, options)
    if isinstance(source, Volume):
        return _narrowed(source, options)
    if not hasattr(source, "shape") or not hasattr(source, "dtype"):
        raise FormatError(f"a {type(source).__name__} is neither a path nor an array")
    return _from_array(source, options)


def opened(source: Any) -> Volume:
    """Return a volume as it is, and whatever else :func:`open` takes opened."""
    return source if isinstance(source, Volume) else open(source)


def open_many(
    path: str | Path, *, failed: Callable[[AequoreaError], None] | None = None, **options: Any
) -> Iterator[tuple[str, Volume]]:
    """Open everything in a file or folder: a volume for each file, scene and time point that is not picked.

    Parameters
    ----------
    path
        A file; or a folder of images, with ``many="each"``.
    failed
        Receives what a file of a folder cannot be read for, and the next is opened; default: it is raised.
    **options
        As for :func:`open`.

    Yields
    ------
    tuple of str and Volume
        A name fit for a file (``STEM``, ``STEM_SCENE``, ``STEM_t007``), unlike for each, and the volume with
        its channels.

    Raises
    ------
    FormatError
        As :func:`open`.
    """
    path = Path(path).expanduser()
    plug = format_of(path)
    if options.get("many") == "each" and plug.name == "sequence":
        inner = {word: value for word, value in options.items() if word != "many"}
        files = [path / facts["file"] for facts in plug.list(path)]
        stems = [_stem(file) for file in files]
        for file, stem in zip(files, stems):
            # pictures whose names differ in the suffix alone keep it
            name = stem if stems.count(stem) == 1 else _word(file.name)
            try:
                for found, volume in open_many(file, **inner):
                    yield found.replace(stem, name, 1), volume
            except FormatError as error:
                if failed is None:
                    raise
                failed(error)
        return
    scenes: list[str | int | None] = [options.pop("scene", None)]
    if scenes == [None] and options.get("dataset") is None:
        listed = [facts["scene"] for facts in plug.list(path) if "scene" in facts]
        scenes = list(listed) if len(listed) > 1 else scenes
    for scene in scenes:
        named = _stem(path) + (f"_{_word(str(scene))}" if len(scenes) > 1 else "")
        if options.get("time") is not None:
            yield named, open(path, scene=scene, **options)
            continue
        first = open(path, scene=scene, **(options | {"time": 0}))
        times = int(first.extra.get("time points", 1))
        for time in range(times):
            volume = first if time == 0 else open(path, scene=scene, **(options | {"time": time}))
            yield named + (f"_t{time:0{len(str(times - 1))}d}" if times > 1 else ""), volume


def format_of(path: Path) -> Format:
    """Return the first registered format that knows a file or folder.

    Raises
    ------
    FormatError
        If there is no such file, it is empty or must not be read, or no format knows it.
    """
    try:
        if not path.exists():
            raise FormatError(f"{path}: no such file or folder")
        if path.is_dir():
            next(path.iterdir(), None)
        elif path.stat().st_size == 0:
            raise FormatError(f"{path}: is empty")
        else:
            path.open("rb").close()
    except PermissionError:
        raise FormatError(f"{path}: no permission to read it") from None
    claimed = []
    for name in registry.names("formats"):
        plug: Format = registry.find("formats", name)()
        if plug.sniff(path):
            return plug
        if path.name.lower().endswith(plug.suffixes):
            claimed.append(name)
    if path.is_dir():
        raise FormatError(f"{path}: a folder without images in it")
    if claimed:
        begin = first_bytes(path, 8).hex(" ")
        raise FormatError(
            f"{path}: is named like {claimed[0]}, but is none (it begins with {begin}); is it damaged?"
        )
    known = ", ".join(
        s for name in registry.names("formats") for s in registry.find("formats", name).suffixes
    )
    raise FormatError(f"{path}: no known image format; known are {known}")


def _from_array(array: Any, options: OpenOptions) -> Volume:
    for word in ("scene", "level", "dataset", "many"):
        if getattr(options, word) is not None:
            raise FormatError(f"array: {word}= picks in a file, an array has none")
    names = getattr(getattr(array, "metadata", None), "dimension_names", None)
    axes = None
    if options.axes is None and names and all(str(name).upper() in set("TCZYX") for name in names):
        axes = "".join(str(name).upper() for name in names)
    if options.axes is None and axes is None:
        return _narrowed(from_array(array), options)

    def fetch(index: tuple[slice, ...]) -> Array:
        return np.asarray(array[index])

    chunks = getattr(array, "chunks", None)
    if chunks is not None:
        # Dask lists the length of every chunk
        chunks = tuple(n if isinstance(n, int) else max(n) for n in chunks)
    shape = tuple(int(n) for n in array.shape)
    return as_volume(
        Stored(fetch, shape, np.dtype(array.dtype), axes, "array", "array", chunks=chunks), options
    )


def _narrowed(volume: Volume, options: OpenOptions) -> Volume:
    for word in ("axes", "time", "scene", "level", "dataset", "many"):
        if getattr(options, word) is not None:
            raise FormatError(f"{volume.name}: {word}= cannot be picked in what is a volume already")
    if options.channel is not None:
        volume = volume.pick(picked_channels(options.channel, volume.channels, volume.name))
    if options.spacing is not None:
        z, y, x = options.spacing
        levels = tuple(
            replace(
                level,
                spacing=(
                    z * volume.size[0] / level.size[0],
                    y * volume.size[1] / level.size[1],
                    x * volume.size[2] / level.size[2],
                ),
            )
            for level in volume.levels
        )
        volume = replace(volume, spacing=options.spacing, levels=levels)
    return volume


def _stem(path: Path) -> str:
    suffixes = [s for name in registry.names("formats") for s in registry.find("formats", name).suffixes]
    suffixes += [".ome.tif", ".ome.tiff"]
    for suffix in sorted(suffixes, key=len, reverse=True):
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return _word(path.name[: -len(suffix)])
    return _word(path.name)


def _word(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text)
