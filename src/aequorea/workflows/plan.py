"""The verb *plan*: what a run will take, found by running a little of it.

A part of the run is done as the run would do it, in a folder that is deleted again: one or two tiles of a
prediction, a few steps of a training. Stages tell how long they took (:mod:`aequorea.progress`), and each is scaled
by what it grows with: voxels, steps, volumes. Memory is the peak of that part, since that does not grow with the
volume, but for the graph of objects.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aequorea.engine.blocks import PER_BLOCK
from aequorea.engine.durable import bytes_in
from aequorea.engine.layer import OURS
from aequorea.engine.memory import capped, forget_most, most_resident, size_text
from aequorea.engine.tiles import count_tiles
from aequorea.engine.train import TrainSpec
from aequorea.model import Model, load
from aequorea.progress import clock, listening, quantity
from aequorea.signal.intensity import measure, sampled
from aequorea.volume import Region, Triple, Volume
from aequorea.workflows.finetune import FinetuneSpec, finetune
from aequorea.workflows.open import opened
from aequorea.workflows.predict import COUNTED, MOST_MEASURED, PredictSpec, check_name, layout_of, predict
from aequorea.workflows.pretrain import JUDGED, PretrainSpec, parted, pretrain

CORES = 2
"""Shards of a prediction that are computed."""
STEPS, SETTLED = 6, 2
"""Steps of a training that are done, and how many of these are not counted: they load and prepare."""
VOLUMES, JUDGES = 3, 2
"""Volumes that a pretraining is tried on, and judged by."""
OBJECT_BYTES = 250
"""Of each object while all are joined and measured."""


@dataclass
class Plan:
    """What a run will take.

    Attributes
    ----------
    sizes
        What there is to do, by name: voxels, tiles, steps.
    seconds
        Wall time by stage.
    memory
        Peak of main memory, bytes.
    accelerator
        Peak of the accelerator's memory, bytes; ``None`` where there is none.
    result, scratch
        Bytes on the disk that stay, and that are deleted in the end.
    joules
        Energy; ``None`` where the machine does not tell.
    notes
        What the user should know, a line each.
    """

    sizes: dict[str, str]
    seconds: dict[str, float]
    memory: float
    accelerator: int | None
    result: float
    scratch: float
    joules: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def total(self) -> float:
        """Seconds of the whole run."""
        return sum(self.seconds.values())

    def lines(self) -> list[str]:
        """Return a small table."""
        stages = ", ".join(f"{name} {clock(s)}" for name, s in self.seconds.items() if s >= 0.5)
        rows = {**self.sizes, "time": f"{clock(self.total)} ({stages})" if stages else clock(self.total)}
        rows["memory"] = size_text(self.memory)
        if self.accelerator is not None:
            rows["accelerator"] = size_text(self.accelerator)
        rows["disk"] = f"{_disk_text(self.result)}, and {_disk_text(self.scratch)} while it runs"
        if self.joules is not None:
            rows["energy"] = f"{self.joules / 3.6e3:.3g} Wh"
        return [f"{name:12} {words}" for name, words in rows.items()] + self.notes


def plan_predict(
    model: Model | str | Path,
    volume: Volume,
    out: str | Path,
    spec: PredictSpec | None = None,
    *,
    mask: Volume | None = None,
    memory: int | None = None,
) -> Plan:
    """Return what :func:`aequorea.workflows.predict.predict` will take; the parameters are its own.

    Raises
    ------
    DataError, SpecError
        Where the run would raise them.
    """
    spec = spec or PredictSpec()
    check_name(Path(out))
    model = model if isinstance(model, Model) else load(model)
    model.check_channels(volume)
    laid = layout_of(model, volume, spec)
    with _trial(Path(out)) as trial:
        intensity = sampled(volume)
        with capped(memory):
            tiles = laid.tiles(model, spec, memory)
        whole = laid.work.size if model.task.over == "voxels" else laid.tiling.domain.size
        counts = [-(-n // c) for n, c in zip(whole, tiles.core)]
        part = _cores(counts, tiles.core, laid.work)
        some = spec
        if model.task.over == "voxels":
            some = spec.model_copy(update={"region": _of_image(part, laid.tiling.domain.size, volume.size)})
        region = Region.parse(some.region, volume.size) if some.region else volume.region
        at = time.monotonic()
        measure(volume.crop(region), progress=False)
        ranged = time.monotonic() - at
        trial.begin()
        done = predict(
            model,
            volume,
            trial.folder / "out.ome.zarr",
            some,
            mask=mask,
            intensity=intensity,
            say=lambda line: None,
            memory=memory,
            tiles=tiles,
        )
        spent = trial.end()
        on_disk, scratch = bytes_in(done.path, skip=OURS), trial.most_scratch
    share = laid.region.voxels / region.voxels
    number, computed = count_tiles(laid.tiling, laid.work, *tiles)
    timing = done.timing
    assert timing is not None
    seconds = {"start": trial.started}
    measured = laid.region if volume.region.voxels > MOST_MEASURED else volume.region
    if measured.voxels <= COUNTED:
        seconds["intensity"] = ranged * measured.voxels / region.voxels
    stages = {name: sum(s for s, _ in times) for name, times in trial.stages.items()}
    if timing.computed:
        seconds["network"] = timing.network * computed / timing.computed
        seconds["read and write"] = max(0.0, stages.pop("predict") - timing.network) * share
    for name, taken in stages.items():
        if name != "intensity":
            seconds[name] = taken * share
    seconds["rest"] = max(0.0, spent - sum(s for name, s in stages.items()) - timing.total)
    objects = sum(len(next(iter(t.values()), ())) for t in done.result.tables.values()) * share
    sizes = {
        "voxels": f"{laid.region.voxels:,}",
        "tiles": f"{number:,}, {computed / max(1, laid.work.voxels):.2f} voxels computed per voxel kept",
    }
    notes = []
    if not timing.computed:
        notes.append("the part that was tried is empty: time is that of reading alone")
    return Plan(
        sizes,
        seconds,
        trial.memory + OBJECT_BYTES * objects,
        trial.accelerator,
        on_disk * share,
        scratch * share,
        trial.joules(sum(seconds.values())),
        notes,
    )


def plan_finetune(
    data: Any, run: str | Path, spec: FinetuneSpec, *, memory: int | None = None, **options: Any
) -> Plan:
    """Return what :func:`aequorea.workflows.finetune.finetune` will take; the parameters are its own.

    Raises
    ------
    DataError, SpecError
        Where the run would raise them.
    """
    with _trial(Path(run)) as trial:
        trial.begin()
        done = finetune(data, trial.folder / "run", _short(spec, spec.train), memory=memory, **options)
        spent = trial.end()
        on_disk, again = bytes_in(trial.folder), (trial.folder / "run" / "all").exists()
    trained = len(trial.stages.get("step", [])) / min(STEPS, spec.train.steps)
    auto = len(done.scores) > 1
    if auto and again and trained == 1:  # that the network is better is seen after more steps
        trained += 1
    seconds, _ = _trained(trial, spent, spec.train, trained)
    notes = ["if the network is kept, which is then trained again on all labels"] if auto and again else []
    return Plan(
        {"training": f"{trained:.0f} x {spec.train.steps:,} steps of {spec.train.batch} samples"},
        seconds,
        trial.memory,
        trial.accelerator,
        on_disk,
        max(0, trial.most - on_disk),
        trial.joules(sum(seconds.values())),
        notes,
    )


def plan_pretrain(
    data: Sequence[Any],
    run: str | Path,
    spec: PretrainSpec,
    *,
    groups: Sequence[str] | None = None,
    held: Sequence[Any] = (),
    memory: int | None = None,
    **options: Any,
) -> Plan:
    """Return what :func:`aequorea.workflows.pretrain.pretrain` will take; the parameters are its own.

    A few volumes are opened, however many there are.

    Raises
    ------
    DataError, SpecError
        Where the run would raise them.
    """
    names = list(groups) if groups is not None else [str(n) for n in range(len(data))]
    images, judges = list(data), list(held)
    if not judges and spec.held_out:
        images, names, judges = parted(images, names, spec)
    chosen = [opened(one) for one in _spread(images, VOLUMES)]
    shown = [opened(one) for one in _spread(judges, JUDGES)]
    with _trial(Path(run)) as trial:
        trial.begin()
        some = _short(spec, spec.train).model_copy(update={"held_out": 0.0})
        pretrain(
            chosen,
            trial.folder / "run",
            some,
            held=shown,
            memory=memory,
            say=lambda line: None,
            **options,
        )
        spent = trial.end()
        on_disk = bytes_in(trial.folder)
    seconds, _ = _trained(trial, spent, spec.train, 1)
    tried, every = len(chosen) + len(shown), len(images) + len(judges)
    blocks = math.ceil(spec.train.steps / PER_BLOCK) * spec.train.batch
    looked_at = min(len(images), blocks) + min(
        len(judges), JUDGED
    )  # volumes are looked at when they are drawn
    for name, of, among in (
        ("range", looked_at, tried),
        ("survey", looked_at, tried),
        ("judge", min(len(judges), JUDGED), len(shown)),
    ):
        taken = sum(s for s, _ in trial.stages.get(name, []))
        if among:
            seconds[name] = taken * of / among
            seconds["prepare and finish"] -= taken
    mean = float(np.mean([image.region.voxels for image in (*chosen, *shown)])) if tried else 0.0
    return Plan(
        {
            "voxels": f"about {quantity(mean * every)} in {every:,} images",
            "training": f"{spec.train.steps:,} steps of {spec.train.batch} samples",
        },
        seconds,
        trial.memory,
        trial.accelerator,
        on_disk,
        max(0, trial.most - on_disk),
        trial.joules(sum(seconds.values())),
    )


@dataclass
class _Trial:
    """A part of a run: where it is done, and what it took."""

    folder: Path
    started: float
    stages: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    most: int = 0
    most_scratch: int = 0
    memory: int = 0
    accelerator: int | None = None
    _begun: float = 0.0
    _energy: float | None = None
    _spent: float = 0.0

    def begin(self) -> None:
        """Start the clocks."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self.stages.clear()
        self._begun, self._energy = time.monotonic(), _joules()

    def hear(self, stage: str, seconds: float, amount: float) -> None:
        """Take note of a stage, and of what lies on the disk at its end."""
        self.stages.setdefault(stage, []).append((seconds, amount))
        if stage != "step":
            self.most = max(self.most, bytes_in(self.folder))
            for ours in self.folder.glob(f"*/{OURS}"):
                self.most_scratch = max(self.most_scratch, bytes_in(ours))

    def end(self) -> float:
        """Stop the clocks; returns seconds."""
        self._spent = time.monotonic() - self._begun
        before, now = self._energy, _joules()
        self._energy = now - before if now is not None and before is not None else None
        self.memory = most_resident()
        if torch.cuda.is_available():
            self.accelerator = torch.cuda.max_memory_reserved()
        return self._spent

    def joules(self, seconds: float) -> float | None:
        """Return the energy of a run of so many seconds; ``None`` where the machine does not tell."""
        return None if not self._energy or self._energy < 0 else self._energy / self._spent * seconds


