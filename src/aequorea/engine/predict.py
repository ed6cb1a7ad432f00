"""Dense prediction of volumes larger than memory: read, compute and write at the same time.

One thread reads and normalises the next tile while the network computes this one and another thread stores the
last. What is written at a time is one shard of the output, whole; it is the unit of an interrupted run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aequorea.engine.inference import Precision, Runner, computing_dtype, default_device
from aequorea.engine.memory import fits, give_back_memory
from aequorea.engine.tiles import Tiling, choose_core, parts_of, worst_tile
from aequorea.errors import DataError
from aequorea.layers.network import Network
from aequorea.progress import Progress
from aequorea.results import Layer, MemoryOutput
from aequorea.signal.intensity import Intensity, normalise
from aequorea.volume import Array, Region, Spacing, Triple, Volume, from_array

TILE_BYTES, MOST_TILE_BYTES = 1_100_000_000, 3_450_000_000
"""Bytes that computing one tile takes: what is usual, and what a wide halo is allowed; with all else 1.5 and 4 GB.
256³ and 376³ voxels of the tiny U-Net in bfloat16, 208³ and 304³ in float32."""
WASTE = 2.0
"""Voxels computed per voxel kept above which a halo is called wide."""
PASS_BYTES = 220_000_000
"""Bytes that a pass over something small takes beside its voxels: what convolutions work in."""
STORED_AT_ONCE = 1 << 18
"""Voxels whose output is turned at once into what is stored."""
LOOKED = 16
"""Voxels along each side of what is computed at full reach, to see what a halo leaves out."""


@dataclass
class Timing:
    """Where the time of a prediction went, in seconds of the wall clock."""

    network: float = 0.0
    total: float = 0.0
    tiles: int = 0
    computed: int = 0
    kept: int = 0
    skipped: int = 0

    def __iadd__(self, other: Timing) -> Timing:
        """Add what another run took."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        return self


def normalised(image: Volume, intensity: Intensity) -> Volume:
    """Return the lazy volume of an image scaled by its own percentiles (float32)."""
    return replace(
        image,
        reader=lambda region: normalise(image.read(region), intensity),
        dtype=np.dtype(np.float32),
        levels=(),
    )


