"""The verb *evaluate* with folds: a recipe trained once for each fold, and tested on what it did not see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.random import Generator, Philox

from aequorea.errors import DataError, SpecError
from aequorea.model import card_of
from aequorea.registry import build
from aequorea.workflows.dataset import Item, dataset, told_apart
from aequorea.workflows.evaluate import Case, evaluate
from aequorea.workflows.evaluate_model import tested
from aequorea.workflows.finetune import FinetuneSpec, finetune, task_of
from aequorea.workflows.predict import PredictSpec


def cross_validate(
    recipe: FinetuneSpec | str | Path,
    data: str | Path | Sequence[Item],
    out: str | Path,
    folds: int = 5,
    spec: PredictSpec | None = None,
    *,
    compare: bool = False,
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
    compare
        Beside the recipe, which starts from a model: the same from scratch, and that model as it is.
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
        If there is no recipe, or fewer than two folds, or nothing to compare with.
    """
    out = Path(out)
    training = recipe if isinstance(recipe, FinetuneSpec) else recipe_of(recipe)
    words = task_of(training.start) if training.start else None
    task = build("tasks", words or training.task)
    items = (
        dataset(data, kind=task.annotation, **options) if isinstance(data, str | Path) else told_apart(data)
    )
    items = [replace(item, split=None) for item in items]
    parts = deal([item.group for item in items], folds, training.train.seed)

    arms = _arms(training, compare)

    def cases() -> Iterator[Case]:
        for number, groups in enumerate(parts, 1):
            say(f"fold {number} of {folds}: tested on {', '.join(sorted(groups))}")
            kept = [item for item in items if item.group not in groups]
            held = [item for item in items if item.group in groups]
            for method, recipe in arms.items():
                place = out / (method.replace(" ", "-") if compare else "")
                path = Path(str(training.start))
                if recipe is not None:
                    path = finetune(kept, place / f"fold-{number}", recipe).path
                yield from tested(path, held, place, spec, method=method, say=say)

    return evaluate(cases(), task, out, title=f"{folds}-fold cross-validation")


def _arms(training: FinetuneSpec, compare: bool) -> dict[str, FinetuneSpec | None]:
    """Return the recipe of each method; ``None``: the model that training starts from, as it is."""
    if not compare:
        return {"model": training}
    if training.start is None:
        raise SpecError("--compare: the recipe starts from nothing; fine-tune with --model MODEL first")
    card = card_of(training.start)
    arms: dict[str, FinetuneSpec | None] = {
        "fine-tuned": training,
        "from scratch": training.model_copy(update={"start": None, "backbone": card["backbone"]}),
    }
    return arms | ({"pretrained": None} if "task" in card else {})


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
