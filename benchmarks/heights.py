"""Which height map and which persistence serve trained networks, beside peak-seeded watershed on the same output.

One network per set and seed (or a head on the fixed filters) learns the foreground and both height maps (``mix`` and
``capped``) at once, so that maps are compared on the same features, samples and steps. Each map is then decoded at
every persistence, and by ``peak_local_max`` + ``watershed`` (scikit-image) at every smoothing and peak distance.
Settings are scored three ways: the one of best mean over all sets but the scored one (what a default can be), the one
chosen on a held-out part of the training volume (what calibration gives), and the best on the scored voxels themselves
(a ceiling).

Nuclei: simulated (a recipe between those of the demo and of ``seams.py``), organoid (another time point is scored),
ovule. Cells bounded by membranes: organoid, ovule, plant patch. In a file of one specimen the scored part is another
part of it. Score: mean of F1 at IoU 0.5 and 0.75.

    python benchmarks/heights.py            # resumable; rows in scratch/heights.jsonl
    python benchmarks/heights.py --quick    # one set, filters
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aequorea.annotations import Annotation, LabelImage
from aequorea.engine.predict import normalised, predict_whole
from aequorea.engine.probe import fit_head, sample_features
from aequorea.engine.sampler import Pair, Sampler
from aequorea.engine.tiles import Tiling
from aequorea.engine.train import TrainSpec, train
from aequorea.layers.heads import DenseHead
from aequorea.model import Model
from aequorea.plugs import Layout
from aequorea.scores.matching import match
from aequorea.signal.basins import find_basins, paint
from aequorea.signal.classical import peak_watershed
from aequorea.signal.intensity import measure
from aequorea.signal.specimens import NucleiSpec, touching_nuclei
from aequorea.tasks.instances import UNIT, Instances, InstancesSpec
from aequorea.volume import Array, Region, Spacing, Volume, from_array
from aequorea.workflows.finetune import patch_size
from aequorea.workflows.open import open as open_volume

MAPS = ("mix", "capped")
THRESHOLDS = (0.4, 0.5, 0.6)
PERSISTENCES = (0.08, 0.1, 0.12, 0.14, 0.16, 0.18, 0.2, 0.22, 0.25, 0.3, 0.35)
SMOOTHINGS, DISTANCES = (0.0, 1.0, 2.0), (3.0, 5.0, 8.0, 12.0, 18.0, 26.0)
"""Of the rival, in voxels along x."""
BETWEEN = NucleiSpec(diameter=(9.5, 12.0), elongation=(1.5, 2.0), contrast=0.45, grain=1.6)
"""Neither the recipe that is trained on nor any that other benchmarks score."""
STEPS = 150

Part = tuple[Volume, LabelImage]
"""A normalised image and its labels."""


class BothHeights(Instances):
    """Foreground, ``mix`` and ``capped`` from one network."""

    dense_channels = ("foreground", *MAPS)

    def head(self, layout: Layout) -> nn.Module:
        """Return a linear head of three channels."""
        return DenseHead(layout.channels[0], layout.strides[0], 3)

    def target(self, annotation: Annotation, spacing: Spacing | None) -> Volume:
        """Return foreground and both heights."""
        maps = [
            Instances(self.spec.model_copy(update={"height": kind})).target(annotation, spacing).read()
            for kind in MAPS
        ]
        return from_array(np.concatenate([maps[0], maps[1][1:]]), spacing)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the task's loss with each map, averaged."""
        return (super().loss(output[:, :2], target[:, :2]) + super().loss(output[:, ::2], target[:, ::2])) / 2

    def store(self, output: Tensor) -> Tensor:
        """Return all channels in 8 bits, as the task stores them."""
        return torch.cat([super().store(output[:, :2]), super().store(output[:, ::2])[:, 1:]], 1)


def simulated(seed: int) -> tuple[list[Part], list[Part], list[Part]]:
    """Return five crops to train on, one to calibrate on, two of another recipe to score."""

    def part(size: tuple[int, int, int], number: int, recipe: NucleiSpec | None = None) -> Part:
        specimen = touching_nuclei(size, (2.0, 0.5, 0.5), number, recipe)
        return ready(
            from_array(specimen.image, specimen.spacing), from_array(specimen.labels, specimen.spacing)
        )

    crops = [part((24, 128, 128), 2000 + 10 * seed + i) for i in range(6)]
    return crops[:5], crops[5:], [part((48, 192, 192), 3000 + i, BETWEEN) for i in range(2)]


def ready(image: Volume, labels: Volume) -> Part:
    """Return an image in units of its own percentiles, with its labels."""
    return normalised(image, measure(image, progress=False)), LabelImage(labels)


