"""What the axes of a stored array mean: letters, units, voxel spacing, channel names.

Pure functions between what files say (``"TCZYX"``, ``0.5 nanometer``) and what a volume is (``C Z Y X``, µm).
Nothing is guessed: what a file does not say stays unknown, and what can be meant in two ways is an error that
names the option which settles it.

Source: axis letters as in the OME model (https://docs.openmicroscopy.org/ome-model); unit names as in
OME-Zarr 0.5 (UDUNITS-2) and as ImageJ, OME-TIFF, NIfTI and Imaris write them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aequorea.errors import FormatError
from aequorea.volume import Spacing, is_length

LETTERS = "TCZYXS"
"""Time, channel, z, y, x and the samples of a colour pixel (which become channels)."""

_MICROMETRES = {
    "picometer": 1e-6,
    "pm": 1e-6,
    "angstrom": 1e-4,
    "å": 1e-4,
    "nanometer": 1e-3,
    "nm": 1e-3,
    "micrometer": 1.0,
    "micron": 1.0,
    "um": 1.0,
    "millimeter": 1e3,
    "mm": 1e3,
    "centimeter": 1e4,
    "cm": 1e4,
    "inch": 25400.0,
    "in": 25400.0,
    "meter": 1e6,
    "m": 1e6,
}


def micrometres(unit: object) -> float | None:
    """Return how many µm a unit is, e.g. 0.001 for ``"nm"`` or ``"nanometers"``; ``None`` for no length."""
    if isinstance(unit, bytes):
        unit = unit.decode("utf-8", "replace")
    if not isinstance(unit, str):
        return None
    word = unit.strip().replace("\\u00B5", "u").lower().replace("µ", "u").replace("μ", "u")
    for form in (word, word.removesuffix("s"), word.replace("metre", "meter").removesuffix("s")):
        if form in _MICROMETRES:
            return _MICROMETRES[form]
    return None


def voxel_spacing(z: float | None, y: float | None, x: float | None, depth: int) -> Spacing | None:
    """Return a spacing where it is known along every axis that needs one, else ``None``.

    Parameters
    ----------
    z, y, x
        Voxel size in µm; ``None``, 0, negative and non-finite numbers mean that it is not known.
    depth
        Voxels along z. An image of one plane needs no z step: it is given that of y.
    """
    if depth == 1 and not is_length(z):
        z = y
    if z is None or y is None or x is None or not all(map(is_length, (z, y, x))):
        return None
    return float(z), float(y), float(x)


def told_spacing(spacing: Sequence[float] | None) -> Spacing | None:
    """Return the spacing that a user gave: three positive numbers, else a :class:`FormatError`."""
    if spacing is None:
        return None
    try:
        values = tuple(float(s) for s in spacing)
    except (TypeError, ValueError):
        values = ()
    if len(values) != 3 or not all(map(is_length, values)):
        raise FormatError(f"spacing {spacing} is not three positive numbers in µm: --spacing Z,Y,X")
    return values[0], values[1], values[2]


def spatial_axes(text: str | None) -> str | None:
    """Return the letters of space alone: of labels and masks, which lie on an image's grid without its channels."""
    return None if text is None else "".join(letter for letter in text if letter.upper() in "ZYX")


def told_axes(text: str, shape: Sequence[int], name: str) -> str:
    """Return one letter per axis from what a user wrote, ``-`` for axes of length 1 that were left out.

    Parameters
    ----------
    text
        Letters of ``TCZYXS``, as many as ``shape`` has axes, or axes longer than 1.
    shape
        Of the stored array.
    name
        For messages.

    Raises
    ------
    FormatError
        If letters are unknown, repeated or too few, or Y or X is missing.
    """
    axes = text.strip().upper()
    if not set(axes) <= set(LETTERS) or len(set(axes)) != len(axes) or not {"Y", "X"} <= set(axes):
        raise FormatError(
            f"{name}: --axes {text} must be different letters of T, C, Z, Y, X, S with Y and X among them"
        )
    if len(axes) == len(shape):
        return axes
    long = [i for i, n in enumerate(shape) if n > 1]
    if len(axes) != len(long):
        size = " x ".join(str(n) for n in shape)
        raise FormatError(
            f"{name}: --axes {text} has {len(axes)} letters, the array is {size}: give one letter per axis"
        )
    letters = dict(zip(long, axes))
    return "".join(letters.get(i, "-") for i in range(len(shape)))


def plain_axes(shape: Sequence[int], dtype: np.dtype, name: str) -> str:
    """Return the axes of an array that says nothing of them: ``YX`` or ``ZYX`` (slowest axis first).

    Raises
    ------
    FormatError
        If they could be meant otherwise: four or more axes longer than 1, or a last axis of 3 or 4 bytes that
        may be colour.
    """
    size = " x ".join(str(n) for n in shape)
    long = [i for i, n in enumerate(shape) if n > 1]
    if len(shape) < 2:
        raise FormatError(f"{name}: an array of {len(shape)} axes is no image; it needs Y and X")
    if len(shape) >= 3 and shape[-1] in (3, 4) and np.dtype(dtype) == np.uint8:
        raise FormatError(
            f"{name}: the last axis of {size} may be colour or x; say which with --axes "
            f"{_example(len(shape), colour=True)} or --axes {_example(len(shape), colour=False)}"
        )
    if len(shape) <= 3:
        return "ZYX"[-len(shape) :]
    if len(long) <= 3 and set(range(len(shape) - 3)).isdisjoint(long):
        return "-" * (len(shape) - 3) + "ZYX"
    raise FormatError(
        f"{name}: nothing says what the {len(shape)} axes of {size} are; say it with --axes, e.g. "
        f"--axes {_example(len(shape), colour=False)}"
    )


def _example(count: int, colour: bool) -> str:
    return (LETTERS[:5] + "S" * colour)[-count:]


def channel_names(names: Sequence[str], count: int, samples: int) -> tuple[str, ...]:
    """Return one name per channel; colour samples are named, unnamed channels are numbered.

    Parameters
    ----------
    names
        What the file calls its channels; used where there are ``count`` of them.
    count
        Channels.
    samples
        Colour samples of each channel (1 for intensities).
    """
    named = len(names) == count and all(names) and len(set(names)) == count
    plain = list(names) if named else [f"channel {i}" for i in range(count)]
    if samples == 1:
        return tuple(plain)
    colours = {2: ("grey", "alpha"), 3: ("red", "green", "blue"), 4: ("red", "green", "blue", "alpha")}.get(
        samples
    )
    parts = colours or tuple(f"sample {i}" for i in range(samples))
    return tuple(parts) if count == 1 else tuple(f"{name} {part}" for name in plain for part in parts)


def picked_channels(text: str | int | None, channels: Sequence[str], name: str) -> list[int]:
    """Return the numbers of the channels that a user picked by number or name (several separated by commas).

    Raises
    ------
    FormatError
        If one does not exist; the message lists those that do.
    """
    if text is None:
        return list(range(len(channels)))
    text = str(text)
    words = [text] if text in channels else [word.strip() for word in text.split(",")]
    index = []
    for word in words:
        if word in channels:
            index.append(channels.index(word))
        elif word.isdecimal() and int(word) < len(channels):
            index.append(int(word))
        else:
            known = ", ".join(f"{i} '{channel}'" for i, channel in enumerate(channels))
            raise FormatError(f"{name}: no channel '{word}'; --channel takes {known}")
    return index
