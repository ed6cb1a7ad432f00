"""The arms of the benchmarks of restoration: a network with so much processor time, classical methods, one score.

Whatever is chosen is chosen on training fields.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aequorea.annotations import TargetImage
from aequorea.engine.train import TrainSpec
from aequorea.model import Model
from aequorea.scores.restoration import psnr
from aequorea.signal.intensity import Intensity
from aequorea.signal.restore import Classical, choose
from aequorea.volume import Spacing, Triple, from_array
from aequorea.workflows.dataset import Item
from aequorea.workflows.finetune import FinetuneSpec, finetune

Image = NDArray[Any]
TRIED = 24
"""Steps whose time says how many fit."""


@dataclass(frozen=True)
class Field:
    """An image, what it should be, and the specimen it is of."""

    name: str
    image: Image
    truth: Image
    group: str
    spacing: Spacing | None = None


@dataclass(frozen=True)
class Budget:
    """What a network may take: seconds of one thread, or so many steps."""

    seconds: float
    steps: int | None = None


Restore = Callable[[Field], Image]


def decibels(found: Image, truth: Image) -> float:
    return psnr(found.astype(np.float64), truth.astype(np.float64), fit=True)


def trained(
    task: dict[str, Any],
    fields: Sequence[Field],
    budget: Budget,
    *,
    seed: int = 0,
    backbone: dict[str, Any] | None = None,
    patch: Triple | None = None,
) -> tuple[Model, float, int]:
    """Return a network trained for so much processor time, that time and its steps."""
    items = [
        Item(f.name, from_array(f.image, f.spacing), TargetImage(from_array(f.truth)), f.group)
        for f in fields
    ]

    def run(steps: int) -> tuple[Model, float]:
        spec = FinetuneSpec(
            task=task,
            backbone=backbone or {"name": "unet"},
            held_out=0,
            patch=patch,
            train=TrainSpec(steps=steps, seed=seed, evaluate_every=steps, precision="float32"),
        )
        at = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            return finetune(items, Path(folder) / "run", spec).model, time.process_time() - at

    steps = budget.steps
    if steps is None:
        run(1)  # what is kept of files and structures is there from now on
        begun = run(1)[1]
        step = (run(TRIED)[1] - begun) / (TRIED - 1)
        steps = max(1, int(0.93 * (budget.seconds - begun) / max(step, 1e-3)))
    return *run(steps), steps


def by_network(model: Model, intensity: Intensity | None = None, *, mirrored: bool = False) -> Restore:
    """Return a network as a way to restore; the intensity range is measured on each image where not given."""

    def restore(field: Field) -> Image:
        result = model.predict(
            field.image, field.spacing, intensity=intensity, precision="float32", mirrored=mirrored
        )
        return result.layers["restored"].read()[0]

    return restore


def classical(
    name: str,
    fields: Sequence[Field],
    *,
    fixed: Mapping[str, Any] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
) -> tuple[Restore, float, dict[str, Any]]:
    """Return a classical method with the parameters that are best for training fields, its time, and them."""
    at = time.process_time()
    pairs = [(stack(f.image), stack(f.truth)) for f in fields]
    chosen = choose(name, pairs, decibels, spacing=fields[0].spacing, fixed=fixed, grid=grid)
    method = Classical(name, chosen)
    return (
        lambda field: method.predict(stack(field.image), field.spacing),
        time.process_time() - at,
        {k: float(v) for k, v in chosen.items() if np.ndim(v) == 0},
    )


def stack(image: Image) -> Image:
    return (image if image.ndim == 3 else image[None]).astype(np.float32)
