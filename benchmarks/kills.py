"""``kill -9`` at any instant of fine-tuning, prediction and pretraining: the run taken up again ends in the same bits.

A parent that has imported everything, and computed nothing, forks a child that runs the verb; after a time drawn
uniformly from what an uninterrupted run takes, the child is killed. The same command is then run to its end, and
every file that it leaves is compared, byte for byte, with those of the uninterrupted run. What the child was at
when it died is read from memory that it shares with the parent, which functions wrapped here write to.

Besides: a finished command run again changes nothing and does nothing but look whether it is finished; a damaged
checkpoint or shard is passed over or made again, and the command says so.

    python benchmarks/kills.py            # 60 kills each
    python benchmarks/kills.py --quick    # 3 kills each, two minutes
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
import torch._dynamo  # optimizers do: once here in place of once in each child

import material
from aequorea.annotations import LabelImage
from aequorea.engine import checkpoint, durable, inference, join_tree, layer, objects, train, writer
from aequorea.model import Model
from aequorea.objectives.mae import MAE as objective
from aequorea.signal.specimens import touching_nuclei
from aequorea.volume import from_array
from aequorea.workflows import cache, index
from aequorea.workflows import finetune as learn
from aequorea.workflows import predict as apply
from aequorea.workflows import pretrain as prepare
from aequorea.workflows.dataset import Item
from aequorea.workflows.open import open as open_volume

KILLS, QUICK_KILLS = 60, 3
STEPS = {"steps": 16, "batch": 2, "evaluate_every": 8, "checkpoint_every": 4}
SIZE, TILE = (32, 128, 128), 180_000
VERBS = ("finetune", "predict", "pretrain")

PHASES: list[tuple[str, Any, str]] = [
    ("writing a shard", layer, "write_file"),
    ("noting it in the journal", durable.Journal, "append"),
    ("pyramid", layer.ZarrLayer, "finish"),
    ("finding objects", objects.ObjectFinder, "find"),
    ("joining objects", join_tree.JoinTree, "join"),
    ("numbering objects", objects.ObjectFinder, "write"),
    ("measuring objects", objects.ObjectFinder, "table"),
    ("writing the table", writer.ZarrOutput, "table"),
    ("beginning a layer", writer.ZarrOutput, "layer"),
    ("completing", writer.ZarrOutput, "complete"),
    ("beginning the store", writer.ZarrOutput, "__init__"),
    ("histogram", apply, "measure_together"),
    ("checkpoint", checkpoint, "write"),
    ("best weights, metrics", train, "write_file"),
    ("sampling features", learn, "sample_features"),
    ("fitting filters", learn, "fit_head"),
    ("evaluating", learn, "decode_whole"),
    ("calibrating", learn, "_calibrate"),
    ("writing the model", Model, "save"),
    ("finishing the run", learn, "_finish"),
    ("setting up", learn._Data, "prepare"),
    ("converting a slow volume", cache.Cache, "_convert"),
    ("making room for slow volumes", cache.Cache, "_fill"),
    ("indexing files", index.Index, "_update"),
    ("measuring intensities", prepare, "measure"),
    ("surveying volumes", objective, "survey"),
    ("judging reconstruction", prepare, "judged"),
    ("settling normalisations", prepare, "settle"),
    ("judging features", prepare, "stroke_probe"),
    ("writing the body", prepare, "save_body"),
    ("pretraining", prepare, "train"),
    ("reading the dataset", learn, "dataset"),
    ("training", learn, "train"),
    ("network", inference.Runner, "__call__"),
]
"""What is told apart, the most particular first: owner and name of the function that does it."""
LOOKING = {"reading the dataset", "beginning the store", "indexing files"}
"""What a finished command run again may do, to see that it is finished."""


class Watch:
    """Counts, in memory shared with the parent, how many threads of the child are in each phase."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, len(PHASES))
        self._entered = mmap.mmap(-1, len(PHASES))
        self._lock = threading.Lock()
        for place, (_, owner, name) in enumerate(PHASES):
            setattr(owner, name, self._watched(place, getattr(owner, name)))

    def _watched(self, index: int, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self._count(index, 1)
            try:
                return work(*args, **options)
            finally:
                self._count(index, -1)

        return call

    def _count(self, index: int, step: int) -> None:
        with self._lock:
            self._memory[index] += step
            self._entered[index] = 1

    def reset(self) -> None:
        """Forget what the last child was at."""
        self._memory[:] = self._entered[:] = bytes(len(PHASES))

    def entered(self) -> set[str]:
        """Return every phase that the child was in."""
        return {name for was, (name, *_) in zip(bytes(self._entered), PHASES) if was}

    def phase(self) -> str:
        """Return the most particular phase that the child is or was in."""
        counts = bytes(self._memory)
        return next((name for count, (name, *_) in zip(counts, PHASES) if count), "between")


def fork(work: Callable[[], object], log: Path) -> int:
    """Start a child that does the work and prints to a file; returns its number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            torch.set_num_threads(1)
            work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def run(work: Callable[[], object], log: Path) -> tuple[float, float]:
    """Do the work in a child, to its end; returns its seconds, of the clock and of the processor."""
    began = time.monotonic()
    _, status, usage = os.wait4(fork(work, log), 0)
    if status:
        raise SystemExit(f"a child ended with status {status}:\n{log.read_text()[-2000:]}")
    return time.monotonic() - began, usage.ru_utime + usage.ru_stime


def files(folder: Path) -> dict[str, bytes]:
    """Return what a run left: bytes by name, without what says when and how it ran."""
    told = (".aequorea/", "metrics.csv", "summary.json", "index.jsonl", "found-0.jsonl")
    return {
        name: b"" if any(part in name for part in told) else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not (name := str(path.relative_to(folder))).startswith(".aequorea/partial")
    }


def compare(folder: Path, reference: dict[str, bytes], when: str) -> None:
    """Leave with status 1 where a run left something else than the uninterrupted one."""
    found = files(folder)
    wrong = [name for name in sorted(found | reference) if found.get(name) != reference.get(name)]
    if wrong:
        raise SystemExit(f"{folder.name}: {', '.join(wrong[:5])} differ from an uninterrupted run, {when}")


def kills(verb: str, work: Callable[[Path], object], folder: Path, number: int, watch: Watch) -> Counter[str]:
    """Kill the verb ``number`` times, each time from the beginning, and take it up; returns the phases hit."""
    log = folder / "log.txt"
    whole = folder / verb
    first, cpu = run(partial(work, whole), log)
    reference = files(whole)
    rng = np.random.default_rng(0)
    hit: Counter[str] = Counter()
    late = 0
    while hit.total() < number:
        place = folder / f"{verb} {hit.total()}"
        shutil.rmtree(place, ignore_errors=True)
        watch.reset()
        child = fork(partial(work, place), log)
        wait = rng.uniform(0, first)
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            late += 1
            continue
        phase = watch.phase()
        hit[phase] += 1
        run(partial(work, place), log)
        compare(place, reference, f"killed after {wait:.2f} s ({phase})")
        shutil.rmtree(place)
    print(f"{verb}: {number} kills, all bit-equal after taking up ({late} more came after the end)")
    for phase, count in hit.most_common():
        print(f"  {count:3d}  {phase}", flush=True)
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    watch.reset()
    _, again = run(partial(work, whole), log)
    if {path: path.stat().st_mtime_ns for path in whole.rglob("*")} != before:
        raise SystemExit(f"{verb}: a second run changed something")
    if done := watch.entered() - LOOKING:
        raise SystemExit(f"{verb}: a second run was {', '.join(sorted(done))}")
    print(f"{verb}: a second run changes nothing and takes {again:.2f} s of CPU instead of {cpu:.2f} s")
    return hit


def spoil(path: Path) -> None:
    """Change a byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(bytes(data))


def said(log: Path, work: Callable[[], object], words: str) -> None:
    """Run something and check that it says ``words``."""
    log.write_text("")
    run(work, log)
    if words not in log.read_text():
        raise SystemExit(f"'{words}' was not said:\n{log.read_text()[-1000:]}")


def damaged_checkpoint(work: Callable[[Path], object], folder: Path) -> None:
    """Kill a run once it has two checkpoints, spoil the newer, take it up."""
    place, log = folder / "damaged run", folder / "damaged.txt"
    child = fork(partial(work, place), log)
    found: list[Path] = []
    while len(found) < 2:
        time.sleep(0.005)
        found = sorted(place.rglob("checkpoints/[0-9]*.json"))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    spoil(sorted(place.rglob("checkpoints/[0-9]*.json"))[-1].with_suffix(".safetensors"))
    said(log, lambda: work(place), "is damaged: going on from step")
    compare(place, files(folder / "finetune"), "with a damaged checkpoint")
    print("finetune: a damaged checkpoint is passed over for the one before, said so, same bits")


def damaged_shard(work: Callable[[Path], object], folder: Path) -> None:
    """Spoil a shard of a finished result and run again."""
    place, log = folder / "predict", folder / "damaged.txt"
    reference = files(place)
    spoil(max((place / "0").rglob("c/*/*/*/*"), key=lambda path: path.stat().st_size))
    said(log, lambda: work(place), "damaged since it was written; computed again")
    compare(place, reference, "with a damaged shard")
    print("predict: a damaged shard is computed again, said so, same bits")


def specimens(folder: Path) -> None:
    """Write three small images with their labels."""
    block = material.blobs()
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for i in range(3):
        image = block[:24, 32 * i : 32 * i + 32, :32]
        np.save(folder / "images" / f"s{i}.npy", image)
        np.save(folder / "labels" / f"s{i}.npy", (image > 300).astype(np.uint8))


def slow_volumes(folder: Path) -> list[Path]:
    """Write planes that have to be decoded whole, and let them count as slow although they are few."""
    cache.LEAST, cache.SHARD = 1 << 20, (16, 64, 64)
    image = np.tile(material.blobs(), (1, 4, 4))[:32, :256, :256]
    z, y, x = material.SPACING
    words = {"axes": "ZYX", "PhysicalSizeZ": z, "PhysicalSizeY": y, "PhysicalSizeX": x}
    paths = [folder / f"slow_{n}.ome.tif" for n in range(2)]
    for n, path in enumerate(paths):
        tifffile.imwrite(path, image + n, compression="zlib", rowsperstrip=256, metadata=words)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_KILLS} kills each")
    parser.add_argument("--verb", choices=VERBS, help="one of them; default: all")
    args = parser.parse_args()
    number = QUICK_KILLS if args.quick else KILLS
    verbs = [args.verb] if args.verb else VERBS
    watch = Watch()
    spec = learn.FinetuneSpec.parse(
        {
            "task": {"name": "semantic"},
            "backbone": {"name": "auto"},
            "train": STEPS,
            "patch": [16, 16, 16],
            "held_out": 0.34,
        }
    )
    objectives = prepare.PretrainSpec.parse({"train": STEPS, "patch": [16, 32, 32], "held_out": 0.34})
    recipe = apply.PredictSpec(tile=TILE, halo=(8, 8, 8))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        specimens(folder / "data")
        slow = slow_volumes(folder)
        log = folder / "log.txt"
        run(lambda: material.store_volume(folder / "in.ome.zarr", SIZE), log)
        run(lambda: material.blob_finder("instances").save(folder / "model.safetensors"), log)

        small = touching_nuclei((8, 64, 64), (2.0, 0.5, 0.5), 5)
        painted = LabelImage(from_array(small.labels, small.spacing))
        probe = [Item("small", from_array(small.image, small.spacing), painted, "small")]

        def finetune(place: Path) -> None:
            done = learn.finetune(folder / "data", place, spec, spacing=material.SPACING)
            print("\n".join(done.lines))

        def predict(place: Path) -> None:
            apply.predict(folder / "model.safetensors", folder / "in.ome.zarr", place, recipe)

        def pretrain(place: Path) -> None:
            images = [folder / "data" / "images" / f"s{i}.npy" for i in range(3)]
            named = [open_volume(path, spacing=material.SPACING) for path in images]
            prepare.pretrain([*named, *slow], place, objectives, probe=probe)

        if "finetune" in verbs:
            kills("finetune", finetune, folder, number, watch)
            damaged_checkpoint(finetune, folder)
        if "predict" in verbs:
            kills("predict", predict, folder, number, watch)
            damaged_shard(predict, folder)
        if "pretrain" in verbs:
            kills("pretrain", pretrain, folder, number, watch)
            if "slow to read in blocks: converted once" not in log.read_text():
                raise SystemExit("pretrain: no slow volume was converted")
    total = len(verbs) * number
    print(f"kills: {total} survived of {total} (bar: all): met")


if __name__ == "__main__":
    sys.exit(main())
