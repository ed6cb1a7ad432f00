"""Evaluating a restoration: scores in the target's units, and pictures of what is left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from aequorea.annotations import TargetImage
from aequorea.registry import build
from aequorea.results import Result
from aequorea.volume import from_array
from aequorea.workflows.evaluate import Case, evaluate

torch.set_num_threads(1)


def test_scores_and_pictures_of_restorations(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((12, 48, 40)).astype(np.float32) * 300 + 50
    cases = []
    for name, image, target in (
        ("same grid", truth, truth),
        ("finer", truth[:, ::2, ::2], truth),
        ("between", truth[::4], truth),
        ("projected", truth, truth.max(0, keepdims=True)),
        ("a plane", truth[3:4], truth[3:4]),
    ):
        found = 2 * target + 7 + rng.standard_normal(target.shape).astype(np.float32)
        result = Result({"restored": from_array(found)})
        cases.append(Case(name, from_array(image), TargetImage(from_array(target)), result))
    scores = evaluate(cases, build("tasks", {"name": "denoise"}), tmp_path / "out")
    for row in scores["images"]:  # another gain and offset of the result costs nothing
        assert row["psnr"] > 45 and row["nrmse"] < 0.01 and abs(row["gain"] - 0.5) < 0.01, row
    page = (tmp_path / "out" / "report.html").read_text()
    assert "fitted to the truth" in page
    assert "PSNR" in page and "SSIM" in page and page.count("data:image/png") >= 5


def test_the_score_is_that_of_the_whole_volume_with_one_range() -> None:
    """Neither chosen planes nor a stretch of each image by itself: a shifted contrast in one plane costs."""
    rng = np.random.default_rng(1)
    truth = rng.random((6, 32, 32)).astype(np.float32)
    found = truth.copy()
    found[2] = 0.3 * found[2] + 0.5
    task = build("tasks", {"name": "denoise"})
    score = task.score(Result({"restored": from_array(found)}), TargetImage(from_array(truth)), None)
    assert score["psnr"] < 30 and score["voxels"] == truth.size
