"""What pretraining is worth to restoration from few pairs: the three-way comparison, and a control.

One body learns four restorations from simulated microscopes (the objective ``restore_many``), looking at simulated
structures and at open volumes that are not scored. Then, for each part, from few pairs:

- ``from scratch``: the same body with random weights, trained on the pairs;
- ``pretrained``: as it is, no pair seen;
- ``fine-tuned``: trained on the pairs from there;
- ``permuted``: as fine-tuned, but the body's weights are permuted within each tensor first.

Parts (``--only``), metric and fields as in ``restoration.py``:

- ``w2s``: denoising; two fields of three channels learnt, four others scored, three splits;
- ``planes``: planes between planes; every 4th plane of a real volume kept, the left half learnt, the right one scored;
- ``super_resolve``: two simulated specimens learnt, twenty of other kinds through another microscope scored.

Every arm that is trained has the same steps, and a row for each of two learning rates: none is chosen. Everything
finished is a line of ``--out``, and the pretraining is resumed too.

After Ma et al., "Pretraining a foundation model for generalizable fluorescence microscopy-based image restoration"
(Nature Methods 21, 2024).

    python benchmarks/restore_many.py [--quick] [--only w2s ...] [--steps 300] [--pretrain-steps 2000]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aequorea.annotations import TargetImage
from aequorea.engine.train import TrainSpec
from aequorea.model import Model, load
from aequorea.signal.structures import TRAIN_KINDS, structure
from aequorea.volume import Volume, from_array
from aequorea.workflows.dataset import Item
from aequorea.workflows.finetune import FinetuneSpec, finetune
from aequorea.workflows.open import open as open_volume
from aequorea.workflows.pretrain import PretrainSpec, WeightedObjective, pretrain
from aequorea.workflows.stroke_probe import permuted
from restoration import SCORED, SPACING, TESTED, Field, Part, decibels, left_out, simulated, thinned, w2s

LEARNT = (
    "organoid_lstree/budding_t301_nuclei.tif",
    "plant_membrane/plant_patch_cells.tif",
    "plant_membrane/ovule_cells.tif",
    "stardist_demo/nuclei_crop.tif",
    "bbbc039/images/A15_s5.png",
    "bbbc039/images/A20_s4.png",
    "bbbc039/images/B21_s4.png",
)
"""Of the open volumes, to pretrain on."""
KIND, SIZE = 4, (24, 128, 128)
"""Simulated structures of each kind, and their voxels."""
BACKBONE = {"name": "unet"}
OBJECTIVE = {"name": "restore_many"}
PATCH = (32, 40, 40)
ARMS = ("from scratch", "pretrained", "fine-tuned", "permuted")
RATES = (2e-3, 5e-4)
PARTS = ("w2s", "planes", "super_resolve")
TASKS: dict[str, dict[str, Any]] = {
    "w2s": {"name": "denoise"},
    "planes": {"name": "isotropic", "factor": 4},
    "super_resolve": {"name": "super_resolve", "factor": 2},
}
VOLUMES = ("mesospim c5", "arabidopsis_embryo")
"""Of ``planes``."""


def pretrained(data: Path, run: Path, steps: int, quick: bool) -> Path:
    """Return the folder of the pretrained models, made where it is not there."""
    if (run / "body.safetensors").exists():
        return run
    kinds = TRAIN_KINDS[:2] if quick else TRAIN_KINDS
    number, size = (1, (24, 48, 48)) if quick else (KIND, SIZE)
    volumes: list[Volume] = [
        from_array(structure(kind, size, SPACING, 100 * k + n), SPACING, name=f"{kind} {n}")
        for k, kind in enumerate(kinds)
        for n in range(number)
    ]
    if not quick:
        volumes += [open_volume(data / "open" / path) for path in LEARNT]

    spec = PretrainSpec(
        objectives=(WeightedObjective(objective=OBJECTIVE),),
        backbone=BACKBONE,
        train=TrainSpec(steps=2 if quick else steps, batch=8, checkpoint_every=100),
        patch=PATCH,
        held_out=0,
    )
    pretrain(volumes, run, spec)
    return run


def halves(field: Field) -> tuple[Field, Field]:
    """Return the left and the right half of a field along x."""
    middle = field.image.shape[2] // 2
    left, right = slice(0, middle), slice(middle, None)
    return (
        replace(field, name=f"{field.name} left", image=field.image[..., left], truth=field.truth[..., left]),
        replace(field, image=field.image[..., right], truth=field.truth[..., right]),
    )


def parts(name: str, data: Path, quick: bool) -> list[Part]:
    """Return the cells of a part: few pairs to learn from, and the fields that are scored."""
    task = TASKS[name]
    if name == "w2s":
        fields = w2s(data)
        made = []
        for split in range(3):
            order = list(np.random.default_rng(split).permutation(sorted({f.group for f in fields})))
            few = [f for f in fields if f.group in order[:2]]
            made.append(
                Part(f"split {split}", task, few, [f for f in fields if f.group in order[10:14]], split)
            )
        return made
    if name == "planes":
        pairs = [halves(thinned(data, SCORED[volume], volume, task["factor"])) for volume in VOLUMES]
        return [Part(right.name, task, [left], [right]) for left, right in pairs]
    few, tested = (1, 1) if quick else (2, TESTED)
    return [
        Part(
            "simulated", task, simulated(name, few, 1, unseen=False), simulated(name, tested, 2, unseen=True)
        )
    ]


def restored(part: Part, arm: str, models: Path, steps: int, rate: float | None) -> list[float]:
    """Return PSNR of each tested field."""
    start = models / f"{part.task['name']}.safetensors"
    with tempfile.TemporaryDirectory() as folder:
        if arm == "permuted":
            start = shuffled(start, Path(folder) / "permuted.safetensors", part.seed)
        if rate is None:
            model = load(start)
        else:
            items = [
                Item(f.name, from_array(f.image, f.spacing), TargetImage(from_array(f.truth)), f.group)
                for f in part.train
            ]
            spec = FinetuneSpec(
                task=part.task,
                backbone=BACKBONE,
                start=None if arm == "from scratch" else str(start),
                held_out=0,
                train=TrainSpec(
                    steps=steps,
                    seed=part.seed,
                    learning_rate=rate,
                    evaluate_every=steps,
                    checkpoint_every=steps,
                ),
            )
            model = finetune(items, Path(folder) / "run", spec).model
        found = []
        for field in part.test:
            truth = field.truth if field.truth.ndim == 3 else field.truth[None]
            made = model.predict(field.image, field.spacing).layers["restored"].read()[0]
            if part.task["name"] == "isotropic":
                made, truth = (left_out(volume, part.task["factor"]) for volume in (made, truth))
            found.append(decibels(made, truth))
        return found


def shuffled(model: Path, out: Path, seed: int) -> Path:
    """Write a model whose body's weights are permuted within each tensor."""
    whole = load(model)
    whole.network.backbone = permuted(whole.network.backbone, seed)
    return Model(whole.task, whole.network, whole.card).save(out)


