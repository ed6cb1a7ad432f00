"""Cross-validation: folds of whole specimens, each image tested once by what did not see it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aequorea.errors import DataError, SpecError
from aequorea.workflows.folds import cross_validate, deal, recipe_of
from quick import model_file, recipe, specimens

torch.set_num_threads(1)


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=40), st.integers(2, 8), st.integers(0, 9))
def test_every_specimen_is_in_one_fold(groups: list[str], folds: int, seed: int) -> None:
    if len(set(groups)) < folds:
        with pytest.raises(DataError, match="--folds"):
            deal(groups, folds, seed)
        return
    parts = deal(groups, folds, seed)
    assert Counter(name for part in parts for name in part) == Counter(set(groups))
    assert all(parts) and len(parts) == folds
    sizes = [sum(groups.count(name) for name in part) for part in parts]
    assert max(sizes) - min(sizes) <= max(Counter(groups).values())


def test_one_fold_is_none() -> None:
    with pytest.raises(SpecError, match="at least 2"):
        deal(["a", "b"], 1, 0)


def test_each_image_is_tested_by_what_did_not_see_it(tmp_path: Path) -> None:
    items = specimens(1, 2, 3)
    spec = recipe("semantic", "unet", held_out=0)
    scores = cross_validate(spec, items, tmp_path / "out", 3, say=lambda line: None)
    assert sorted(row["image"] for row in scores["images"]) == sorted(item.name for item in items)
    for number in (1, 2, 3):
        seen = json.loads((tmp_path / "out" / f"fold-{number}" / "data.json").read_text())
        assert len(seen) == 2
    again = cross_validate(tmp_path / "out" / "fold-1", items, tmp_path / "out", 3, say=lambda line: None)
    assert again["images"] == scores["images"]


def test_no_recipe_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="run folder"):
        recipe_of(tmp_path)


def test_the_three_ways_are_compared(tmp_path: Path) -> None:
    items = specimens(1, 2, 3)
    start = str(model_file("semantic", "unet"))
    spec = recipe("semantic", "unet", held_out=0, start=start)
    scores = cross_validate(spec, items, tmp_path / "out", 3, compare=True, say=lambda line: None)
    assert list(scores["pooled"]) == ["fine-tuned", "from scratch", "pretrained"]
    assert all(pooled["dice"]["n"] == 3 for pooled in scores["pooled"].values())
    with pytest.raises(SpecError, match="starts from nothing"):
        cross_validate(recipe(), items, tmp_path / "other", 3, compare=True, say=lambda line: None)


def test_the_task_is_that_of_the_model_that_training_starts_from(tmp_path: Path) -> None:
    """Whatever the recipe's name for it leaves open; of another one it is refused before anything is trained."""
    start = str(model_file("semantic", "unet"))
    spec = recipe("instances", "unet", held_out=0, start=start)
    with pytest.raises(SpecError, match=r"--task instances: .* has semantic"):
        cross_validate(spec, specimens(1, 2), tmp_path / "out", 2, say=lambda line: None)
