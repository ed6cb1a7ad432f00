"""From an array as a file holds it to a volume: the part that all formats share.

A format describes what it found as a :class:`Stored` (axes in any order, a function that fetches slices, what
the metadata says); :func:`as_volume` applies what the user said (``--axes``, ``--spacing``, ``--channel``,
``--time``) and gives the lazy ``C Z Y X`` volume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from aequorea.errors import AequoreaError, FormatError
from aequorea.plugs import OpenOptions
from aequorea.signal.axes import LETTERS, channel_names, picked_channels, plain_axes, told_axes, told_spacing
from aequorea.volume import Array, Region, Spacing, Triple, Volume

Fetch = Callable[[tuple[slice, ...]], Array]
"""Returns the elements in slices (one per stored axis, step 1) without dropping axes; safe in threads."""


@dataclass(frozen=True)
class Stored:
    """An array as a file holds it, and what the file says of it.

    Attributes
    ----------
    fetch
        Reads slices of the array.
    shape, dtype
        Of the array.
    axes
        One letter per axis, others than ``TCZYXS`` only where the meaning is not known; ``None`` where the
        file says nothing at all, so that the order ``Z Y X`` holds (:func:`aequorea.signal.axes.plain_axes`).
    name, format
        For messages: the path, and the registered name of the format.
    spacing
        Voxel size in µm (z, y, x), or ``None``.
    factor
        Voxels (z, y, x) of the finest level per voxel of this one.
    channels
        Names, one per channel, or none.
    chunks
        Stored unit along every axis.
    facts
        What ``aequorea info`` prints besides.
    """

    fetch: Fetch
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: str | None
    name: str
    format: str
    spacing: Spacing | None = None
    factor: Spacing = (1.0, 1.0, 1.0)
    channels: Sequence[str] = ()
    chunks: tuple[int, ...] | None = None
    facts: dict[str, str] = field(default_factory=dict)


def as_volume(stored: Stored, options: OpenOptions) -> Volume:
    """Return the volume of a stored array, as the user's options say.

    Raises
    ------
    FormatError
        If the array is empty or not of numbers, its axes are ambiguous, or there are several time points and
        none is picked.
    """
    name, shape = stored.name, stored.shape
    if stored.dtype.kind == "c":
        raise FormatError(f"{name}: complex numbers are no image; save the magnitude or phase instead")
    if stored.dtype.kind not in "biuf":
        raise FormatError(f"{name}: values of type {stored.dtype} are no intensities")
    if 0 in shape:
        raise FormatError(f"{name}: an empty array of shape {' x '.join(map(str, shape))}")
    if options.axes:
        axes = told_axes(options.axes, shape, name)
    else:
        axes = (
            plain_axes(shape, stored.dtype, name) if stored.axes is None else _known_axes(stored, stored.axes)
        )
    length = {letter: n for letter, n in zip(axes, shape) if letter in LETTERS}
    times, samples = length.get("T", 1), length.get("S", 1)
    time = _picked_time(options.time, times, name)
    channels = channel_names(stored.channels, length.get("C", 1), samples)
    chosen = picked_channels(options.channel, channels, name)
    size = (length.get("Z", 1), length.get("Y", 1), length.get("X", 1))

    def fetch(part: dict[str, slice], count: int, region: Region) -> Array:
        index = tuple(part.get(letter, slice(0, 1)) for letter in axes)
        try:
            block = np.asarray(stored.fetch(index))
        except (AequoreaError, MemoryError):
            raise
        except Exception as error:
            raise FormatError(
                f"{name}: region {region} cannot be read ({first_line(error)}); is it damaged?"
            ) from error
        order = [axes.index(letter) for letter in "CSZYX" if letter in axes]
        rest = [i for i in range(len(axes)) if i not in order]
        return block.transpose(rest + order).reshape(count, *region.size)

    def reader(region: Region) -> Array:
        z, y, x = region.slices
        place = {"T": slice(time, time + 1), "Z": z, "Y": y, "X": x}
        if len(chosen) == len(channels) and chosen == sorted(chosen):
            every = {"C": slice(0, length.get("C", 1)), "S": slice(0, samples)}
            return fetch(place | every, len(channels), region)
        parts = []
        for channel in chosen:
            c, s = divmod(channel, samples)
            parts.append(fetch(place | {"C": slice(c, c + 1), "S": slice(s, s + 1)}, 1, region))
        return np.concatenate(parts)

    shown = [(a, str(n)) for a, n in zip(axes, shape) if n > 1 or a in "YX"]
    facts = {"stored as": f"{''.join(a for a, _ in shown)} {' x '.join(n for _, n in shown)}"}
    if times > 1:
        facts["time points"] = str(times)
    return Volume(
        reader=reader,
        shape=(len(chosen), *size),
        dtype=stored.dtype.newbyteorder("="),
        spacing=_spacing(stored, options),
        channels=tuple(channels[i] for i in chosen),
        chunks=_chunks(stored.chunks, axes, size),
        name=name,
        format=stored.format,
        extra=facts | stored.facts,
    )


def pyramid(levels: Sequence[Stored], options: OpenOptions) -> Volume:
    """Return the volume of one level (``options.level``, else the finest), the coarser ones in ``levels``.

    Raises
    ------
    FormatError
        If the level does not exist, or as :func:`as_volume`.
    """
    first = options.level or 0
    if not 0 <= first < len(levels):
        raise FormatError(f"{levels[0].name}: no level {first}; --level takes 0 to {len(levels) - 1}")
    volumes = [as_volume(level, options) for level in levels[first:]]
    return replace(volumes[0], levels=tuple(volumes[1:]))


def _known_axes(stored: Stored, axes: str) -> str:
    axes = "".join(a if a in LETTERS or n > 1 else "-" for a, n in zip(axes, stored.shape))
    known = axes.replace("-", "")
    if not set(known) <= set(LETTERS) or len(set(known)) != len(known) or not {"Y", "X"} <= set(known):
        sizes = " x ".join(str(n) for n in stored.shape if n > 1) or " x ".join(map(str, stored.shape))
        raise FormatError(
            f"{stored.name}: nothing says what the axes of {sizes} are; "
            "say it with --axes, one letter each of T, C, Z, Y, X, S"
        )
    return axes


def _picked_time(time: int | None, times: int, name: str) -> int:
    if time is None and times > 1:
        raise FormatError(f"{name}: {times} time points; pick one with --time 0 to --time {times - 1}")
    if not 0 <= (time or 0) < times:
        raise FormatError(f"{name}: no time point {time}; --time takes 0 to {times - 1}")
    return time or 0


def _spacing(stored: Stored, options: OpenOptions) -> Spacing | None:
    told = told_spacing(options.spacing)
    return stored.spacing if told is None else times_factor(told, stored.factor)


def _chunks(chunks: tuple[int, ...] | None, axes: str, size: Triple) -> Triple:
    if chunks is None:
        z, y, x = (min(64, n) for n in size)
    else:
        at = dict(zip(axes, chunks))
        z, y, x = (max(1, min(at.get(letter, 1), n)) for letter, n in zip("ZYX", size))
    return z, y, x


def times_factor(spacing: Spacing, factor: Spacing) -> Spacing:
    """Return the spacing of a level from that of the finest one."""
    return spacing[0] * factor[0], spacing[1] * factor[1], spacing[2] * factor[2]


def picked_scene(names: Sequence[str], scene: int | str | None, file: str, what: str = "images") -> int:
    """Return the number of the scene that the user picked, by name or number; the only one needs no picking.

    Raises
    ------
    FormatError
        If there are several and none is picked, or there is no such scene; the message lists them.
    """
    listed = ", ".join(name if name == str(i) else f"{i} '{name}'" for i, name in enumerate(names[:8]))
    listed += ", ..." if len(names) > 8 else ""
    if scene is None and len(names) == 1:
        return 0
    if scene is None:
        raise FormatError(f"{file}: holds {len(names)} {what} ({listed}); pick one with --scene")
    if str(scene) in names:
        return list(names).index(str(scene))
    if str(scene).isdecimal() and int(scene) < len(names):
        return int(scene)
    raise FormatError(f"{file}: no scene '{scene}'; --scene takes {listed}")


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or the name of its class."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def first_bytes(path: Path, count: int) -> bytes:
    """Return the beginning of a file; nothing where there is no file or it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError:
        return b""


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a reading library raises into one line: the file and what it should have been."""
    try:
        yield
    except AequoreaError:
        raise
    except PermissionError:
        raise FormatError(f"{path}: no permission to read it") from None
    except Exception as error:
        raise FormatError(
            f"{path}: cannot be read as {kind} ({first_line(error)}); is it damaged or cut off?"
        ) from error


def refuse(path: Path, options: OpenOptions, *words: str) -> None:
    """Raise :class:`FormatError` where the user picks a scene, level or dataset in a file without them."""
    for word in words:
        value = getattr(options, word)
        if value is not None and str(value) != "0":
            raise FormatError(f"{path}: has no {word}s to pick from; leave --{word} out")