@contextmanager
def _trial(out: Path) -> Iterator[_Trial]:
    """Yield a trial on the disk of a result; its folder is deleted in the end."""
    near = next(p for p in out.absolute().parents if p.exists())
    started = _since_start()
    forget_most()
    with tempfile.TemporaryDirectory(dir=near, prefix=".plan-") as name:
        trial = _Trial(Path(name), started)
        with listening(trial.hear):
            yield trial


def _short(spec: Any, train: TrainSpec) -> Any:
    """Return a recipe of few steps."""
    steps = min(STEPS, train.steps)
    few = train.model_copy(update={"steps": steps, "evaluate_every": steps, "checkpoint_every": steps})
    return spec.model_copy(update={"train": few})


def _trained(trial: _Trial, spent: float, train: TrainSpec, runs: float) -> tuple[dict[str, float], float]:
    """Return the seconds of a training by stage, and those of a step."""
    times = {name: [s for s, _ in trial.stages.get(name, [])] for name in ("step", "score", "checkpoint")}
    few = min(STEPS, train.steps)
    settled = [s for i, s in enumerate(times["step"]) if i % few >= min(SETTLED, few - 1)]
    step = float(np.median(settled)) if settled else 0.0
    scored = float(np.mean(times["score"])) if times["score"] else 0.0
    kept = float(np.mean(times["checkpoint"])) if times["checkpoint"] else 0.0
    # The last training, on everything, has nothing to be scored on.
    scorings = len(times["score"]) / 2
    seconds = {
        "start": trial.started,
        "steps": step * train.steps * runs,
        "scores": scored * (1 + math.ceil(train.steps / train.evaluate_every)) * scorings,
        "checkpoints": kept * (1 + math.ceil(train.steps / train.checkpoint_every)) * runs,
    }
    steady = step * len(times["step"])
    seconds["prepare and finish"] = max(0.0, spent - steady - sum(times["score"]) - sum(times["checkpoint"]))
    return seconds, step


