"""The verb *evaluate* with folds: a recipe trained once for each fold, and tested on what it did not see."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.random import Generator, Philox

from aequorea.errors import DataError, SpecError
from aequorea.registry import build
from aequorea.workflows.dataset import Item, dataset, told_apart
from aequorea.workflows.evaluate import Case, evaluate
from aequorea.workflows.finetune import FinetuneSpec, finetune
from aequorea.workflows.predict import PredictSpec, predict


def cross_validate(
    recipe: FinetuneSpec | str | Path,
    data: str | Path | Sequence[Item],
    out: str | Path,
    folds: int = 5,
    spec: PredictSpec | None = None,
    *,
    say: Callable[[str], None] = print,
    **options: Any,
) -> dict[str, Any]:
    """Fine-tune on all folds but one, predict that one, for each; score all images together.

    A fold holds whole specimens (groups). Interrupted, it goes on where it was.

    Parameters
    ----------
    recipe
        Of the training: a spec, its YAML file, or a run folder, whose recipe is taken and whose weights are not.
    data
        A folder, a CSV or items.
    out
        Folder for the runs (``fold-1`` …), predictions, scores and report.
    folds
        At least 2, at most as many as there are specimens.
    spec
        Recipe of the predictions.
    say
        Receives lines for the user.
    **options
        Passed on to :func:`aequorea.workflows.dataset.dataset`.

    Returns
    -------
    dict
        What ``scores.json`` holds.

    Raises
    ------
    DataError
        If there are fewer specimens than folds.
    SpecError
        If there is no recipe, or fewer than two folds.
    """
    out = Path(out)
    training = recipe if isinstance(recipe, FinetuneSpec) else recipe_of(recipe)
    task = build("tasks", training.task)
    kind = task.annotation
    items = dataset(data, kind=kind, **options) if isinstance(data, str | Path) else told_apart(data)
    items = [replace(item, split=None) for item in items]
    parts = deal([item.group for item in items], folds, training.train.seed)

    def cases() -> Iterator[Case]:
        for number, groups in enumerate(parts, 1):
            say(f"fold {number} of {folds}: tested on {', '.join(sorted(groups))}")
            kept = [item for item in items if item.group not in groups]
            done = finetune(kept, out / f"fold-{number}", training)
            for item in (item for item in items if item.group in groups):
                store = out / "predictions" / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', item.name)}.ome.zarr"
                found = predict(done.path, item.image, store, spec, intensity=item.intensity, say=say)
                yield Case(item.name, item.image, item.annotation, found.result)

    return evaluate(cases(), task, out, title=f"{folds}-fold cross-validation")


def deal(groups: Sequence[str], folds: int, seed: int) -> list[set[str]]:
    """Return the groups of each fold, of about equal numbers of images; raises as :func:`cross_validate`."""
    names = sorted(set(groups))
    if folds < 2:
        raise SpecError(f"--folds {folds}: at least 2, of which one is tested and the others are trained on")
    if len(names) < folds:
        raise DataError(
            f"{len(names)} specimens cannot be dealt to {folds} folds: give --folds {max(2, len(names))} or fewer, "
            "or a CSV whose column 'group' says which images are of one specimen"
        )
    parts: list[set[str]] = [set() for _ in range(folds)]
    held = [0] * folds
    order = [names[i] for i in Generator(Philox(key=seed)).permutation(len(names))]
    for name in sorted(order, key=lambda n: -list(groups).count(n)):
        least = held.index(min(held))
        parts[least].add(name)
        held[least] += list(groups).count(name)
    return parts


def recipe_of(path: str | Path) -> FinetuneSpec:
    """Return the recipe in a YAML file, or of the run folder that a path or a model file in it names."""
    path = Path(path)
    places = [path, path / "spec.yaml", path.parent / "spec.yaml"]
    found = next((p for p in places if p.suffix in (".yaml", ".yml") and p.is_file()), None)
    if found is None:
        raise SpecError(f"{path}: no recipe here; give a run folder of 'aequorea finetune' or its spec.yaml")
    return FinetuneSpec.from_yaml(found)