def predict_dense(
    tiling: Tiling,
    image: Volume,
    layer: Layer,
    store: Callable[[Tensor], Tensor],
    core: Triple,
    *,
    empty: Array,
    skip_constant: bool = True,
    region: Region | None = None,
    budget: int | None = None,
    precision: Precision = "auto",
    wanted: Callable[[Region], Array | bool] | None = None,
    on_shrink: Callable[[int], None] | None = None,
) -> Timing:
    """Compute the pending shards of a layer.

    Parameters
    ----------
    tiling
        Network and geometry.
    image
        Normalised, float32.
    layer
        Takes the stored output; its blocks are ``tiling.output`` of cores.
    store
        Turns output_BKZYX into what is stored.
    core
        Body voxels (z, y, x) of one shard; from :func:`choose_core`.
    region
        Of the body's grid that the layer covers; default: all of it.
    empty
        What is stored (one value per channel) where nothing is computed.
    skip_constant
        Whether ``empty`` stands for tiles that read one dark value (not above the range's low end), which are not
        computed then.
    budget
        Most voxels computed at once; default: :func:`usual_tile`.
    wanted
        ``wanted(output_region)``: False where nothing is to be computed, or a bool array (Z Y X) of what to keep.
    on_shrink
        Told the new budget when an accelerator's memory did not suffice.
    """
    timing = Timing()
    began = time.monotonic()
    budget = budget or usual_tile(tiling, precision)
    runner = Runner(tiling.network, tiling.body_spacing, precision=precision)
    shard = tiling.network.head.output_grid(Region.at((0, 0, 0), core), None)[0].size
    pending = list(layer.pending())
    covered = region or tiling.domain

    def cores() -> Iterator[tuple[Region, Region]]:
        for out in pending:
            index = [a // n for a, n in zip(out.start, shard)]
            body = Region.at([i * c for i, c in zip(index, core)], core).shift(covered.start)
            yield out, body.clip(covered)

    def load(body: Region) -> Array | None:
        block = tiling.read(image, tiling.computed(body))
        return block if not skip_constant or _shows(block) else None

    corner = tiling.output(covered).start
    total = sum(region.voxels for region in pending)
    with (
        ThreadPoolExecutor(1) as reader,
        ThreadPoolExecutor(1) as writer,
        Progress("predict", total, "voxel") as bar,
    ):
        writes: list[Future[None]] = []
        jobs = _jobs(cores(), tiling, budget, wanted)
        out_block: Array | None = None
        for job in _with_lookahead(jobs, lambda job: reader.submit(load, job.body)):
            if out_block is None:
                out_block = np.empty((len(empty), *job.shard.size), empty.dtype)
                out_block[:] = empty[:, None, None, None]
            block = job.loaded.result() if job.loaded is not None else None
            if block is None:
                timing.skipped += job.body.voxels
            else:
                give_back_memory()
                at = time.monotonic()
                for part, values in _compute(runner, tiling, job.body, block, store, on_shrink):
                    place = tiling.output(part).relative_to(job.shard.shift(corner))
                    out_block[(slice(None), *place.slices)] = values
                timing.network += time.monotonic() - at
                timing.tiles += 1
                timing.computed += tiling.computed(job.body).voxels
                timing.kept += job.body.voxels
            if job.last:
                keep = True if wanted is None else wanted(job.shard)
                if isinstance(keep, np.ndarray):
                    out_block = np.where(keep[None], out_block, empty[:, None, None, None])
                while len(writes) >= 2:
                    writes.pop(0).result()
                writes.append(writer.submit(layer.write, job.shard, out_block))
                bar.advance(job.shard.voxels)
                out_block = None
        for write in writes:
            write.result()
    timing.total = time.monotonic() - began
    return timing


def usual_tile(tiling: Tiling, precision: Precision = "auto") -> int:
    """Return how many voxels of the body's grid to compute at once, by what a voxel weighs and how wide the halo is."""
    budget, where = 0, (tiling.domain.size, tiling.grid, tiling.halo)
    for tile_bytes in (TILE_BYTES, MOST_TILE_BYTES):
        budget = int(tile_bytes / voxel_bytes(tiling, precision))
        computed, kept = worst_tile(choose_core(*where, budget, flat=tiling.flat), *where)
        if computed <= WASTE * kept:
            break
    return budget


def voxel_bytes(tiling: Tiling, precision: Precision = "auto") -> float:
    """Return the memory that the network takes for each voxel of the body's grid that is computed at once."""
    layout = tiling.network.backbone.layout(tiling.body_spacing)
    dtype = computing_dtype(tiling.network, precision, default_device())
    # Image and output are float32 and weigh something too, where the finest level is coarse.
    held: float = layout.held
    finest: float = layout.channels[0] * dtype.itemsize / math.prod(layout.strides[0])
    return held * max(16.0, finest)


def check_size(tiling: Tiling, image: Volume) -> None:
    """Raise :class:`DataError` where an image is too small for a network to say anything about."""
    if tiling.domain.empty:
        raise DataError(
            f"{image.name}: an image of {image.size} voxels (z, y, x) is too small for this model, which reads "
            f"{tiling.network.stem.reads(Region.at((0, 0, 0), (1, 1, 1)), image.size).size} for one of its own"
        )


def predict_whole(
    network: Network, task: Any, image: Volume, spacing: Spacing | None, precision: Precision = "auto"
) -> Volume:
    """Return the stored output of a normalised image that fits into memory, in one pass over all of it.

    Parameters
    ----------
    network, task
        Of a model.
    image
        Normalised, float32.
    spacing
        Voxel size in µm (z, y, x) to compute at where the image has none.
    precision
        To compute in.

    Raises
    ------
    DataError
        If the image is too small for the network.
    """
    tiling = Tiling.of(network, image.size, image.spacing or spacing, (0, 0, 0))
    check_size(tiling, image)
    layer = MemoryOutput().layer(
        "dense",
        size=tiling.output_size,
        dtype=task.dense_dtype,
        kind="image",
        channels=task.dense_channels,
        spacing=tiling.output_spacing if image.spacing else None,
    )
    out = Runner(network, tiling.body_spacing, precision=precision)(tiling.read(image, tiling.domain))
    for region in layer.pending():
        layer.write(region, task.store(out)[0].cpu().numpy())
    return layer.finish()


def halo_error(network: Network, task: Any, image: Volume, spacing: Spacing | None) -> dict[str, Any]:
    """Return how far the stored output with the default halo is from that at full reach.

    A block in the middle of an image, continued by mirror images where it is small, is computed both ways.

    Parameters
    ----------
    network, task
        Of a model.
    image
        Normalised, float32.
    spacing
        Voxel size in µm (z, y, x) to compute at where the image has none.

    Returns
    -------
    dict
        ``halo`` (voxels z, y, x) and the ``mean`` and ``largest`` difference in the stored units; empty where
        the network sees the whole image, or where the memory that the process may hold does not suffice.
    """
    spacing = image.spacing or spacing
    domain = Tiling.of(network, image.size, spacing).domain.size
    grid = network.backbone.layout(network.body_spacing(spacing)).grid
    reach, usual = network.sight(network.body_spacing(spacing))
    if reach is None or task.over == "items":
        return {}
    core = [1 if n == 1 else max(g, LOOKED // g * g) for n, g in zip(domain, grid)]
    around = [0 if n == 1 else -(-r // g) * g for n, r, g in zip(domain, reach, grid)]
    step = [n // d for n, d in zip(image.size, domain)]
    # Along an axis that the body sees as one plane all of the image is read.
    wanted = [
        n if d == 1 else (c + 2 * a) * s for n, d, c, a, s in zip(image.size, domain, core, around, step)
    ]
    at = [max(0, (n - w) // 2) // s * s for n, w, s in zip(image.size, wanted, step)]
    sight = Tiling.of(network, (wanted[0], wanted[1], wanted[2]), spacing)
    if not fits(PASS_BYTES + math.prod(wanted) * (8 * image.shape[0] + voxel_bytes(sight, "float32"))):
        return {}
    middle = Region.at(at, wanted).clip(image.region)
    lacking = [(0, 0), *((0, w - n) for w, n in zip(wanted, middle.size))]
    whole = from_array(np.pad(image.read(middle), lacking, mode="symmetric"), name=image.name)
    region = Region.at(around, core)
    results = []
    for halo in ("default", "full"):
        tiling = Tiling.of(network, (wanted[0], wanted[1], wanted[2]), spacing, halo)
        part = tiling.computed(region)
        block = tiling.read(whole, part)
        out = Runner(network, tiling.body_spacing)(block, part.start, region.relative_to(part))
        results.append(task.store(out).float())
    difference = (results[0] - results[1]).abs()
    return {
        "halo": list(usual),
        "mean": float(difference.mean()),
        "largest": float(difference.max()),
    }


@dataclass
class _Job:
    """One tile: the shard that it is part of, the body region to compute, and whether it completes the shard."""

    shard: Region
    body: Region
    last: bool
    skip: bool
    loaded: Future[Array | None] | None = None


def _jobs(
    cores: Iterator[tuple[Region, Region]],
    tiling: Tiling,
    budget: int,
    wanted: Callable[[Region], Array | bool] | None,
) -> Iterator[_Job]:
    for out, body in cores:
        parts = parts_of(body, tiling, budget)
        skip = wanted is not None and not np.any(wanted(out))
        for part in parts:
            yield _Job(out, part, part is parts[-1], skip)


def _with_lookahead(jobs: Iterator[_Job], submit: Callable[[_Job], Future[Array | None]]) -> Iterator[_Job]:
    """Yield jobs with their reading begun one job in advance."""
    waiting: _Job | None = None
    for job in jobs:
        if not job.skip:
            job.loaded = submit(job)
        if waiting is not None:
            yield waiting
        waiting = job
    if waiting is not None:
        yield waiting


def _shows(block: Array) -> bool:
    """Whether a block holds more than one dark value; a sparse look spares most blocks the whole one."""
    return any(part.max() > min(part.min(), 0) for part in (block[:, ::8, ::8, ::8], block))


def _stored(out: Tensor, store: Callable[[Tensor], Tensor]) -> Array:
    """Return what is stored of output_1KZYX, axes K Z Y X; made of a few planes at a time, which stay in the cache."""
    planes = out.shape[2]
    if out.device.type == "cpu":
        planes = max(1, STORED_AT_ONCE // (out.shape[3] * out.shape[4]))
    return np.concatenate([store(part)[0].cpu().numpy() for part in torch.split(out, planes, 2)], 1)


def _compute(
    runner: Runner,
    tiling: Tiling,
    body: Region,
    block: Array,
    store: Callable[[Tensor], Tensor],
    on_shrink: Callable[[int], None] | None,
) -> Iterator[tuple[Region, Array]]:
    """Yield (body region, stored values) covering ``body``; halves the tile while memory does not suffice."""
    computed = tiling.computed(body)
    try:
        out = runner(block, computed.start, body.relative_to(computed))
        yield body, _stored(out, store)
        return
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        longest = max(range(3), key=lambda axis: body.size[axis])
        half = body.size[longest] // 2 // tiling.grid[longest] * tiling.grid[longest]
        if half == 0:
            raise
    if on_shrink is not None:
        on_shrink(computed.voxels // 2)
    middle = list(body.stop)
    middle[longest] = body.start[longest] + half
    first = Region(body.start, (middle[0], middle[1], middle[2]))
    begin = list(body.start)
    begin[longest] = middle[longest]
    second = Region((begin[0], begin[1], begin[2]), body.stop)
    whole = tiling.reads(computed)
    for part in (first, second):
        cut = tiling.reads(tiling.computed(part)).relative_to(whole)
        yield from _compute(runner, tiling, part, block[(slice(None), *cut.slices)], store, on_shrink)
