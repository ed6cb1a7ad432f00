"""One volume by several processes: equal to one process, whatever is killed; and what a brain would cost.

1. Parts: one prediction with instance decoding by one process, by two (``--part i/2``), by three of which one is
   killed, and by a Dask cluster of two workers of which one is killed. All stores must be voxel-equal; the seconds of
   one process and of two, each with one thread, are printed with their ratio.
2. Costs: seconds of each stage per voxel, and pieces on the faces of joined regions with what each takes in the last
   join, measured on the volume; from these, what a volume of 10¹² voxels takes on 100 such processes
   (``docs/concepts/scale.md``).

    python benchmarks/cluster.py            # 64 x 512 x 512 voxels
    python benchmarks/cluster.py --quick    # 32 x 128 x 256 voxels, under a minute
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import zarr

import material
from aequorea.crew import Crew
from aequorea.engine.join_tree import JoinTree
from aequorea.engine.objects import ObjectFinder
from aequorea.engine.writer import ZarrOutput
from aequorea.signal import graphs
from aequorea.signal.intensity import measure
from aequorea.volume import Volume
from aequorea.workflows.open import open as open_volume
from several import dask_cluster, equal

SIZE, QUICK_SIZE = (64, 512, 512), (32, 128, 256)
TILE, QUICK_TILE = 2_000_000, 400_000
BRAIN, WORKERS = 1e12, 100
FOREGROUND = 0.25
"""Share of the brain that is foreground; the blobs here have about this much."""
PATIENCE = """
import torch
torch.set_num_threads(1)
import aequorea.crew as crew
crew.BEAT_S, crew.DEAD_S, crew.POLL_S = 0.5, 4.0, 0.1
"""


def start(words: list[str], part: str | None = None) -> subprocess.Popen[bytes]:
    """Begin a prediction in a process of its own."""
    more = ["--part", part] if part else []
    code = f"{PATIENCE}from aequorea.cli import main; main()"
    return subprocess.Popen([sys.executable, "-c", code, "predict", *words, *more], stderr=subprocess.DEVNULL)


def ended(children: list[subprocess.Popen[bytes]]) -> bool:
    """Wait for processes; whether all that were not killed ended well."""
    return all(child.wait() in (0, -9) for child in children)


def first_written(store: Path, part: int) -> None:
    """Return when a part has written its first shard."""
    while not list((store / ".aequorea" / "journal").glob(f"dense.part{part}.jsonl")):
        time.sleep(0.02)


def parts(folder: Path, words: list[str]) -> bool:
    """Predict in every way; whether all stores are those of one process."""
    alone, two, three, dask = (folder / f"{name}.ome.zarr" for name in ("alone", "two", "three", "dask"))
    seconds = []
    for out, names in ((alone, [None]), (two, ["1/2", "2/2"])):
        began = time.monotonic()
        good = ended([start([*words[:2], str(out), *words[2:]], name) for name in names])
        seconds.append(time.monotonic() - began)
        if not good:
            return False
    print(
        f"one process {seconds[0]:.0f} s, two {seconds[1]:.0f} s ({seconds[0] / seconds[1]:.2f} x), start-up included"
    )
    children = [start([*words[:2], str(three), *words[2:]], f"{i}/3") for i in (1, 2, 3)]
    first_written(three, 2)
    children[1].kill()
    good = ended(children)
    with dask_cluster(folder, PATIENCE) as (address, workers):
        client = start([*words[:2], str(dask), *words[2:], "--scheduler", address])
        first_written(dask, 2)
        workers[0].kill()
        good &= client.wait() == 0
    for name, store in (("two parts", two), ("three, one killed", three), ("Dask, one of two killed", dask)):
        same = equal(alone, store)
        print(f"{name}: {'equal' if same else 'NOT equal'} to one process")
        good &= same
    return good


def timed(dense: Volume, image: Volume, folder: Path, shard: tuple[int, int, int]) -> dict[str, float]:
    """Return seconds per voxel of the shared stages, and what the join takes per basin and edge."""
    from aequorea.tasks.instances import Instances, InstancesSpec

    task = Instances(InstancesSpec(min_size_um3=100.0, cap_um=4.0))
    out = ZarrOutput(folder, identity="costs", shard=shard)
    layer = out.layer("objects", size=dense.size, dtype=np.uint32, kind="label", spacing=dense.spacing)
    finder = ObjectFinder(dense, task.rule({}, dense.spacing), layer.block, out.scratch("objects"))
    voxels = float(dense.region.voxels)
    costs: dict[str, float] = {}

    @contextmanager
    def clock(stage: str, per: float = voxels) -> Iterator[None]:
        began = time.process_time()
        yield
        costs[stage] = (time.process_time() - began) / per

    with clock("intensity range"):
        measure(image, progress=False)
    copy = ZarrOutput(folder.with_name("copy.ome.zarr"), identity="costs", shard=shard).layer(
        "dense", size=dense.size, dtype=np.uint8, kind="image", channels=dense.channels, spacing=dense.spacing
    )
    with clock("store the output"):
        for one in list(copy.pending()):
            copy.write(one, dense.read(one))
        copy.finish()
    shards = list(dense.region.split(finder.shard))
    with clock("find objects"):
        for one in shards:
            finder.find(one)
    tree = finder.tree
    with clock("join objects"):
        tree.run(Crew())
    costs |= last_join(tree)
    with clock("number objects"):
        tree.number(finder.rule.min_voxels)
    costs["objects per voxel"] = tree.count / voxels
    with clock("write objects"):
        for i, one in enumerate(shards):
            finder.write(i, one, layer, image)
    with clock("pyramid of objects"):
        layer.finish()
    scratch = sum(f.stat().st_size for f in out.scratch("objects").rglob("*") if f.is_file())
    costs["scratch bytes per voxel"] = scratch / voxels
    return costs


def last_join(tree: JoinTree) -> dict[str, float]:
    """Return pieces per voxel on the faces of regions that are joined last, and what each takes there."""
    top = len(tree.grids) - 1
    regions = [tree.region(top - 1, i) for i in range(int(np.prod(tree.grids[top - 1])))]
    faces = sum(
        r.voxels / r.size[axis] * ((r.start[axis] > 0) + (r.stop[axis] < tree.size[axis]))
        for r in regions
        for axis in range(3)
    )
    began = time.process_time()
    tree.join(top, 0)
    seconds = time.process_time() - began
    graphs.AT_ONCE = 1024  # of a small volume the usual number is all, and weighs more than the rest
    tracemalloc.start()  # which takes time of its own
    tree.join(top, 0)
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    pieces = len(tree.store.load(f"joined{top}/0")["into"])
    return {
        "pieces per voxel on faces": pieces / faces,
        "seconds per piece": seconds / pieces,
        "bytes per piece": held / pieces,
    }


def brain(costs: dict[str, float]) -> None:
    """Print what the brain takes."""
    shards = BRAIN / 5e6
    print(f"\n{BRAIN:.0e} voxels on {WORKERS} processes of one core: {shards:,.0f} shards")
    total = 0.0

    def told(stage: str, hours: float, spread: bool = True) -> None:
        nonlocal total
        total += hours
        each = f"{1e9 * costs[stage]:8.1f} CPU-s per gigavoxel" if spread else " " * 30
        print(f"{stage:22} {each} {hours:8.2f} h")

    stages = ("intensity range", "network", "store the output", "find objects", "join objects")
    for stage in (*stages, "write objects", "pyramid of objects"):
        told(stage, costs[stage] * BRAIN / WORKERS / 3600)
    # The last joins are fewer than the processes: 1, 8 and 64 regions at a time, each with a quarter of the faces.
    pieces = costs["pieces per voxel on faces"] * 6 * BRAIN ** (2 / 3)
    last = costs["seconds per piece"] * pieces / 3600
    told("the last three joins", last * (1 + 1 / 4 + 1 / 16), spread=False)
    told("numbering, by one", costs["number objects"] * BRAIN / 3600, spread=False)
    memory = costs["bytes per piece"] * pieces / 2**30
    objects = costs["objects per voxel"] * BRAIN
    print(
        f"total {total:.1f} h; {objects:.2g} objects; the last join of {pieces:.2g} pieces holds {memory:,.1f} GiB, "
        f"numbering {24 * objects / 2**30:.1f} GiB"
    )
    print(f"graphs on the disk meanwhile: {costs['scratch bytes per voxel'] * BRAIN / 1e12:.2f} TB")


def main() -> int:
    """Run it; 1 where a store differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    size, tile = (QUICK_SIZE, QUICK_TILE) if quick else (SIZE, TILE)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = material.store_volume(folder / "image.ome.zarr", size)
        model = folder / "model.safetensors"
        material.blob_finder("instances").save(model)
        words = [str(model), str(image), "--tile", str(tile), "--precision", "float32"]
        good = parts(folder, words)
        alone = zarr.open_array(folder / "alone.ome.zarr" / "0", mode="r")
        dense = open_volume(folder / "alone.ome.zarr")
        costs = timed(dense, open_volume(image), folder / "costs.ome.zarr", alone.shards[1:])
        began, region = time.process_time(), f"0:{size[0]},0:{size[1] // 2},0:{size[2] // 2}"
        from aequorea.workflows.predict import PredictSpec, predict

        done = predict(
            model, image, folder / "part.ome.zarr", PredictSpec(region=region, tile=tile, precision="float32")
        )
        assert done.timing is not None
        costs["network"] = done.timing.network / done.timing.kept
        print(f"a quarter again, in one process: {time.process_time() - began:.0f} CPU-s")
        brain(costs)
    print(f"{'equal in every way' if good else 'MISSED: not equal'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
