import csv
import json

import numpy as np
import pytest
import tifffile

from aequorea.annotations import ItemClass, LabelImage
from aequorea.errors import DataError
from aequorea.results import Result
from aequorea.scores import volumes
from aequorea.signal.classical import otsu_watershed
from aequorea.volume import from_array
from aequorea.workflows import evaluate as workflow
from aequorea.workflows.evaluate import Case, compare, draw_report, evaluate, write_evaluation

SPACING = (2.0, 0.5, 0.5)


class Objects:
    """As much of a task as evaluation asks for."""

    better = "f1_50"

    def score(self, result, truth, spacing):
        return volumes.object_scores(result.layers["objects"], truth)


class Classes:
    better = "dice"

    def target(self, annotation, spacing):
        return annotation.volume

    def score(self, result, truth, spacing):
        return volumes.class_scores(result.layers["classes"], truth, {1: "axon", 2: "soma"})


class Grades:
    better = "right"

    def score(self, result, truth, spacing):
        return {"right": float(result.tables["grade"] == truth.name)}


def _balls(rng, shape=(8, 40, 40), n=5):
    z, y, x = np.indices(shape)
    labels = np.zeros(shape, np.uint16)
    for i in range(n):
        c = rng.uniform(0.2, 0.8, 3) * shape
        labels[((z - c[0]) * 4) ** 2 + (y - c[1]) ** 2 + (x - c[2]) ** 2 < 49] = i + 1
    return labels


def _object_cases(rng, n=3, methods=("network",)):
    for i in range(n):
        labels = _balls(rng)
        image = labels * 100.0 + rng.normal(0, 20, labels.shape)
        for shift, method in enumerate(methods):
            found = np.roll(labels, 1 + 2 * shift, axis=2).astype(np.uint32)
            result = Result({"objects": from_array(found, SPACING)})
            yield Case(
                f"ball {i}",
                from_array(image, SPACING),
                LabelImage(from_array(labels, SPACING)),
                result,
                method,
            )


def test_everything_is_written(tmp_path, rng):
    data = evaluate(_object_cases(rng), Objects(), tmp_path / "out", digests={"model": "abc"}, title="Balls")
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == data
    with (tmp_path / "out" / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["ball 0", "ball 1", "ball 2"]
    assert float(rows[1]["f1_50"]) == pytest.approx(data["images"][1]["f1_50"], rel=1e-5)
    pooled = data["pooled"]["network"]["f1_50"]
    tp = sum(row["tp_50"] for row in data["images"])
    objects = sum(row["n_truth"] + row["n_pred"] for row in data["images"])
    assert pooled["value"] == pytest.approx(2 * tp / objects)
    assert pooled["low"] <= pooled["value"] <= pooled["high"]
    assert dict(data["images"][0]["matches"])[0.5] == data["images"][0]["tp_50"]
    html = (tmp_path / "out" / "report.html").read_text()
    for word in ("Balls", "ball 0", "F1 at IoU 0.5", "With 3 images", "model abc", "<svg"):
        assert word in html
    assert html.count("data:image/png") == 3 * 4 == len(list((tmp_path / "out" / "pictures").glob("*.png")))


def test_methods_are_compared_in_pairs(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(workflow, "MOST_PICTURED", 1)
    data = evaluate(_object_cases(rng, methods=("network", "threshold")), Objects(), tmp_path)
    assert list(data["pooled"]) == ["network", "threshold"]
    gain = data["differences"]["threshold"]["f1_50"]
    rows = data["images"]
    expected = np.mean([a["f1_50"] - b["f1_50"] for a, b in zip(rows[::2], rows[1::2])])
    assert gain["value"] == pytest.approx(expected)
    html = (tmp_path / "report.html").read_text()
    assert "Compared" in html and "network minus threshold" in html


def test_the_report_can_be_redrawn(tmp_path, rng):
    evaluate(_object_cases(rng, n=1), Objects(), tmp_path)
    before = (tmp_path / "report.html").read_bytes()
    (tmp_path / "report.html").unlink()
    draw_report(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before
    with pytest.raises(DataError, match=r"no scores\.json"):
        draw_report(tmp_path / "pictures")


def test_scores_are_on_disk_before_anything_is_drawn(tmp_path):
    def drawn():
        assert (tmp_path / "scores.json").exists() and (tmp_path / "scores.csv").exists()
        raise RuntimeError("killed while drawing")
        yield

    with pytest.raises(RuntimeError, match="killed"):
        write_evaluation(tmp_path, [{"image": "a", "method": "m", "dice": 0.5}], drawn(), {})
    assert "a" in draw_report(tmp_path).read_text()


def test_the_worst_and_the_best_are_pictured(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(workflow, "MOST_PICTURED", 2)
    data = evaluate(_object_cases(rng, n=6), Objects(), tmp_path)
    listed = json.loads((tmp_path / "pictures" / "pictures.json").read_text())
    assert len(listed) == 2
    order = sorted(data["images"], key=lambda row: row["f1_50"])
    assert listed[0]["heading"].startswith(order[0]["image"])
    assert f"{order[-1]['f1_50']:.3f}" in listed[-1]["heading"]


def test_classes(tmp_path, rng):
    truth = rng.integers(0, 3, (6, 20, 20)).astype(np.uint8)
    pred = np.where(rng.random(truth.shape) < 0.8, truth, 1).astype(np.uint8)
    case = Case(
        "two classes",
        from_array(rng.random((2, *truth.shape)), SPACING),
        LabelImage(from_array(truth, SPACING)),
        Result({"classes": from_array(pred, SPACING)}),
    )
    data = evaluate([case], Classes(), tmp_path)
    pooled = data["pooled"]["model"]
    assert pooled["dice"]["low"] is None
    assert pooled["dice"]["value"] == pytest.approx(
        (pooled["dice.axon"]["value"] + pooled["dice.soma"]["value"]) / 2
    )
    html = (tmp_path / "report.html").read_text()
    assert "Classes, all images pooled" in html and "soma" in html and "wrong class" in html
    assert "there is no interval" in html


def test_tasks_without_labels_are_scored_without_pictures(tmp_path):
    cases = [
        Case(name, from_array(np.zeros((4, 4))), ItemClass("good"), Result({}, {"grade": grade}))
        for name, grade in (("a", "good"), ("b", "bad"))
    ]
    data = evaluate(cases, Grades(), tmp_path)
    assert data["pooled"]["model"]["right"]["value"] == 0.5
    assert "data:image" not in (tmp_path / "report.html").read_text()
    assert "matches" not in compare(cases[0].result, cases[0].truth, Grades())


def test_nothing_to_evaluate(tmp_path):
    with pytest.raises(DataError, match="nothing to evaluate"):
        evaluate([], Objects(), tmp_path)


def test_otsu_on_a_real_organoid_reaches_its_known_score(tmp_path, real_data):
    folder = real_data / "open" / "organoid_lstree"
    image = tifffile.imread(folder / "budding_t301_nuclei.tif")
    labels = tifffile.imread(folder / "budding_t301_nuclei_label.tif")
    spacing = (2.0, 0.26, 0.26)
    found = otsu_watershed(image, spacing).astype(np.uint32)
    case = Case(
        "budding_t301",
        from_array(image, spacing),
        LabelImage(from_array(labels, spacing)),
        Result({"objects": from_array(found, spacing)}),
        "Otsu + watershed",
    )
    data = evaluate([case], Objects(), tmp_path)
    assert data["pooled"]["Otsu + watershed"]["f1_50"]["value"] == pytest.approx(0.87, abs=0.06)