def table(rows: Sequence[dict[str, Any]]) -> None:
    """Print PSNR of each arm, and what it has over the better rate from scratch with its 95 % interval."""
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        found[row["part"]][named(row["arm"], row["rate"])][f"{row['cell']} {row['field']}"] = row["psnr"]
    print("| part | arm | images | PSNR, dB | over the better from scratch (95 %) | above it |")
    print("|---|---|---|---|---|---|")
    for part, arms in found.items():
        rivals = [name for name in arms if name.startswith(ARMS[0])]
        best = max(rivals, key=lambda name: float(np.mean(list(arms[name].values()))), default=None)
        for name in sorted(arms, key=lambda name: [name.startswith(arm) for arm in ARMS], reverse=True):
            line = f"| {part} | {name} | {len(arms[name])} | {np.mean(list(arms[name].values())):.2f} "
            if best is None or name in rivals:
                print(f"{line}| | |")
                continue
            lead = np.array([psnr - arms[best][where] for where, psnr in arms[name].items()])
            draws = np.random.default_rng(0).choice(lead, (2000, len(lead))).mean(1)
            low, high = np.percentile(draws, (2.5, 97.5))
            print(f"{line}| {lead.mean():+.2f} ({low:+.2f} … {high:+.2f}) | {np.mean(lead > 0):.0%} |")


def named(arm: str, rate: float | None) -> str:
    return arm if rate is None else f"{arm}, {rate:g}"


def main() -> int:
    """Fill the table; nothing is judged."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two steps of everything")
    parser.add_argument("--only", nargs="*", default=list(PARTS), choices=PARTS)
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=ARMS)
    parser.add_argument("--rates", nargs="*", type=float, default=list(RATES))
    parser.add_argument("--steps", type=int, default=300, help="of training on the pairs, all arms")
    parser.add_argument("--pretrain-steps", type=int, default=2000)
    parser.add_argument("--models", type=Path, default=Path("scratch/restore_many"), help="pretraining's run")
    parser.add_argument("--out", type=Path, default=Path("scratch/restore_many.jsonl"))
    told = parser.parse_args()
    torch.set_num_threads(1)
    data = Path(os.environ.get("AEQUOREA_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not told.quick and not (data / "open").exists():
        print(f"{data}: no real volumes there; set AEQUOREA_DATA to their folder")
        return 2
    names, steps, models, out = told.only, told.steps, told.models, told.out
    if told.quick:
        folder = Path(tempfile.mkdtemp())
        names, steps, models, out = ["super_resolve"], 2, folder / "run", folder / "rows.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []

    if set(told.arms) - {ARMS[0]}:
        pretrained(data, models, told.pretrain_steps, told.quick)
    for name in names:
        for part in parts(name, data, told.quick):
            for arm in told.arms:
                for rate in [None] if arm == "pretrained" else told.rates:
                    key = {"part": name, "cell": part.name, "arm": arm, "rate": rate}
                    if any(all(row[k] == v for k, v in key.items()) for row in rows):
                        continue
                    found = restored(part, arm, models, steps, rate)
                    made = [
                        {**key, "field": field.name, "psnr": psnr} for field, psnr in zip(part.test, found)
                    ]
                    rows += made
                    with out.open("a") as file:
                        file.writelines(json.dumps(row) + "\n" for row in made)
                    mean = np.mean(found)
                    print(f"{name} {part.name} {named(arm, rate)}: {mean:.2f} dB", flush=True)
    table(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
