"""The verb *evaluate*: a model on annotated volumes, scored and reported.

Every image is predicted into a store of its own under ``OUT/predictions``, so that a long evaluation can be
interrupted, and what was scored can be looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from aequorea.engine.durable import file_digest
from aequorea.model import card_of, load, model_file
from aequorea.workflows.dataset import Item, dataset, ranges, told_apart
from aequorea.workflows.evaluate import Case, evaluate
from aequorea.workflows.predict import PredictSpec, predict


def evaluate_model(
    model: str | Path,
    data: str | Path | list[Item],
    out: str | Path,
    spec: PredictSpec | None = None,
    *,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
    **options: Any,
) -> dict[str, Any]:
    """Predict and score every annotated image of a dataset.

    Parameters
    ----------
    model
        Model file.
    data
        A folder, a CSV or items; where some are marked ``test``, only those.
    out
        Folder for scores, report and predictions.
    spec
        Recipe of the predictions.
    overwrite
        Replace predictions of another model, or with another recipe, that ``out`` holds.
    say
        Receives lines for the user.
    **options
        Passed on to :func:`aequorea.workflows.dataset.dataset`.

    Returns
    -------
    dict
        What ``scores.json`` holds.
    """
    model, out = model_file(model), Path(out)
    loaded = load(model)
    items = (
        told_apart(data) if isinstance(data, list) else dataset(data, kind=loaded.task.annotation, **options)
    )
    marked = [item for item in items if item.split == "test"]
    training = loaded.card.get("training", {})
    learnt = {*training.get("items", []), *training.get("held_out", [])}
    seen = [item.name for item in marked or items if item.name in learnt]
    if seen:
        say(f"scores flatter: trained on images of the same names: {', '.join(seen)}")

    return evaluate(
        tested(model, marked or items, out, spec, overwrite=overwrite, say=say),
        loaded.task,
        out,
        card=loaded.card,
        digests={model.name: file_digest(model)},
        title=f"Evaluation of {model.name}",
    )


def tested(
    model: str | Path,
    items: Sequence[Item],
    out: Path,
    spec: PredictSpec | None = None,
    *,
    method: str = "model",
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> Iterator[Case]:
    """Yield items with what a model predicts, each into a store of its own under ``out/predictions``.

    Parameters
    ----------
    model, spec, overwrite, say
        As for :func:`evaluate_model`.
    items
        Annotated images. A part of a volume is normalised as the whole would be, for published networks as they were
        published; the whole is measured once.
    out
        Folder.
    method
        What the result is called beside others.
    """
    published = card_of(model).get("normalisation")
    whole = ranges([item for item in items if item.source is not None], published)
    for item in items:
        store = out / "predictions" / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', item.name)}.ome.zarr"
        known = whole.get(item.name, None if published else item.intensity)
        done = predict(model, item.image, store, spec, intensity=known, overwrite=overwrite, say=say)
        yield Case(item.name, item.image, item.annotation, done.result, method)
