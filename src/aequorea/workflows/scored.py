"""Specimens by which benchmarks score what was pretrained: pretraining leaves them out.

``scored.txt`` has a line for each: the objective that it is scored for, its name, the size of its planes, and a
digest of every plane; ``python benchmarks/scored.py`` writes it. A volume is known by the voxels of its middle plane.
So neither another name or place hides it, nor another format, compression, voxel size or type, nor that planes before
or after were cut off; and only planes of a listed size are read. What was cut in y or x, resampled or rescaled is not
recognised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np

from aequorea.errors import DataError
from aequorea.volume import Array, Region, Volume
from aequorea.workflows.found import Found

T = TypeVar("T")

LIST = Path(__file__).with_name("scored.txt")
THREADS = 8
SAID = 5
"""Names that are said of what is left out."""


def without_scored(
    things: Sequence[T],
    sides: Sequence[Sequence[Volume]],
    objectives: Collection[str],
    found: Found,
    say: Callable[[str], None],
) -> list[T]:
    """Return the things none of whose volumes is scored, and say which are left out.

    Parameters
    ----------
    things
        What is learnt from.
    sides
        The volumes of each.
    objectives
        Names of what is learnt.
    found
        Keeps what was found, so that a run that is resumed reads nothing again.
    say
        Receives a line where something is left out.

    Raises
    ------
    DataError
        If nothing is left of something.
    """
    owners = [n for n, volumes in enumerate(sides) for _ in volumes]
    volumes = [volume for own in sides for volume in own]
    key = hashlib.sha256(" ".join(volume.fingerprint for volume in volumes).encode()).hexdigest()[:16]
    known = found.get(f"scored {key}", lambda: list(scored(volumes, objectives).items()))
    if known:
        lines = [f"{volumes[n].name} is {name}" for n, name in known]
        more = f" and {len(lines) - SAID} more" if len(lines) > SAID else ""
        say(f"left out, since benchmarks score them: {', '.join(lines[:SAID])}{more}")
    out = {owners[n] for n, _ in known}
    if things and len(out) == len(things):
        raise DataError("nothing is left to learn from: benchmarks score all of it")
    return [thing for n, thing in enumerate(things) if n not in out]


def scored(images: Sequence[Volume], objectives: Collection[str]) -> dict[int, str]:
    """Return the listed name of each volume, by its number, that objectives are scored by."""
    known = _listed(LIST, tuple(sorted(objectives)))
    sizes = {size for size, _ in known}

    def look(number: int) -> str | None:
        z, *plane = images[number].size
        middle = images[number].read(Region.at((z // 2, 0, 0), (1, *plane)))[:, 0]
        return next((known[one] for one in map(_key, middle) if one in known), None)

    chosen = [n for n, image in enumerate(images) if _size(image) in sizes]
    with ThreadPoolExecutor(THREADS) as pool:
        return {n: name for n, name in zip(chosen, pool.map(look, chosen)) if name is not None}


def line(objective: str, name: str, image: Volume) -> str:
    """Return the line of a specimen; planes that are all of one value say nothing and are left out."""
    planes = (image.read(Region.at((z, 0, 0), (1, *image.size[1:])))[:, 0] for z in range(image.size[0]))
    digests = {_key(plane)[1] for both in planes for plane in both if plane.min() < plane.max()}
    return " ".join([objective, name, _size(image), *sorted(digests)])


def _size(image: Volume) -> str:
    return f"{image.size[1]}x{image.size[2]}"


def _key(plane: Array) -> tuple[str, str]:
    """Return size and digest of a plane_YX, of its values as float32."""
    values = np.ascontiguousarray(plane, "<f4").tobytes()
    return "x".join(map(str, plane.shape)), hashlib.sha256(values).hexdigest()[:12]


@cache
def _listed(path: Path, objectives: tuple[str, ...]) -> dict[tuple[str, str], str]:
    """Return names by size and digest of a plane."""
    known: dict[tuple[str, str], str] = {}
    for row in path.read_text(encoding="utf-8").splitlines():
        objective, name, size, *digests = row.split()
        if objective in objectives:
            known |= {(size, one): name for one in digests}
    return known
