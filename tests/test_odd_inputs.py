"""Odd images through trained models: in memory and into a store, for every backbone and task."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aequorea import registry
from aequorea.checks.models import odd_images, untrained
from aequorea.errors import AequoreaError
from aequorea.model import load
from aequorea.volume import from_array
from aequorea.workflows.finetune import finetune
from aequorea.workflows.predict import PredictSpec, predict
from quick import SPACING, item, model_file, nuclei, recipe

torch.set_num_threads(1)

PAIRS = list(product(registry.BUILTIN["tasks"], registry.BUILTIN["backbones"]))


def image() -> np.ndarray:
    return nuclei(6, (8, 40, 44))[0]


def with_holes() -> np.ndarray:
    out = image().astype(np.float32)
    out[2:4, 5:20, 7:30] = np.nan
    out[6, 1, 1], out[7, 2, 2] = np.inf, -np.inf
    return out


ODD: dict[str, Any] = {
    "holes": with_holes,
    "only NaN": lambda: np.full_like(with_holes(), np.nan),
    "constant": lambda: np.full_like(image(), 7),
    "zero": lambda: np.zeros_like(image()),
    "negative": lambda: -image().astype(np.int32),
    "float64": lambda: image().astype(np.float64) * 1e-200,
    "big-endian": lambda: image().astype(">u2"),
    "bool": lambda: image() > np.median(image()),
    "int64": lambda: image().astype(np.int64) << 40,
    "one plane": lambda: image()[3:4],
    "a plane": lambda: image()[3],
    "a column": lambda: image()[:, :1, :1],
    "one voxel": lambda: image()[:1, :1, :1],
}


@pytest.mark.parametrize(("task", "backbone"), PAIRS)
def test_random_weights(task: str, backbone: str) -> None:
    """Every task on every backbone, with weights that give anything."""
    words = {"name": task, "classes": 2} if task == "semantic" else {"name": task}
    odd_images(untrained(registry.build("tasks", words), {"name": backbone}, SPACING))


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize(("task", "backbone"), [("semantic", "filters"), ("instances", "unet")])
def test_a_store_holds_what_memory_gives(task: str, backbone: str, name: str, tmp_path: Path) -> None:
    """Tiled into a store or at once in memory: the same, and no wrong number anywhere."""
    model = load(model_file(task, backbone))
    odd = ODD[name]()
    spacing = SPACING
    stored = predict(
        model,
        from_array(odd, spacing),
        tmp_path / "out.ome.zarr",
        PredictSpec(halo="full", precision="float32", tile=20_000),
        say=lambda line: None,
    )
    whole = model.predict(odd, spacing, precision="float32")
    for key, layer in whole.layers.items():
        expected, found = layer.read(), stored.result.layers[key].read()
        assert expected.shape == found.shape
        if name not in ("only NaN", "constant", "zero", "one voxel"):  # there tiles are skipped as background
            # 8 bits are rounded, so a voxel in a thousand may fall on the other side of the threshold
            assert np.mean((expected > 0) != (found > 0)) <= 1e-3
    for table in stored.result.tables.values():
        assert len({len(column) for column in table.values()}) == 1
    assert np.isfinite(stored.result.layers["dense"].read().astype(float)).all()


@pytest.mark.parametrize(
    "odd", [np.zeros((0, 8, 8)), np.zeros((4, 8, 8), np.complex128), np.array(["a"]), np.zeros(5)]
)
def test_what_is_no_image_is_refused(odd: np.ndarray) -> None:
    with pytest.raises(AequoreaError, match=r"^[^\n]+$"):
        load(model_file()).predict(odd, SPACING)


@pytest.mark.parametrize("name", ["holes", "negative", "big-endian", "bool", "one plane"])
def test_training_on_odd_images(name: str, tmp_path: Path) -> None:
    """Training bears them too, and gives a model that predicts."""
    odd = ODD[name]()
    labels = nuclei(6, (8, 40, 44))[1]
    labels = labels[3:4] if name == "one plane" else labels
    done = finetune([item(odd, labels, "odd")], tmp_path / "run", recipe(backbone="unet"))
    assert all(torch.isfinite(t).all() for t in done.model.network.state_dict().values())
    assert set(np.unique(done.model.predict(odd, SPACING).layers["classes"].read())) <= {0, 1}


def test_training_on_nothing_to_see_is_no_crash(tmp_path: Path) -> None:
    """A constant image teaches nothing, but the run ends with a model and finite weights."""
    odd = np.full((8, 40, 44), 7, np.uint16)
    done = finetune([item(odd, nuclei(6, (8, 40, 44))[1], "odd")], tmp_path / "run", recipe(backbone="unet"))
    assert all(torch.isfinite(t).all() for t in done.model.network.state_dict().values())
