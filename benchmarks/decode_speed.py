"""How fast and in how much memory objects are decoded, and how well beside peak-seeded watershed.

A volume of touching balls and rods (voxels 4 times as long in z as in x, about a sixth of them
foreground) is written to disk as a network's stored output would be, with noise, and decoded to
OME-Zarr by the task ``instances`` in a process of its own, whose peak memory is read. The same kind
of maps, smaller, is decoded by ours and by ``peak_local_max`` + ``watershed`` (scikit-image): the
settings of both are chosen on one specimen and scored on another.

    python benchmarks/decode_speed.py            # 512³
    python benchmarks/decode_speed.py --quick    # 256³, under a minute
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import ndimage

from aequorea.engine.writer import ZarrOutput
from aequorea.scores.matching import instance_scores
from aequorea.signal.basins import find_basins, paint
from aequorea.tasks.instances import PERSISTENCES, UNIT, Instances, InstancesSpec
from aequorea.volume import Region, Volume

SPACING = (2.0, 0.5, 0.5)
RADIUS_UM, PITCH_UM, CAP_UM = (2.5, 5.5), 9.0, 3.5
LONGEST = 3.0
"""Half of the objects are rods: half length of their axis in radii, at most."""
NOISE = {"mild": (1.0, 0.05, 1.5), "strong": (1.5, 0.10, 2.0)}
"""Blur σ, standard deviation of the noise, its correlation length; px of x."""
SLAB, SMALLEST = 64, 40
MIN_RATE, MAX_GB, MIN_LEAD = 8.0, 1.0, 0.0
"""Bars: megavoxels per second of CPU (steady where others use the machine), peak memory, lead in F1."""


def objects(size: tuple[int, int, int], seed: int) -> np.ndarray:
    """Centres, half axes (zero for balls) and radii on a jittered lattice, in clusters, µm: (N, 7)."""
    rng = np.random.default_rng(seed)
    extent = np.array(size) * SPACING
    axes = [np.arange(PITCH_UM / 2, e, PITCH_UM) for e in extent]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    cluster = ndimage.gaussian_filter(rng.normal(size=grid.shape[:3]), 1.5)
    chosen = grid[cluster > np.quantile(cluster, 0.55)]
    chosen = chosen + rng.uniform(-0.3, 0.3, chosen.shape) * PITCH_UM
    n = len(chosen)
    radius = rng.uniform(*RADIUS_UM, (n, 1))
    axis = rng.normal(size=(n, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    radius[n // 2 :] = RADIUS_UM[0]
    half = axis * radius * rng.uniform(1, LONGEST, (n, 1)) * (np.arange(n) >= n // 2)[:, None]
    shuffled: np.ndarray = rng.permutation(np.concatenate([chosen, half, radius], axis=1))
    return shuffled


def slabs(
    size: tuple[int, int, int], noise: str, seed: int = 0
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield (first plane, stored output of axes C Z Y X, true labels) of the volume, slab by slab."""
    bodies = objects(size, seed)
    blur, strength, grain_size = NOISE[noise]
    steps = np.array(SPACING)
    for first in range(0, size[0], SLAB):
        shape = (min(SLAB, size[0] - first), *size[1:])
        near, second = np.full(shape, 9.0, np.float32), np.full(shape, 9.0, np.float32)
        truth, warmth = np.zeros(shape, np.uint32), np.zeros(shape, np.float32)
        room = np.ones(shape, np.float32)
        offset = np.array([first, 0, 0])
        for number, body in enumerate(bodies, 1):
            centre, half, radius = body[:3], body[3:6], body[6]
            around = np.abs(half) + radius * 1.5
            low = np.floor((centre - around) / steps).astype(int) - offset
            high = np.ceil((centre + around) / steps).astype(int) + 1 - offset
            low, high = np.clip(low, 0, shape), np.clip(high, 0, shape)
            if (high <= low).any():
                continue
            box = tuple(slice(a, b) for a, b in zip(low, high))
            axes = [(np.arange(a, b) + o) * s - c for a, b, o, s, c in zip(low, high, offset, steps, centre)]
            away = np.stack(np.meshgrid(*axes, indexing="ij"), -1).astype(np.float32)
            along = np.clip(away @ half / (float(half @ half) or 1.0), -1, 1)[..., None]
            distance = np.linalg.norm(away - along * half, axis=-1).astype(np.float32) / radius
            closer = distance < near[box]
            reach = np.linalg.norm(half) + radius
            warmth[box] = np.where(closer, 1 - np.linalg.norm(away, axis=-1) / reach, warmth[box])
            room[box] = np.where(closer, radius, room[box])
            second[box] = np.minimum(second[box], np.where(closer, near[box], distance))
            near[box] = np.where(closer, distance, near[box])
            truth[box][closer & (distance < 1)] = number
        depth = np.minimum(np.maximum(1 - near, 0), (second - near) / 2) * room
        height = 0.7 * np.minimum(depth / CAP_UM, 1) + 0.3 * np.maximum(warmth, 0)
        height *= truth > 0
        rng = np.random.Generator(np.random.Philox(key=[seed, first]))
        sigma = np.array([SPACING[2] / SPACING[0], 1, 1])
        fields = []
        for clean in (truth > 0, height):
            grain = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), grain_size * sigma)
            smooth = ndimage.gaussian_filter(clean.astype(np.float32), blur * sigma)
            fields.append(smooth + strength * grain / grain.std())
        yield (
            first,
            np.stack([(fields[0] * 255).clip(0, 255), (fields[1] * UNIT).clip(0, 255)])
            .round()
            .astype(np.uint8),
            truth,
        )


