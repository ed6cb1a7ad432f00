"""Tiles and shards that fit into a given memory."""

from __future__ import annotations

from typing import NamedTuple

from aequorea.engine.inference import Precision, default_device
from aequorea.engine.memory import refuse, resident
from aequorea.engine.predict import usual_tile, voxel_bytes
from aequorea.engine.tiles import Tiling, choose_core, worst_plane, worst_tile
from aequorea.engine.writer import LABELS
from aequorea.volume import Triple

LOADED = 90_000_000
"""Bytes that a prediction takes before and beside its tiles: libraries, threads, the search for the intensity range."""
READ_BYTES = 12
"""Of each voxel and channel of a tile: read, normalised, and the next one."""
DECODED_BYTES = 40
"""Of each voxel of a shard of labels while it is decoded."""
BLOCKS = 4
"""Output blocks that are being filled, waiting or written."""


class Tiles(NamedTuple):
    """How a prediction is cut.

    Attributes
    ----------
    core
        Voxels (z, y, x) of the body's grid that become one shard.
    budget
        Most voxels of the body's grid that are computed at once.
    """

    core: Triple
    budget: int


def choose_tiles(
    tiling: Tiling,
    size: Triple,
    stored: int,
    tile: int | None = None,
    memory: int | None = None,
    precision: Precision = "auto",
    whole: bool = False,
) -> Tiles:
    """Return the tiles of a prediction.

    Parameters
    ----------
    tiling
        Network and geometry.
    size
        Voxels (z, y, x) of the body's grid that are predicted.
    stored
        Bytes of a voxel of the stored output, of which the body's may have several.
    tile
        Most voxels computed at once; default: :func:`aequorea.engine.predict.usual_tile`.
    memory
        Bytes that the process may hold.
    precision
        That the network is computed in.
    whole
        Whether the answer is one for the whole image.

    Raises
    ------
    SpecError
        If nothing fits into ``memory``; says the smallest that works.
    """
    domain = tiling.domain
    if whole:
        tiles = Tiles(domain.size, domain.voxels)
        return tiles if memory is None else check_tiles(tiles, tiling, stored, memory, precision)
    finer = _finer(tiling)
    budget = tile or usual_tile(tiling, precision)
    most = max(1, budget // finer)  # what is written at once has no more voxels than what is computed at once
    if memory is not None:
        free = max(0, memory - resident() - LOADED)
        # Of what is free the output's blocks get at most a quarter; labels are decoded in shards of their own.
        most = max(1, min(most, free // (4 * BLOCKS * stored * finer)))
        if free < DECODED_BYTES * LABELS:
            most = max(1, min(most, free // DECODED_BYTES))
        budget = min(budget, max(1, int((free - BLOCKS * stored * finer * most) / _each(tiling, precision))))
    read = tiling.reads(domain).voxels
    budget = max(1, budget * domain.voxels // max(read, domain.voxels))
    tiles = Tiles(choose_core(size, tiling.grid, tiling.halo, budget, most=most, flat=tiling.flat), budget)
    if memory is None or bytes_of(tiles, tiling, stored, precision) <= free:
        return tiles
    smallest = Tiles(choose_core(size, tiling.grid, tiling.halo, 1), 1)
    return check_tiles(smallest, tiling, stored, memory, precision)


def check_tiles(
    tiles: Tiles, tiling: Tiling, stored: int, memory: int, precision: Precision = "auto"
) -> Tiles:
    """Return tiles; raises :class:`SpecError` where they do not fit into a memory, with the smallest that works."""
    least = resident() + LOADED + bytes_of(tiles, tiling, stored, precision)
    if least > memory:
        raise refuse(memory, least, f"tiles that keep {tiles.core} voxels do not fit")
    return tiles


def _finer(tiling: Tiling) -> int:
    """Return how many voxels are stored for each that the body computes."""
    return max(1, round(tiling.output(tiling.domain).voxels / max(1, tiling.domain.voxels)))


def bytes_of(tiles: Tiles, tiling: Tiling, stored: int, precision: Precision = "auto") -> int:
    """Return the bytes that computing and decoding one tile takes, beside :data:`LOADED`."""
    computed, kept = _at_once(tiles.core, tiling)
    network = min(computed, max(tiles.budget, _smallest(tiling))) * _each(tiling, precision)
    return int(max(network + BLOCKS * stored * _finer(tiling) * kept, DECODED_BYTES * min(kept, LABELS)))


def _smallest(tiling: Tiling) -> int:
    """Return how many voxels the smallest tile computes."""
    core = choose_core(tiling.domain.size, tiling.grid, tiling.halo, 1, step=1, flat=tiling.flat)
    return _at_once(core, tiling)[0]


def _at_once(core: Triple, tiling: Tiling) -> tuple[int, int]:
    """Return how many voxels a tile computes, with the planes that count beside, and keeps."""
    where = (core, tiling.domain.size, tiling.grid, tiling.halo)
    computed, kept = worst_tile(*where)
    return computed + tiling.flat * worst_plane(*where), kept


def _each(tiling: Tiling, precision: Precision) -> float:
    """Return the bytes of main memory for each voxel of the body's grid that is computed at once."""
    read = tiling.reads(tiling.domain).voxels / max(1, tiling.domain.voxels)
    image = READ_BYTES * max(1.0, read)
    return image + (voxel_bytes(tiling, precision) if default_device().type == "cpu" else 16.0)
