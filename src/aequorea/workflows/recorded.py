"""Recorded pairs that an objective of pretraining learns from, beside those that it makes itself.

Its recipe names them by task: folders and CSVs as for fine-tuning (:mod:`aequorea.workflows.dataset`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from aequorea.annotations import TargetImage
from aequorea.errors import DataError
from aequorea.volume import Volume
from aequorea.workflows.dataset import Item, dataset, ranges
from aequorea.workflows.finetune import in_range, labels_digest


def named(specs: Sequence[Any]) -> list[tuple[int, str, str]]:
    """Return number of the objective, task and path of all pairs that recipes of objectives name."""
    return [(n, *one) for n, spec in enumerate(specs) for one in getattr(spec, "pairs", {}).items()]


def recorded_items(path: str) -> list[Item]:
    """Return the pairs of a dataset that are there to learn from, opened: not those marked ``val`` or ``test``.

    Raises
    ------
    DataError
        If there is none.
    """
    items = [item for item in dataset(path, kind="image") if item.split in (None, "train")]
    if not items:
        raise DataError(f"{path}: all pairs are marked val or test; mark some train")
    return items


def digest_of(items: Sequence[Item]) -> str:
    """Return a digest of images and targets."""
    prints = [f"{item.image.fingerprint} {labels_digest(item)}" for item in items]
    return hashlib.sha256(" ".join(prints).encode()).hexdigest()[:16]


def normalised_pairs(items: Sequence[Item], task: Any) -> list[tuple[Volume, Volume]]:
    """Return image and target of each, as fine-tuning is shown them."""
    known = ranges(items)
    pairs = []
    for item in items:
        item = in_range(item, known[item.name], task)
        assert isinstance(item.annotation, TargetImage)
        pairs.append((item.image, task.target(item.annotation, item.image.spacing)))
    return pairs
