"""A model scored on annotated volumes: predictions, scores, report."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from aequorea.annotations import LabelImage
from aequorea.errors import DataError
from aequorea.model import load
from aequorea.scores.volumes import object_scores
from aequorea.signal.intensity import measure
from aequorea.workflows.evaluate_model import evaluate_model
from aequorea.workflows.finetune import finetune
from aequorea.workflows.predict import PredictSpec
from quick import SPACING, item, model_file, nuclei, recipe, specimens

torch.set_num_threads(1)
FLOAT = PredictSpec(precision="float32", halo="full")


def test_scores_are_those_of_the_predictions(tmp_path: Path) -> None:
    """What is scored lies in stores beside the scores, and equals what the model gives in memory."""
    path = model_file("instances")
    items = specimens(3, 4)
    said: list[str] = []
    scores = evaluate_model(path, items, tmp_path / "ev", FLOAT, say=said.append)
    assert said == []
    assert {p.name for p in (tmp_path / "ev" / "predictions").iterdir()} == {
        "fish_3.ome.zarr",
        "fish_4.ome.zarr",
    }
    model, total = load(path), 0.0
    for one, row in zip(items, scores["images"]):
        result = model.predict(one.image, precision="float32")
        assert isinstance(one.annotation, LabelImage)
        own = object_scores(result.layers["objects"], one.annotation)
        assert row["f1_50"] == pytest.approx(own["f1_50"], abs=0.02)
        total += row["n_truth"]
    assert total == sum(len(np.unique(nuclei(seed)[1])) - 1 for seed in (3, 4))
    written = json.loads((tmp_path / "ev" / "scores.json").read_text())
    assert written["pooled"]["model"]["f1_50"]["value"] == scores["pooled"]["model"]["f1_50"]["value"] > 0.3
    rows = list(csv.DictReader((tmp_path / "ev" / "scores.csv").open()))
    assert [row["image"] for row in rows] == ["fish_3", "fish_4"]
    page = (tmp_path / "ev" / "report.html").read_text()
    assert "<script" not in page and "fish_3" in page and "data:image/png" in page


def test_an_interrupted_evaluation_predicts_nothing_twice(tmp_path: Path) -> None:
    """Run again, the stores are taken as they are and the scores are the same."""
    path, items = model_file("semantic"), specimens(3)
    first = evaluate_model(path, items, tmp_path / "ev", FLOAT, say=lambda line: None)
    said: list[str] = []
    again = evaluate_model(path, items, tmp_path / "ev", FLOAT, say=said.append)
    assert "finished before" in said[0] and again["images"] == first["images"]


def test_only_what_is_marked_test_is_scored(tmp_path: Path) -> None:
    """Where something is; images trained on are named."""
    path = model_file("semantic")
    items = [replace(one, split=split) for one, split in zip(specimens(1, 3), ("train", "test"))]
    said: list[str] = []
    scores = evaluate_model(path, items, tmp_path / "a", FLOAT, say=said.append)
    assert [row["image"] for row in scores["images"]] == ["fish_3"] and said == []
    learnt = load(path).card["training"]["items"][0]
    one = next(one for one in specimens(1, 2) if one.name == learnt)
    evaluate_model(path, [one], tmp_path / "b", FLOAT, say=said.append)
    assert said == [f"scores flatter: trained on images of the same names: {learnt}"]


def test_crops_are_seen_in_the_range_of_their_volume(tmp_path: Path) -> None:
    """A dim corner scored alone is what it is in the whole."""
    image, labels = nuclei(3)
    one = item(image[:, :24, :24], labels[:, :24, :24], "corner")
    told = replace(one, intensity=measure(item(image, labels, "whole").image))
    path = model_file("semantic")
    scores = [
        evaluate_model(path, [given], tmp_path / name, FLOAT, say=lambda line: None)["images"][0]["dice"]
        for name, given in (("alone", one), ("told", told))
    ]
    model = load(path)
    found = model.predict(told.image, intensity=told.intensity, precision="float32").layers["classes"]
    inside, true = found.read()[0] > 0, labels[:, :24, :24] > 0
    dice = 2 * (inside & true).sum() / (inside.sum() + true.sum())
    assert scores[1] == pytest.approx(dice, abs=0.01) and scores[0] != scores[1]


def test_strokes_are_scored_where_painted(tmp_path: Path) -> None:
    """Voxels that nobody looked at do not count."""
    image, labels = nuclei(3)
    strokes = np.zeros_like(labels)
    strokes[4] = 1 + (labels[4] > 0)
    scores = evaluate_model(
        model_file("semantic"),
        [item(image, strokes, "painted", unlabelled=0)],
        tmp_path / "a",
        FLOAT,
        say=lambda line: None,
    )
    assert scores["images"][0]["dice"] > 0.8


def test_a_folder_and_a_folder_without_labels(tmp_path: Path) -> None:
    """Files as they lie; where there are no labels the message says what a dataset is."""
    image, labels = nuclei(3)
    (tmp_path / "data").mkdir()
    words = {"axes": "ZYX", **{f"PhysicalSize{a}": s for a, s in zip("ZYX", SPACING)}}
    tifffile.imwrite(tmp_path / "data" / "a.ome.tif", image, metadata=words)
    with pytest.raises(DataError, match="has a label"):
        evaluate_model(model_file("semantic"), tmp_path / "data", tmp_path / "ev", FLOAT)
    tifffile.imwrite(tmp_path / "data" / "a_label.ome.tif", labels, metadata=words)
    scores = evaluate_model(
        model_file("semantic"), tmp_path / "data", tmp_path / "ev", FLOAT, say=lambda line: None
    )
    assert scores["images"][0]["dice"] > 0.8 and "hd95_um" in scores["images"][0]


def test_real_organoids(tmp_path: Path, real_data: Path) -> None:
    """Scores of a model that was trained on simulations only, in numbers that exist."""
    data = real_data / "open" / "organoid_lstree" / "budding_t30*_nuclei.tif"
    scores = evaluate_model(model_file("semantic"), data, tmp_path / "ev", say=lambda line: None)
    assert len(scores["images"]) == 2
    for row in scores["images"]:
        assert 0.2 < row["dice"] <= 1 and row["hd95_um"] > 0


def test_one_specimen_that_was_cut_in_two_is_known_again(tmp_path: Path) -> None:
    """A model of one specimen is not praised for it unawares; another model's predictions can be replaced."""
    done = finetune(specimens(1), tmp_path / "run", recipe(backbone="filters"))
    said: list[str] = []
    evaluate_model(tmp_path / "run", specimens(1), tmp_path / "ev", FLOAT, say=said.append)
    assert said == ["scores flatter: trained on images of the same names: fish_1"] and done.path.exists()
    other = model_file("semantic")
    with pytest.raises(DataError, match="--overwrite"):
        evaluate_model(other, specimens(1), tmp_path / "ev", FLOAT, say=said.append)
    scores = evaluate_model(other, specimens(1), tmp_path / "ev", FLOAT, overwrite=True, say=said.append)
    assert scores["images"][0]["image"] == "fish_1"
