"""How fast patches come: blocks that are dealt beside random crops, and beside what a training step takes.

A sharded zstd OME-Zarr (uint16, chunks of 64³) is read by ``BlockSampler`` at eight patches of 64³ a block, and by
naive random crops through zarr-python, both normalised, by one process and by two. A step is masked reconstruction
with ``hiera`` (small, units of 16 voxels) on the same patches.

The same voxels as a TIFF of zlib planes are read as they are, and after the cache has converted them.

    python benchmarks/sampler.py            # 256 x 1024 x 1024, medians of 5
    python benchmarks/sampler.py --quick    # 128 x 512 x 512, medians of 3, under a minute
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import tifffile
import torch

import material
from aequorea.backbones.hiera import Hiera, HieraSpec
from aequorea.engine.blocks import BlockSampler, Source
from aequorea.engine.predict import normalised
from aequorea.objectives.mae import MAE, MAESpec
from aequorea.signal.intensity import Intensity, sampled
from aequorea.volume import Region, Triple, Volume
from aequorea.workflows.cache import Cache
from aequorea.workflows.index import stamp_of
from aequorea.workflows.open import open as open_volume

PATCH: Triple = (64, 64, 64)
BATCH = 8
LEAST, LEAST_STEP = 4.0, 1.5
"""Bars: patches per second in those of random crops, with one and two processes; in those that a step takes."""


def volume(path: Path, words: dict[str, object]) -> Volume:
    """Return the normalised volume."""
    return normalised(open_volume(path), Intensity.parse(words))


def dealt(path: Path, words: dict[str, object], seed: int, patches: int) -> float:
    """Return patches per second of the package's sampler, once the first blocks are there."""
    sampler = BlockSampler([Source(volume(path, words), "a", 0, PATCH)], BATCH, seed)
    ahead = BATCH * sampler.per_block
    for index in range(ahead):
        sampler(index)
    began = time.perf_counter()
    # On to the next blocks: so as many are waited for as were there at first.
    for index in range(ahead, ahead + patches + BATCH):
        sampler(index)
    return patches / (time.perf_counter() - began)


def random_crops(path: Path, words: dict[str, object], seed: int, patches: int) -> float:
    """Return patches per second of crops anywhere."""
    image, rng = volume(path, words), np.random.default_rng(seed)
    began = time.perf_counter()
    for _ in range(patches):
        start = [int(rng.integers(n - p + 1)) for n, p in zip(image.size, PATCH)]
        image.read(Region.at(start, PATCH))
    return patches / (time.perf_counter() - began)


def rate(
    how: Callable[[Path, dict[str, object], int, int], float],
    path: Path,
    words: dict[str, object],
    seed: int,
    patches: int,
    pool: ProcessPoolExecutor | None,
) -> float:
    """Return patches per second, of all processes together."""
    if pool is None:
        return how(path, words, seed, patches)
    return sum(pool.map(how, [path] * 2, [words] * 2, [seed, seed + 1], [patches] * 2))


def consumed() -> float:
    """Return the patches per second that a training step takes, the fill and the mask left out."""
    torch.manual_seed(0)
    body, objective = Hiera(HieraSpec(size="small")), MAE(MAESpec(unit=16, optics=0))
    rng = np.random.default_rng(0)
    patch = rng.random((1, *PATCH), np.float32)
    facts = objective.survey(lambda rng: patch[:, :32, :32, :32], body, None, rng)
    made = [objective.prepare(patch, rng, facts) for _ in range(BATCH)]
    batch = {name: torch.from_numpy(np.stack([one[name] for one in made])) for name in made[0]}
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        torch.autograd.backward(objective(body, batch, None)["hidden"])
        seconds.append(time.perf_counter() - began)
    return BATCH / min(seconds)


def planes(folder: Path, store: Path, words: dict[str, object], patches: int) -> str:
    """Return what a slow source costs before and after it is converted."""
    path, image = folder / "planes.tif", open_volume(store)
    data = image.read()[0]
    tifffile.imwrite(path, data, compression="zlib", rowsperstrip=data.shape[1], metadata={"axes": "ZYX"})
    side = 2 * PATCH[0]
    rates, spent = [], 0.0
    for limit in (0, None):
        cache = Cache(folder / "cache", limit, lambda line: None)
        volume, slow = cache.over(open_volume(path), (side, side, side), stamp_of(str(path)))
        assert slow is not None
        began = time.perf_counter()
        cache.fill([slow])
        spent = time.perf_counter() - began
        source = Source(normalised(volume, Intensity.parse(words)), "a", 0, PATCH)
        sampler = BlockSampler([source], 1, 0)
        began = time.perf_counter()
        blocks = max(2, patches // 64)
        for index in range(blocks * sampler.per_block):
            sampler(index)
        sampler._reader.shutdown(wait=True)  # what is read ahead counts
        rates.append((blocks + 1) * sampler.per_block / (time.perf_counter() - began))
    per = spent / data.size * 1e9
    return (
        f"zlib planes: {rates[0]:.1f} patches/s, converted {rates[1]:.1f} ({rates[1] / rates[0]:.1f} x); "
        f"converting took {spent:.1f} s, {per:.0f} s per gigavoxel"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    quick: bool = parser.parse_args().quick
    size: Triple = (128, 512, 512) if quick else (256, 1024, 1024)
    rounds, patches = (3, 128) if quick else (5, 256)
    torch.set_num_threads(1)
    missed = []
    with tempfile.TemporaryDirectory() as name:
        path = material.store_volume(Path(name) / "in.ome.zarr", size)
        words = sampled(open_volume(path)).plain()
        step = consumed()
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as two:
            rate(dealt, path, words, 0, 8, two)  # starts the processes
            for processes, pool in ((1, None), (2, two)):
                rates: dict[str, list[float]] = {"dealt": [], "random": []}
                for turn in range(rounds):
                    rates["dealt"].append(rate(dealt, path, words, 10 * turn, patches, pool))
                    rates["random"].append(rate(random_crops, path, words, 10 * turn, patches // 8, pool))
                faster = float(np.median(np.array(rates["dealt"]) / rates["random"]))
                fed = float(np.median(rates["dealt"])) / step
                told = (
                    f"{processes} process{'es' * (processes > 1)}: {np.median(rates['dealt']):.1f} patches/s, "
                    f"{faster:.1f} x random crops (bar {LEAST:g})"
                )
                if processes == 1:
                    told += f", {fed:.1f} x what a step of one thread takes, {step:.1f} (bar {LEAST_STEP:g})"
                    missed += ["step"] if fed < LEAST_STEP else []
                missed += [f"{processes}"] if faster < LEAST else []
                print(told, flush=True)
        print(planes(Path(name), path, words, patches))
    print(f"sampler: {'MISSED ' + ', '.join(missed) if missed else 'met'}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
