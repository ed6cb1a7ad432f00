"""Small annotated specimens and models trained in a second, for tests of whole verbs."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest

from aequorea.annotations import LabelImage
from aequorea.cli import main
from aequorea.engine.train import TrainSpec
from aequorea.signal.specimens import NucleiSpec, touching_nuclei
from aequorea.volume import Array, Spacing, from_array
from aequorea.workflows.dataset import Item
from aequorea.workflows.finetune import FinetuneSpec, finetune

SPACING: Spacing = (2.0, 0.5, 0.5)
TRAIN = TrainSpec(steps=4, batch=2, evaluate_every=4, checkpoint_every=2, precision="float32")


@cache
def nuclei(seed: int, size: tuple[int, int, int] = (10, 48, 48)) -> tuple[Array, Array]:
    """Return image and object numbers (uint16, Z Y X) of a simulated specimen."""
    specimen = touching_nuclei(size, SPACING, seed, NucleiSpec(diameter=(6.0, 9.0)))
    return specimen.image, specimen.labels.astype(np.uint16)


def item(
    image: Array, labels: Array, name: str, spacing: Spacing | None = SPACING, unlabelled: int | None = None
) -> Item:
    """Return arrays as an annotated specimen of its own."""
    annotation = LabelImage(from_array(labels, spacing, name=f"{name}_label"), unlabelled)
    return Item(name, from_array(image, spacing, name=name), annotation, group=name)


def specimens(*seeds: int, spacing: Spacing | None = SPACING) -> list[Item]:
    """Return simulated specimens with all objects labelled."""
    return [item(*nuclei(seed), f"fish_{seed}", spacing) for seed in seeds]


def recipe(
    task: str | dict[str, object] = "semantic", backbone: str = "unet", **fields: object
) -> FinetuneSpec:
    """Return a recipe of few steps on small patches; ``semantic`` learns the foreground of objects."""
    words = {"name": task, "any_object": True} if task == "semantic" else {"name": task}
    words = task if isinstance(task, dict) else words
    body = {"name": backbone, "levels": 2} if backbone == "unet" else {"name": backbone}
    plain = {"task": words, "backbone": body, "train": TRAIN.plain(), "patch": (8, 24, 24)}
    return FinetuneSpec.parse({**plain, **fields})


@cache
def model_file(task: str = "semantic", backbone: str = "filters", steps: int = 4) -> Path:
    """Return the file of a model trained on two simulated specimens, made once for all tests of a process."""
    train = TRAIN.model_copy(update={"steps": steps, "learning_rate": 5e-3}).plain()
    run = Path(mkdtemp(prefix="quick-")) / "run"
    return finetune(specimens(1, 2), run, recipe(task, backbone, train=train)).path


def call(*words: str) -> int:
    """Run the command line in this process; returns its status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["aequorea", *words])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0
