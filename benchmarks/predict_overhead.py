"""What prediction costs beyond the network, and how it stands beside MONAI's sliding windows.

Three things are timed in turn, on two cores, start-up excluded: ``predict`` from zstd-compressed uint16 on disk
to uint8 on disk (histogram, pyramid and fsync included), the bare network on the same tiles already in memory,
and MONAI's ``sliding_window_inference`` (gaussian weights, the same folded network in the same precision, the
whole volume in memory, nothing read or written, the fastest of a few windows and batches). CPU time outside the
network is that of ``predict`` with the network's answers given to it from memory: with the probabilities alone as
output (one uint8 layer, which the bar is for), and with the classes too (two). Dice is against one pass over
the whole volume, both cut at its median. The network is trained for a minute on blobs like those of the volume.

    python benchmarks/predict_overhead.py            # 128 x 384 x 384 (outside: 128 x 768 x 768), medians of 5
    python benchmarks/predict_overhead.py --quick    # 128 x 128 x 192, a random network, one kind of window

What a run spends once (about .2 s of CPU) counts as outside the network; with ``--quick`` it is taken off by the
difference between two volumes, since the small ones are done too soon for it not to matter.
"""

# ruff: noqa: E402  # what PyTorch and zarr look at when they are imported is set before

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

from aequorea.settings import settle

settle()  # as the command line does

import numpy as np
import torch
from torch import Tensor

import material
from aequorea.engine import predict as engine
from aequorea.engine.inference import Runner
from aequorea.model import Model
from aequorea.signal.intensity import measure
from aequorea.volume import ORIGIN, Array, Region, Triple, Volume
from aequorea.workflows.open import open as open_volume
from aequorea.workflows.predict import Predicted, predict

MOST_TOTAL, MOST_CPU = 1.25, 40.0
"""Bars: wall time in that of the network; CPU-seconds outside the network per gigavoxel."""
LEAST_SPEED = {0.25: 1.3, 0.5: 3.0}
"""Bars: how many times faster than sliding windows of that overlap."""
WINDOWS = [(64, 4), (96, 1), (96, 2)]
"""Window edges in voxels, and windows per batch, of which the fastest is taken."""
THREADS = 2


class Recorder(Runner):
    """A runner that keeps what it is given and what it answers."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.tiles: list[tuple[Array, Region | None, Tensor]] = []
        Recorder.last = self

    def __call__(self, image: Array, origin: Triple = ORIGIN, kept: Region | None = None) -> Tensor:
        """Compute, and keep."""
        out = super().__call__(image, origin, kept)
        self.tiles.append((image, kept, out))
        return out

    last: Recorder


class Replay(Runner):
    """A runner that costs nothing: it gives the answers of :class:`Recorder` in their order."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.answers = iter([out for *_, out in Recorder.last.tiles])

    def __call__(self, image: Array, origin: Triple = ORIGIN, kept: Region | None = None) -> Tensor:
        """Answer from memory."""
        return next(self.answers)


def with_runner(runner: type[Runner], work: Callable[[], Any]) -> Any:
    """Call something while predictions run on another runner."""
    engine.Runner = runner  # type: ignore[misc]
    try:
        return work()
    finally:
        engine.Runner = Runner  # type: ignore[misc]


def one_layer(model: Model, work: Callable[[], Any]) -> Any:
    """Call something while the model's task makes nothing of what it stores."""
    with patch.object(type(model.task), "decode", lambda *_: None):
        return work()