def store(folder: Path, size: tuple[int, int, int]) -> None:
    """Write the dense volume as prediction does."""
    out = ZarrOutput(folder, identity="dense", shard=(SLAB, 256, 256), pyramid=False, root="dense")
    layer = out.layer(
        "dense", size=size, dtype=np.uint8, kind="image", channels=("foreground", "height"), spacing=SPACING
    )
    for first, dense, _ in slabs(size, "mild"):
        for part in Region((first, 0, 0), (first + dense.shape[1], *size[1:])).split((SLAB, 256, 256)):
            layer.write(part, dense[(slice(None), *part.shift((-first, 0, 0)).slices)])
    layer.finish()
    out.complete()


def peak_memory() -> float:
    """Largest resident memory of this process so far, GiB (Linux; elsewhere 0)."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return 0.0
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**20


def decode(dense: Path, folder: Path, answer: multiprocessing.SimpleQueue) -> None:
    """Decode in a process of its own; answers seconds, CPU seconds, objects and peak memory."""
    source: Volume = ZarrOutput(dense, identity="dense", pyramid=False).result.layers["dense"]
    before, wall, cpu = peak_memory(), time.perf_counter(), time.process_time()
    out = ZarrOutput(folder, identity="objects")
    Instances(InstancesSpec(min_size_um3=20.0)).decode(source, None, out, {})
    out.complete()
    count = len(out.result.tables["objects"]["id"])
    answer.put((time.perf_counter() - wall, time.process_time() - cpu, count, before, peak_memory()))


def speed(size: tuple[int, int, int]) -> tuple[float, float]:
    """Print and return megavoxels per second of CPU and peak memory in GiB."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        store(Path(folder) / "dense.ome.zarr", size)
        print(f"simulated {size} in {time.perf_counter() - began:.0f} s", flush=True)
        context = multiprocessing.get_context("spawn")
        answer = context.SimpleQueue()
        process = context.Process(
            target=decode, args=(Path(folder) / "dense.ome.zarr", Path(folder) / "objects.ome.zarr", answer)
        )
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"decoding ended with status {process.exitcode}")
        wall, cpu, count, before, peak = answer.get()
    voxels = float(np.prod(size)) / 1e6
    print(
        f"{size}: {count} objects in {wall:.1f} s ({voxels / wall:.1f} Mvoxel/s), "
        f"{cpu:.1f} s of CPU ({voxels / cpu:.1f} Mvoxel/s); "
        f"peak memory {peak:.2f} GiB, {before:.2f} before decoding",
        flush=True,
    )
    return voxels / cpu, peak


def watershed_labels(foreground: np.ndarray, height: np.ndarray, distance: int, sigma: float) -> np.ndarray:
    """Label by scikit-image: peaks at least ``distance`` px apart, then flooding."""
    from skimage.feature import peak_local_max
    from skimage.segmentation import watershed

    smooth = ndimage.gaussian_filter(height.astype(np.float32), sigma * np.array([0.25, 1, 1]))
    ratio = max(1, round(distance * SPACING[2] / SPACING[0]))
    footprint = np.ones((2 * ratio + 1, 2 * distance + 1, 2 * distance + 1), bool)
    peaks = peak_local_max(smooth, footprint=footprint, labels=foreground.astype(int), exclude_border=False)
    markers = np.zeros(foreground.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return np.asarray(watershed(-smooth, markers, mask=foreground))


def f1_of_settings(size: tuple[int, int, int], noise: str, seed: int) -> tuple[dict, dict]:
    """F1 at IoU 0.5 of ours by persistence, and of the watershed by peak distance and smoothing."""
    parts = list(slabs(size, noise, seed))
    dense, truth = np.concatenate([p[1] for p in parts], 1), np.concatenate([p[2] for p in parts])
    foreground = dense[0] >= 128
    basins = find_basins(np.pad(foreground, 1), np.pad(dense[1], 1), spacing=SPACING)
    ours = {
        p: instance_scores(truth, paint(basins, round(p * UNIT), SMALLEST))["f1_50"] for p in PERSISTENCES
    }
    theirs = {}
    for distance in (3, 5, 8):
        for sigma in (0.0, 1.0, 2.0):
            found = watershed_labels(foreground, dense[1], distance, sigma)
            kept = found * (np.bincount(found.ravel())[found] >= SMALLEST)
            theirs[distance, sigma] = instance_scores(truth, kept)["f1_50"]
    return ours, theirs


def quality(size: tuple[int, int, int]) -> float:
    """Print F1 of ours and of the watershed on the same maps; return the smallest lead."""
    leads = []
    for noise in NOISE:
        (ours, theirs), (ours_new, theirs_new) = (f1_of_settings(size, noise, seed) for seed in (1, 2))
        tau, setting = max(ours, key=ours.__getitem__), max(theirs, key=theirs.__getitem__)
        leads.append(ours_new[tau] - theirs_new[setting])
        print(
            f"{noise} noise: F1@0.5 ours {ours_new[tau]:.3f}"
            f" (persistence {tau}; at the default 0.18 {ours_new[0.18]:.3f}),"
            f" watershed {theirs_new[setting]:.3f} (distance {setting[0]} px, smoothing {setting[1]:g} px)",
            flush=True,
        )
    return min(leads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="256³ instead of 512³")
    quick = parser.parse_args().quick
    lead = quality((32, 160, 160) if quick else (64, 256, 256))
    rate, peak = speed((256, 256, 256) if quick else (512, 512, 512))
    met = rate >= MIN_RATE and peak <= MAX_GB and lead >= MIN_LEAD
    print(
        f"decode: {rate:.1f} Mvoxel per CPU second (bar {MIN_RATE:g}), peak {peak:.2f} GiB (bar {MAX_GB:g}),"
        f" F1 {lead:+.3f} against watershed (bar {MIN_LEAD:+g}): {'met' if met else 'MISSED'}"
    )
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