def _cores(counts: Sequence[int], core: Triple, work: Region) -> Region:
    """Return a region of whole cores in the middle of what is predicted."""
    axis = max(range(3), key=lambda i: counts[i])
    first = [max(0, (n - (CORES if i == axis else 1)) // 2) for i, n in enumerate(counts)]
    number = [min(n, CORES if i == axis else 1) for i, n in enumerate(counts)]
    start = [a + f * c for a, f, c in zip(work.start, first, core)]
    return Region.at(start, [n * c for n, c in zip(number, core)]).clip(work)


def _of_image(part: Region, domain: Triple, size: Triple) -> str:
    """Return the region of the image that needs a region of the body's grid and no more, as ``--region`` takes it."""
    words = []
    for a, b, n, m in zip(part.start, part.stop, domain, size):
        margin = 0 if n == m or b - a <= 8 else 3  # what is resampled reads a little more
        low, high = -(-(a + margin * (a > 0)) * m // n), (b - margin * (b < n)) * m // n
        words.append(f"{low}:{max(high, low + 1)}")
    return ",".join(words)


def _spread(things: Sequence[Any], most: int) -> list[Any]:
    """Return a few of many, evenly."""
    if len(things) <= most:
        return list(things)
    return [things[round(i)] for i in np.linspace(0, len(things) - 1, most)]


def _disk_text(count: float) -> str:
    return f"{quantity(count)}B"


def _since_start() -> float:
    """Return the seconds since this process began; 0 where the system does not tell."""
    with suppress(OSError, ValueError, IndexError):
        ticks = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    return 0.0


def _joules() -> float | None:
    """Return what the processors and the accelerator have used up, from any beginning; ``None``: unknown."""
    total, known = 0.0, False
    for counter in Path("/sys/class/powercap").glob("intel-rapl:?/energy_uj"):
        with suppress(OSError, ValueError):
            total, known = total + int(counter.read_text()) / 1e6, True
    with suppress(ImportError):  # comes with some builds of PyTorch
        import pynvml

        with suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            for number in range(torch.cuda.device_count()):
                device = pynvml.nvmlDeviceGetHandleByIndex(number)
                total, known = total + pynvml.nvmlDeviceGetTotalEnergyConsumption(device) / 1e3, True
    return total if known else None
