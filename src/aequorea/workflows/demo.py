"""The verb *demo*: the whole path, on simulated specimens with exact truth or on the user's own volumes.

Two labelled crops train a model; it predicts a volume that it has not seen, and is scored there beside Otsu's
threshold and a watershed, whose two parameters were chosen on the same two crops. Then a moment of pretraining on the
same images without their labels, judged as every pretraining is.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from aequorea.annotations import LabelImage
from aequorea.engine.durable import write_file
from aequorea.engine.train import TrainSpec
from aequorea.errors import DataError
from aequorea.model import load
from aequorea.results import Result
from aequorea.scores.matching import instance_scores
from aequorea.signal.classical import otsu_watershed
from aequorea.signal.specimens import NucleiSpec, touching_nuclei
from aequorea.volume import Array, Region, Spacing, Triple, from_array
from aequorea.workflows.crops import ome_tiff
from aequorea.workflows.dataset import Item, dataset
from aequorea.workflows.evaluate import Case, evaluate
from aequorea.workflows.finetune import FinetuneSpec, finetune
from aequorea.workflows.predict import predict
from aequorea.workflows.pretrain import PretrainSpec, pretrain

SPACING: Spacing = (2.0, 0.5, 0.5)
CROP: Triple = (24, 96, 96)
UNSEEN: Triple = (48, 192, 192)
TEST_RECIPE = NucleiSpec(diameter=(6.0, 13.0), contrast=0.5, brightness=0.6, photons=40.0, glow=0.3)
"""The specimen that is scored comes from other ranges of size, texture and light than those trained on."""
STEPS, BATCH = 130, 2
"""On other simulated volumes as good as 95 steps of four samples, at two thirds of the cost."""
PRETRAIN = TrainSpec(steps=60, batch=2, learning_rate=2e-3)
"""So short that it shows how pretraining is judged, not what it is good for."""


@dataclass(frozen=True)
class Demonstrated:
    """What the demo left.

    Attributes
    ----------
    out
        Folder.
    rows
        (method, pooled scores).
    lines
        What was found on the way.
    """

    out: Path
    rows: list[tuple[str, dict[str, Any]]]
    lines: list[str]


def demo(
    out: str | Path, data: str | Path | None = None, *, steps: int = STEPS, say: Callable[[str], None] = print
) -> Demonstrated:
    """Run the whole path.

    Parameters
    ----------
    out
        Folder for everything that is written.
    data
        A folder, pattern or CSV of volumes with instance labels; default: simulated specimens.
    steps
        Training steps.
    say
        Receives lines for the user.

    Raises
    ------
    DataError
        If ``data`` holds fewer than two volumes of a kind.
    """
    out = Path(out)
    train_items, test_items = _simulated(out / "data", say) if data is None else _own(data, say)
    say("1. two labelled crops train the fixed filters and a U-Net; the better on a held-out part is kept")
    done = finetune(
        train_items,
        out / "run",
        FinetuneSpec(
            task={"name": "instances"}, train=TrainSpec(steps=steps, batch=BATCH, evaluate_every=40)
        ),
    )
    for line in done.lines:
        say(f"   {line}")
    say("2. predict what was not seen, and score it")
    parameters = tuned_watershed(train_items)
    cases = []
    for item in test_items:
        store = out / f"{item.name}.ome.zarr"
        predicted = predict(done.path, item.image, store, say=lambda line: say(f"   {line}"))
        cases.append(Case(item.name, item.image, item.annotation, predicted.result))
        image = item.image.read()[0]
        found = otsu_watershed(
            image, item.image.spacing, sigma_um=parameters[0], min_distance_um=parameters[1]
        )
        result = Result({"objects": from_array(found, item.image.spacing)})
        cases.append(Case(item.name, item.image, item.annotation, result, method="Otsu + watershed"))
        first = out / "objects.csv"
        if not first.exists():
            write_file(first, (store / "tables" / "objects.csv").read_bytes())
    say(
        "3. pretrain a transformer for a moment on the two crops without their labels; nothing above has used it"
    )
    pretrain(
        [item.image for item in train_items],
        out / "pretrained",
        PretrainSpec(train=PRETRAIN),
        held=[item.image for item in test_items],
        say=lambda line: say(f"   {line}"),
    )
    say("   (of 60 steps: more, and on more volumes, is for: aequorea pretrain)")
    model = load(done.path)
    scores = evaluate(cases, model.task, out, card=model.card, title="aequorea demo")
    return Demonstrated(out, list(scores["pooled"].items()), done.lines)


def tuned_watershed(items: list[Item]) -> tuple[float, float]:
    """Return the Gaussian width and the peak distance (µm) that serve Otsu + watershed best on labelled crops."""
    spacing = items[0].image.spacing or (1.0, 1.0, 1.0)
    unit = min(spacing)
    best = (-1.0, 0.0, 0.0)
    for sigma, distance in product((1.0, 2.0, 4.0), (4.0, 8.0, 12.0, 18.0, 26.0)):
        f1 = []
        for item in items:
            image = item.image.read()[0]
            found = otsu_watershed(
                image, item.image.spacing, sigma_um=sigma * unit, min_distance_um=distance * unit
            )
            assert isinstance(item.annotation, LabelImage)
            f1.append(instance_scores(item.annotation.volume.read()[0], found)["f1_50"])
        best = max(best, (float(np.mean(f1)), sigma * unit, distance * unit))
    return best[1], best[2]


def _simulated(folder: Path, say: Callable[[str], None]) -> tuple[list[Item], list[Item]]:
    """Write two labelled crops and an unseen volume, as files, and read them back as a user's would be."""
    if not (folder / "unseen_label.ome.tif").exists():
        say("0. simulate touching nuclei in a light-sheet microscope, z step 4 x the pixel")
        for name, size, seed, recipe in (
            ("crop_a", CROP, 11, NucleiSpec()),
            ("crop_b", CROP, 12, NucleiSpec()),
            ("unseen", UNSEEN, 99, TEST_RECIPE),
        ):
            specimen = touching_nuclei(size, SPACING, seed, recipe)
            _write(folder / f"{name}.ome.tif", specimen.image)
            _write(folder / f"{name}_label.ome.tif", specimen.labels.astype(np.uint16))
    items = dataset(folder)
    return [item for item in items if item.name != "unseen"], [
        item for item in items if item.name == "unseen"
    ]