def cut(part: Part, axis: int, low: float, high: float) -> Part:
    """Return the share from ``low`` to ``high`` along an axis."""
    image, truth = part
    start, stop = [0, 0, 0], list(image.size)
    start[axis], stop[axis] = (round(share * image.size[axis]) for share in (low, high))
    region = Region((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
    return image.crop(region), LabelImage(truth.volume.crop(region))


def from_files(*paths: str) -> tuple[list[Part], list[Part], list[Part]]:
    """Return parts of one volume; of two, the second is the one that is scored."""
    data = Path(os.environ.get("AEQUOREA_DATA", "../shared/data"))
    parts = [ready(*(open_volume(data / f"{p}{end}.tif") for end in ("", "_label"))) for p in paths]
    axis = int(np.argmax(parts[0][0].size))
    share = 0.75 if len(parts) > 1 else 0.5
    held = 1.0 if len(parts) > 1 else 0.65
    scored = parts[1] if len(parts) > 1 else cut(parts[0], axis, held, 1)
    return [cut(parts[0], axis, 0, share)], [cut(parts[0], axis, share, held)], [scored]


ORGANOID = "open/organoid_lstree/budding_t30"
SETS = {
    "simulated nuclei": simulated,
    "organoid nuclei": lambda seed: from_files(f"{ORGANOID}1_nuclei", f"{ORGANOID}5_nuclei"),
    "ovule nuclei": lambda seed: from_files("open/ovule_nuclei/ovule_1135"),
    "organoid cells": lambda seed: from_files(f"{ORGANOID}1_membrane", f"{ORGANOID}5_membrane"),
    "ovule cells": lambda seed: from_files("open/plant_membrane/ovule_cells"),
    "plant patch cells": lambda seed: from_files("open/plant_membrane/plant_patch_cells"),
}


def fitted(parts: Sequence[Part], backbone: str, seed: int, steps: int) -> Model:
    """Learn the three channels from scratch, as ``finetune`` would, without choosing a step."""
    torch.manual_seed(seed)
    task = BothHeights(Instances(InstancesSpec()).resolve([truth for _, truth in parts]).spec)
    spacing = parts[0][0].spacing
    model = Model.build(task, {"name": backbone}, spacing)
    pairs = [
        Pair(image, task.target(truth, image.spacing), Tiling.of(model.network, image.size, image.spacing))
        for image, truth in parts
    ]
    if backbone == "filters":
        fit_head(
            model.network.head, *sample_features(model.network, pairs, task.strata, seed=seed), task.loss
        )
        return model
    patch = patch_size([pair.tiling.domain.size for pair in pairs], pairs[0].tiling.grid)
    sampler = Sampler(pairs, task.strata, patch, seed)

    def losses(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": task.loss(model.network(batch["image"], spacing).float(), batch["target"])}

    with tempfile.TemporaryDirectory() as run:
        train(Path(run), model.network, losses, sampler, TrainSpec(steps=steps, seed=seed))
    return model


def decoded(model: Model, parts: Sequence[Part]) -> dict[str, tuple[float, float]]:
    """Return (mean F1, F1 at 0.5) of every map and setting: ``map|threshold|persistence`` and the rival's."""
    counts: dict[str, np.ndarray] = {}
    for image, truth in parts:
        dense = predict_whole(model.network, model.task, image, image.spacing).read()
        labels = truth.volume.read()[0]
        smallest = max(1, round((model.task.spec.min_size_um3 or 0) / float(np.prod(image.spacing or 1.0))))
        for number, kind in enumerate(MAPS):
            height = dense[1 + number]
            for threshold in THRESHOLDS:
                foreground = dense[0] >= 255 * threshold
                basins = find_basins(np.pad(foreground, 1), np.pad(height, 1), spacing=image.spacing)
                for persistence in PERSISTENCES:
                    found = paint(basins, round(UNIT * persistence), smallest)
                    tally(counts, f"{kind}|{threshold}|{persistence}", labels, found)
                unit = min(image.spacing or (1.0,))
                for sigma, distance in product(SMOOTHINGS, DISTANCES):
                    found = peak_watershed(
                        height,
                        foreground,
                        image.spacing,
                        sigma_um=sigma * unit,
                        min_distance_um=distance * unit,
                    )
                    sizes = np.bincount(found.ravel())
                    found = np.where(sizes[found] < smallest, 0, found)
                    tally(counts, f"{kind}|{threshold}|watershed {sigma} {distance}", labels, found)
    return {
        name: (round(float((f[0] + f[2]) / max(1, f[1] + f[3])), 4), round(float(f[0] / max(1, f[1])), 4))
        for name, f in counts.items()
    }


def tally(counts: dict[str, np.ndarray], name: str, labels: Array, found: Array) -> None:
    """Add 2TP and 2TP + FP + FN at IoU 0.5 and 0.75."""
    new = []
    for iou in (0.5, 0.75):
        pair = match(labels, found, threshold=iou)
        new += [2 * pair.tp, 2 * pair.tp + pair.fp + pair.fn]
    counts[name] = counts.get(name, np.zeros(4)) + new


def cell(name: str, backbone: str, seed: int, steps: int) -> dict[str, Any]:
    """Train and decode one set with one seed."""
    training, held, scored = SETS[name](seed)
    began = time.process_time()
    model = fitted(training, backbone, seed, steps)
    return {
        "set": name,
        "backbone": backbone,
        "seed": seed,
        "steps": steps,
        "held": decoded(model, held),
        "scored": decoded(model, scored),
        "cpu_s": round(time.process_time() - began),
    }


Rows = list[dict[str, Any]]


def mean_of(rows: Rows, name: str, setting: str, part: str = "scored") -> float:
    """Return the mean score of a setting over the seeds of one set."""
    return float(np.mean([row[part][setting][0] for row in rows if row["set"] == name]))


def summary(rows: Rows) -> dict[str, dict[str, list[float]]]:
    """Return, by map and decoder, the scores of each set: default, chosen on other sets, calibrated, best."""
    sets = list(dict.fromkeys(row["set"] for row in rows))
    own = InstancesSpec()
    out: dict[str, dict[str, list[float]]] = {}
    for kind, rival in product(MAPS, (False, True)):
        settings = [s for s in rows[0]["scored"] if s.startswith(kind) and ("watershed" in s) == rival]
        told = out[f"{kind}, {'watershed' if rival else 'persistence'}"] = {
            "default": [],
            "other sets": [],
            "calibrated": [],
            "best": [],
        }
        for name in sets:
            others = [other for other in sets if other != name] or sets
            fixed = max(settings, key=lambda s: sum(mean_of(rows, other, s) for other in others))
            told["other sets"].append(mean_of(rows, name, fixed))
            if not rival:
                told["default"].append(mean_of(rows, name, f"{kind}|{own.threshold}|{own.persistence}"))
            these = [row for row in rows if row["set"] == name]
            chosen = [max(settings, key=lambda s: row["held"][s][0]) for row in these]
            told["calibrated"].append(float(np.mean([row["scored"][c][0] for row, c in zip(these, chosen)])))
            told["best"].append(float(np.mean([max(row["scored"][s][0] for s in settings) for row in these])))
    return out


def report(rows: Rows) -> int:
    """Print the tables in Markdown and the verdict; 1 where the watershed is ahead."""
    sets = list(dict.fromkeys(row["set"] for row in rows))
    seeds = [sum(row["set"] == name for row in rows) for name in sets]
    print(f"seeds: {dict(zip(sets, seeds))}\n")
    print("| map, decoder | setting | " + " | ".join(sets) + " | mean |")
    print("|---|---|" + "---|" * (len(sets) + 1))
    means: dict[tuple[str, str], float] = {}
    for decoder, told in summary(rows).items():
        for setting, values in told.items():
            if values:
                means[decoder, setting] = float(np.mean(values))
                cells = " | ".join(f"{value:.3f}" for value in (*values, means[decoder, setting]))
                print(f"| {decoder} | {setting} | {cells} |")
    print("\n| persistence | " + " | ".join(f"{p:g}" for p in PERSISTENCES) + " |")
    print("|---|" + "---|" * len(PERSISTENCES))
    for kind in MAPS:
        line = [
            np.mean([mean_of(rows, name, f"{kind}|{InstancesSpec().threshold}|{p}") for name in sets])
            for p in PERSISTENCES
        ]
        print(f"| {kind} | " + " | ".join(f"{value:.3f}" for value in line) + " |")
    leads = {
        setting: means["mix, persistence", ours] - means["mix, watershed", setting]
        for ours, setting in (("default", "other sets"), ("calibrated", "calibrated"), ("best", "best"))
    }
    missed = min(leads.values()) < 0
    print(
        "\nlead over the watershed on the same output: "
        + ", ".join(f"{lead:+.3f} ({setting})" for setting, lead in leads.items())
        + f" (bar 0): {'MISSED' if missed else 'met'}"
    )
    return int(missed)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="ovule nuclei with filters, under a minute")
    parser.add_argument("--backbone", choices=("unet", "filters"), default="unet")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--only", nargs="*", default=list(SETS))
    parser.add_argument("--out", type=Path, default=Path("scratch/heights.jsonl"))
    args = parser.parse_args()
    if args.quick:
        return report([cell("ovule nuclei", "filters", 0, 0)])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    for seed, name in product(args.seeds, args.only):
        key = (name, args.backbone, seed, STEPS)
        if any((r["set"], r["backbone"], r["seed"], r["steps"]) == key for r in lines):
            continue
        row = cell(*key)
        lines.append(row)
        with args.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
    return report([row for row in lines if row["backbone"] == args.backbone])


if __name__ == "__main__":
    sys.exit(main())
