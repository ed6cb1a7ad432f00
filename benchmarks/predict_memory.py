"""Memory of ``aequorea predict``: the same for a volume four times as large, and what one tile needs.

Peaks are those of the whole process tree: resident memory summed over /proc, looked at every few milliseconds,
and the kernel's own maximum of the largest process. The command predicts zstd-compressed uint16 OME-Zarr, with
decoding, in a process of its own.

An interior tile is one of a volume without end: none of its borders saves anything. It is computed by the engine
alone, at the default halo and at full reach.

    python benchmarks/predict_memory.py            # 64 and 256 x 1024 x 1024
    python benchmarks/predict_memory.py --quick    # 32 and 96 x 256 x 512, smaller tiles, under a minute
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np

import material
from aequorea.engine.predict import predict_dense, usual_tile
from aequorea.engine.tiles import Tiling, choose_core
from aequorea.volume import Array, Region, Triple, Volume

MOST_GROWTH = 1.10
"""Bar: the larger volume's peak in that of the smaller."""
MOST_GB = 4.0
MOST_COMPUTED: dict[Literal["default", "full"], float] = {"default": 2.0, "full": 4.0}
"""Bars for an interior tile: peak in GiB, voxels computed per voxel kept."""
EVERY_S = 0.01
ENDLESS = 1 << 20


def tree(root: int) -> list[int]:
    """Return the numbers of a process and all that descend from it."""
    found = [root]
    for pid in found:
        for listed in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                found += [int(word) for word in listed.read_text().split()]
            except OSError:
                continue
    return found


def resident(pids: list[int]) -> int:
    """Return the resident bytes of some processes together."""
    total = 0
    for pid in pids:
        try:
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError):
            continue
    return total


def peak(command: list[str]) -> tuple[float, float, str]:
    """Run a command; returns the largest resident memory of its process tree in GiB, its seconds and its words."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    said: list[str] = []
    listener = threading.Thread(target=lambda stream: said.extend(stream), args=(process.stdout,))
    listener.start()
    most = 0
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        most = max(most, resident(tree(process.pid)))
        time.sleep(EVERY_S)
    process.returncode = os.waitstatus_to_exitcode(status)
    listener.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}:\n{''.join(said)}")
    return max(most, usage.ru_maxrss * 1024) / 2**30, time.monotonic() - began, "".join(said)


class OneShard:
    """A layer of which one shard is pending and nothing is kept."""

    def __init__(self, region: Region) -> None:
        self.region = region

    def pending(self) -> list[Region]:
        """Return the one region."""
        return [self.region]

    def write(self, region: Region, block: Array) -> None:
        """Check that all of it came."""
        assert block.shape[1:] == self.region.size


def interior(halo: Literal["default", "full"]) -> None:
    """Compute one interior tile in this process and print voxels computed per voxel kept."""
    model = material.shaken()
    noise = np.random.default_rng(0).standard_normal((1, 64, 64, 64), np.float32)

    def read(region: Region) -> Array:
        block = np.empty((1, *region.size), np.float32)
        for part in Region.whole(region.size).split((64, 64, 64)):
            block[(slice(None), *part.slices)] = noise[(slice(None), *Region.whole(part.size).slices)]
        return block

    size: Triple = (ENDLESS, ENDLESS, ENDLESS)
    volume = Volume(read, (1, *size), np.dtype(np.float32), material.SPACING)
    tiling = Tiling.of(model.network, size, material.SPACING, halo)
    core = choose_core(size, tiling.grid, tiling.halo, usual_tile(tiling))
    region = Region.at([ENDLESS // 2 // c * c for c in core], core)
    layer: Any = OneShard(region)
    timing = predict_dense(tiling, volume, layer, model.task.store, core, empty=np.zeros(1, np.uint8))
    assert timing.tiles == 1
    print(f"{timing.computed / timing.kept:.2f} {core[0]} x {core[1]} x {core[2]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="32 and 96 x 256 x 512 voxels")
    parser.add_argument("--tasks", nargs="*", default=["semantic", "instances"])
    parser.add_argument("--interior", choices=list(MOST_COMPUTED), help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.interior:
        interior(told.interior)
        return 0
    quick: bool = told.quick
    sizes: list[Triple] = [(32, 256, 512), (96, 256, 512)] if quick else [(64, 1024, 1024), (256, 1024, 1024)]
    tile = ["--tile", "1500000"] if quick else []
    growth = 0.0
    missed = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = [material.store_volume(folder / f"in{size[0]}.ome.zarr", size) for size in sizes]
        for task in told.tasks:
            weights = material.blob_finder(task).save(folder / f"{task}.safetensors")
            peaks = []
            for size, source in zip(sizes, inputs):
                out = folder / f"{task}{size[0]}.ome.zarr"
                words = ["predict", str(weights), str(source), str(out), *tile]
                gib, seconds, _ = peak([sys.executable, "-m", "aequorea", *words])
                peaks.append(gib)
                print(f"{task:10} {size}: peak {gib:.2f} GiB, {seconds:.0f} s", flush=True)
            growth = max(growth, max(peaks) / min(peaks))
    if growth > MOST_GROWTH:
        missed.append("growth")
    said = []
    for halo, bar in MOST_COMPUTED.items():
        gib, seconds, answer = peak([sys.executable, __file__, "--interior", halo])
        ratio, core = answer.strip().splitlines()[-1].split(" ", 1)
        print(f"interior tile, {halo} halo: core {core}, peak {gib:.2f} GiB, {seconds:.0f} s", flush=True)
        said.append(f"{ratio} voxels computed per voxel kept at {halo} halo (bar {bar:g}) in {gib:.2f} GiB")
        if float(ratio) > bar or gib > MOST_GB:
            missed.append(f"{halo} halo")
    print(
        f"memory: the larger volume peaks at {growth:.2f} x the smaller (bar {MOST_GROWTH}); "
        + "; ".join(said)
        + f" (bar {MOST_GB:g}): {'MISSED ' + ', '.join(missed) if missed else 'met'}"
    )
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