def timed(work: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    """Return what comes out, and seconds of the wall clock and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, (time.perf_counter() - wall, time.process_time() - cpu)


def sliding(runner: Runner, image: Tensor, window: int, batch: int, overlap: float) -> Tensor:
    """Return the network's output by MONAI's sliding windows."""
    from monai.inferers import sliding_window_inference

    def network(x: Tensor) -> Tensor:
        order = torch.channels_last_3d if runner.dtype == torch.bfloat16 else torch.contiguous_format
        return runner.network(x.to(runner.dtype, memory_format=order), runner.spacing).float()

    shape = [min(window, n) for n in image.shape[2:]]
    with torch.inference_mode():
        out: Tensor = sliding_window_inference(image, shape, batch, network, overlap=overlap, mode="gaussian")
    return out


def dice(a: Array, b: Array) -> float:
    """Return the overlap of two masks."""
    return float(2 * np.count_nonzero(a & b) / max(1, np.count_nonzero(a) + np.count_nonzero(b)))


def median(values: Iterable[float]) -> float:
    """Return the median as a number."""
    return float(np.median(list(values)))


def on_disk(folder: Path, model: Model, size: Triple) -> tuple[Volume, Callable[[], Predicted]]:
    """Return a volume on disk, and what predicts it, each time into another store."""
    volume = open_volume(material.store_volume(folder / "in.ome.zarr", size))
    places = (folder / f"out{i}.ome.zarr" for i in count())
    return volume, lambda: predict(model, volume, next(places), say=lambda line: None)


def outside(folder: Path, model: Model, size: Triple, repeats: int) -> dict[str, list[float]]:
    """Return CPU-seconds outside the network, of one layer of output and of two."""
    _, ours = on_disk(folder, model, size)
    with_runner(Recorder, ours)
    both = partial(with_runner, Replay, ours)
    spent: dict[str, list[float]] = {}
    for _ in range(repeats):
        for what, work in (("one layer", partial(one_layer, model, both)), ("two layers", both)):
            spent.setdefault(what, []).append(timed(work)[1][1])
    return spent


def per_gigavoxel(folder: Path, model: Model, sizes: Sequence[Triple], repeats: int) -> tuple[float, float]:
    """Return CPU-seconds per gigavoxel outside the network, of one layer of output and of two; medians.

    Of two sizes, the second one's beyond the first one's.
    """
    spent = [outside(folder / f"of{n}", model, size, repeats) for n, size in enumerate(sizes)]
    voxels = math.prod(sizes[-1])
    less = dict.fromkeys(spent[0], 0.0)
    if len(sizes) > 1:
        voxels -= math.prod(sizes[0])
        less = {what: median(found) for what, found in spent[0].items()}
    cost = {what: [(s - less[what]) / voxels * 1e9 for s in found] for what, found in spent[-1].items()}
    for what, found in cost.items():
        print(
            f"{what}: {min(found):.1f} to {max(found):.1f} CPU-s/gigavoxel outside the network, {sizes[-1]} voxels"
        )
    return median(cost["one layer"]), median(cost["two layers"])


def compare(
    folder: Path,
    model: Model,
    size: Triple,
    outer: Sequence[Triple],
    repeats: int,
    monai_repeats: int,
    windows: Sequence[tuple[int, int]],
) -> int:
    """Time everything in turn, print it, and return 1 if a bar is missed."""
    volume, ours = on_disk(folder / "usual", model, size)
    done = with_runner(Recorder, ours)
    tiles = Recorder.last.tiles
    assert done.timing is not None
    spent = done.timing.computed / done.timing.kept
    print(f"{size} voxels, {len(tiles)} tiles, {spent:.2f} voxels computed per voxel kept", flush=True)

    runner = Runner(model.network, volume.spacing)
    image = torch.from_numpy(engine.normalised(volume, measure(volume, progress=False)).read())[None]
    whole = model.task.store(runner(image[0].numpy()))[0, 0].numpy()
    cut = max(1, int(np.median(whole)))
    setting = windows[0]
    if len(windows) > 1:
        tried = {setting: timed(partial(sliding, runner, image, *setting, 0.25))[1][0] for setting in windows}
        setting = min(tried, key=tried.__getitem__)
    rivals = {overlap: partial(sliding, runner, image, *setting, overlap) for overlap in LEAST_SPEED}
    own = dice(done.result.layers["dense"].read()[0] >= cut, whole >= cut)

    def bare() -> None:
        for block, kept, _ in tiles:
            runner(block, kept=kept)

    times: dict[str, list[tuple[float, float]]] = {}
    answers: dict[str, Tensor] = {}
    for turn in range(repeats):
        works: list[tuple[str, Callable[[], Any]]] = [
            ("predict", ours),
            ("network", bare),
        ]
        if turn < monai_repeats:
            works += [(f"MONAI {o:.0%}", work) for o, work in rivals.items()]
        for what, work in works:
            found, spent_now = timed(work)
            times.setdefault(what, []).append(spent_now)
            if what.startswith("MONAI"):
                answers[what] = found
    dices = {
        o: dice(model.task.store(answers[f"MONAI {o:.0%}"])[0, 0].numpy() >= cut, whole >= cut)
        for o in rivals
    }
    print(
        f"Dice against the whole pass: ours {own:.5f}, "
        + ", ".join(f"MONAI at {o:.0%} {d:.5f}" for o, d in dices.items())
        + f" (windows of {setting[0]}³, {setting[1]} at a time)",
        flush=True,
    )
    for what, t in times.items():
        low, high = min(w for w, _ in t), max(w for w, _ in t)
        middle, cpu = median(w for w, _ in t), median(c for _, c in t)
        print(f"{what:10} {middle:7.2f} s ({low:.2f} to {high:.2f}), {cpu:.2f} s of CPU")
    total = median(p[0] / n[0] for p, n in zip(times["predict"], times["network"]))
    one, two = per_gigavoxel(folder, model, outer, repeats)
    faster = {
        o: median(m[0] / p[0] for m, p in zip(times[f"MONAI {o:.0%}"], times["predict"])) for o in rivals
    }
    missed = ["total"] if total > MOST_TOTAL else []
    missed += ["CPU outside"] if one > MOST_CPU else []
    missed += [f"speed at {o:.0%}" for o in rivals if faster[o] < LEAST_SPEED[o]]
    missed += [f"Dice at {o:.0%}" for o in rivals if dices[o] > own]
    print(
        f"predict: {total:.2f} x the network's time (bar {MOST_TOTAL}), "
        f"{one:.1f} CPU-s/gigavoxel outside it (bar {MOST_CPU:g}; with classes {two:.1f}), "
        + ", ".join(f"{faster[o]:.1f} x MONAI at {o:.0%} (bar {LEAST_SPEED[o]})" for o in rivals)
        + f", Dice {own:.4f} (MONAI's {', '.join(f'{d:.4f}' for d in dices.values())})"
        + f": {'MISSED ' + ', '.join(missed) if missed else 'met'}"
    )
    return int(bool(missed))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="128 x 128 x 192 voxels, a random network")
    quick: bool = parser.parse_args().quick
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if quick:
            small, outer = (128, 128, 192), [(128, 128, 192), (128, 256, 384)]
            return compare(folder, material.shaken(), small, outer, 2, 1, WINDOWS[1:2])
        model = material.trained(folder / "run")
        return compare(folder, model, (128, 384, 384), [(128, 768, 768)], 5, 5, WINDOWS)


if __name__ == "__main__":
    sys.exit(main())
