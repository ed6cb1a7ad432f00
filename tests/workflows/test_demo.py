"""The demo from beginning to end, made small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tifffile
import torch

from aequorea.errors import DataError
from aequorea.workflows import demo as workflow
from aequorea.workflows.demo import demo
from quick import SPACING, call, nuclei

torch.set_num_threads(1)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the demo's specimens small."""
    monkeypatch.setattr(workflow, "CROP", (10, 48, 48))
    monkeypatch.setattr(workflow, "UNSEEN", (12, 56, 56))
    monkeypatch.setattr(workflow, "PRETRAIN", workflow.PRETRAIN.model_copy(update={"steps": 2}))


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str], small: None) -> None:
    """The table names both methods, and everything it says is there lies there; again it does nothing anew."""
    out = tmp_path / "demo"
    for _ in range(2):
        assert not call("demo", "--out", str(out), "--steps", "2")
    printed = capsys.readouterr().out
    assert "finished before, nothing to do" in printed
    assert printed.count("Hidden-voxel R²") == printed.count("Dice from 1,000 painted voxels") == 2
    table = printed[printed.rindex("method") :]
    rows = [line.rsplit(maxsplit=6) for line in table.splitlines()[1:3]]
    assert [row[0] for row in rows] == ["model", "Otsu + watershed"]
    pooled = json.loads((out / "scores.json").read_text())["pooled"]
    assert [float(row[1]) for row in rows] == [
        pytest.approx(pooled[row[0]]["f1_50"]["value"], abs=6e-4) for row in rows
    ]
    for name in (
        "report.html",
        "objects.csv",
        "unseen.ome.zarr/labels/objects/0",
        "run/model.safetensors",
        "pretrained/report.html",
    ):
        assert (out / name).exists(), name
    assert (out / "objects.csv").read_text() == (
        out / "unseen.ome.zarr" / "tables" / "objects.csv"
    ).read_text()


def test_demo_on_volumes_of_ones_own(tmp_path: Path, small: None) -> None:
    """The first volume of a series is trained on, the others are scored; one alone is too few."""
    words = {"axes": "ZYX", **{f"PhysicalSize{a}": s for a, s in zip("ZYX", SPACING)}}
    data = tmp_path / "data"
    data.mkdir()
    for seed in (1, 2):
        image, labels = nuclei(seed, (12, 96, 96))
        tifffile.imwrite(data / f"fish_{seed}.ome.tif", image, metadata=words)
        tifffile.imwrite(data / f"fish_{seed}_label.ome.tif", labels, metadata=words)
        if seed == 1:
            with pytest.raises(DataError, match="two labelled volumes"):
                demo(tmp_path / "alone", data, steps=1, say=lambda line: None)
    done = demo(tmp_path / "out", data, steps=2, say=lambda line: None)
    assert [method for method, _ in done.rows] == ["model", "Otsu + watershed"]
    assert (tmp_path / "out" / "fish_2.ome.zarr").exists()
    assert not (tmp_path / "out" / "fish_1.ome.zarr").exists()