def _write(path: Path, image: Array) -> None:
    write_file(path, ome_tiff(image[None], SPACING, ("nuclei",)))


def _own(data: str | Path, say: Callable[[str], None]) -> tuple[list[Item], list[Item]]:
    """Cut two labelled crops out of the first volume of the largest series; the other volumes are the test."""
    series: dict[str, list[Item]] = defaultdict(list)
    for item in dataset(data):
        series[re.sub(r"\d+", "#", item.name)].append(item)
    name, items = max(series.items(), key=lambda pair: (len(pair[1]), pair[0]))
    if len(series) > 1:
        others = ", ".join(sorted(set(series) - {name}))
        say(f"0. {data} holds several series: taking {name} (others: {others}; choose with a pattern)")
    if len(items) < 2:
        raise DataError(
            f"{data}: the demo needs two labelled volumes of a kind, one to train and one to score"
        )
    source = items[0]
    return [_labelled_crop(source, part) for part in (0, 1)], items[1:]


def _labelled_crop(item: Item, part: int) -> Item:
    """Return the half (in y) of an item cut to where most of it is labelled, at most 24 x 96 x 96 voxels."""
    assert isinstance(item.annotation, LabelImage)
    labels = item.annotation.volume.read()[0] > 0
    half = labels.shape[1] // 2
    side = np.zeros_like(labels)
    side[:, part * half : (part + 1) * half] = labels[:, part * half : (part + 1) * half]
    middle = np.array([m.mean() if m.size else n / 2 for m, n in zip(np.nonzero(side), labels.shape)])
    size = np.minimum(CROP, (labels.shape[0], half, labels.shape[2]))
    low = np.array([0, part * half, 0])
    high = np.array([labels.shape[0], (part + 1) * half, labels.shape[2]]) - size
    start = np.clip(np.rint(middle - size / 2), low, high).astype(int)
    region = Region.at(start.tolist(), size.tolist())
    return replace(
        item,
        name=f"{item.name}_{part}",
        image=item.image.crop(region),
        annotation=item.annotation.crop(region, item.image.size),
        offset=region.start,
    )
