"""A package of somebody else goes through every verb, and no line of the engine knows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import ndimage

from aequorea import checks, registry
from aequorea.annotations import Annotation, ItemClass, Points, TargetImage
from aequorea.engine.train import TrainSpec
from aequorea.errors import DataError, ModelError, SpecError
from aequorea.model import card_of, load
from aequorea.volume import Volume, from_array
from aequorea.workflows.dataset import Item
from aequorea.workflows.evaluate_model import evaluate_model
from aequorea.workflows.finetune import Finetuned, FinetuneSpec, finetune
from aequorea.workflows.predict import PredictSpec, predict
from aequorea.workflows.pretrain import PretrainSpec, pretrain
from aequorea.workflows.splits import split_groups

TASKS = ("twice", "flatten", "lenslet", "centres", "brightness")
BODIES: dict[str, dict[str, Any]] = {"plain": {"name": "plain"}, "unet": {"name": "unet", "levels": 2}}
SPACING = (1.0, 0.5, 0.5)
pytestmark = pytest.mark.usefixtures("dummies")


def smooth(rng: np.random.Generator, size: tuple[int, int, int]) -> np.ndarray:
    field = ndimage.gaussian_filter(rng.standard_normal(size), [min(n / 8, 2) for n in size])
    ranks = field.ravel().argsort().argsort().reshape(size)  # as many dark as bright ones in every specimen
    return (0.2 + ranks / field.size).astype(np.float32)


def specimen(task: str, seed: int, side: int = 24) -> tuple[Volume, Annotation]:
    """An image of a task and what is known of it; ``side`` voxels of the body's grid along y and x."""
    rng = np.random.default_rng(seed)
    if task == "twice":
        fine = smooth(rng, (8, 2 * side, 2 * side))
        coarse = fine.reshape(8, side, 2, side, 2).mean((2, 4))
        return from_array(coarse, SPACING), TargetImage(from_array(fine, (1.0, 0.25, 0.25)))
    if task == "flatten":
        stack = smooth(rng, (6, side, side))
        flat = (stack.mean(0) + stack.max(0))[None] / 2
        return from_array(stack, SPACING), TargetImage(from_array(flat, SPACING))
    if task == "lenslet":
        volume = smooth(rng, (3, side, side))
        views = np.kron(volume.mean(0), np.ones((4, 4), np.float32))[None]
        return from_array(views, SPACING), TargetImage(from_array(volume, (1.0, 2.0, 2.0)))
    if task == "centres":
        size = (8, side, side)
        zyx = rng.uniform(2, np.array(size) - 2, (max(3, side * side // 100), 3))
        image = np.zeros(size)
        image[tuple(zyx.astype(int).T)] = 1
        image = ndimage.gaussian_filter(image, 1.5) + 1e-3 * rng.random(size)
        return from_array(image.astype(np.float32), SPACING), Points(zyx, size, SPACING)
    name = ("few", "many")[seed % 2]
    spots = rng.random((6, side, side)) < (0.002 if name == "few" else 0.5)
    return from_array((spots + 0.1 * rng.random(spots.shape)).astype(np.float32), SPACING), ItemClass(name)


def items(task: str, count: int = 4) -> list[Item]:
    return [Item(f"{task}{n}", *specimen(task, n), group=f"g{n}") for n in range(count)]


def quick(steps: int = 8) -> TrainSpec:
    return TrainSpec(steps=steps, batch=2, evaluate_every=steps, checkpoint_every=steps, precision="float32")


@pytest.fixture(scope="module", params=[(t, b) for t in TASKS for b in BODIES], ids="-".join)
def run(
    dummies: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Finetuned]:
    """Every task on a foreign backbone and on one of ours, trained a little."""
    task, body = request.param
    depth = 1 if task in ("flatten", "lenslet") else 6 if task == "brightness" else 8
    spec = FinetuneSpec(task={"name": task}, backbone=BODIES[body], train=quick(), patch=(depth, 16, 16))
    return task, finetune(items(task), tmp_path_factory.mktemp(f"{task}_{body}") / "run", spec)


def test_finetune_scores_what_was_held_out(run: tuple[str, Finetuned]) -> None:
    task, done = run
    assert len(done.scores) == 1 and all(np.isfinite(v) for v in done.scores.values())
    card = card_of(done.path)
    assert card["task"]["name"] == task and card["training"]["held_out"]
    assert load(done.path).card == card


def test_tiles_equal_the_whole(run: tuple[str, Finetuned], tmp_path: Path) -> None:
    task, done = run
    image, _ = specimen(task, 7, side=72)
    spec = PredictSpec(halo="full", tile=(6 if task == "flatten" else 16) * 48 * 48, precision="float32")
    tiled = predict(done.path, image, tmp_path / "out.ome.zarr", spec, say=lambda line: None)
    model = load(done.path)
    whole = model.predict(image, precision="float32")
    assert tiled.timing is not None
    assert tiled.timing.tiles == 1 if task == "brightness" else tiled.timing.tiles > 1
    assert set(tiled.result.tables) == set(whole.tables)
    for name, layer in whole.layers.items():
        expected, found = layer.read(), tiled.result.layers[name].read()
        assert np.ptp(expected) > 0
        assert np.abs(expected - found).max() <= 1e-4 * np.ptp(expected)
        assert tiled.result.layers[name].spacing == layer.spacing
    for name, table in whole.tables.items():
        for column, values in table.items():
            assert np.array_equal(values, tiled.result.tables[name][column])
    again = predict(done.path, image, tmp_path / "out.ome.zarr", spec, say=lambda line: None)
    assert again.timing is None


def test_a_region_is_a_part_of_the_whole(run: tuple[str, Finetuned], tmp_path: Path) -> None:
    task, done = run
    image, _ = specimen(task, 9, side=72)
    n = 4 if task == "lenslet" else 1
    spec = PredictSpec(region=f":,{8 * n}:{50 * n},{3 * n}:{40 * n}", halo="full", precision="float32")
    if task == "brightness":
        with pytest.raises(DataError, match="--region"):
            predict(done.path, image, tmp_path / "out.ome.zarr", spec)
        assert not (tmp_path / "out.ome.zarr").exists()
        return
    part = predict(done.path, image, tmp_path / "out.ome.zarr", spec, say=lambda line: None)
    whole = load(done.path).predict(image, precision="float32")
    f = 2 if task == "twice" else 1
    for name, layer in whole.layers.items():
        expected = layer.read()[:, :, 8 * f : 50 * f, 3 * f : 40 * f]
        found = part.result.layers[name].read()
        assert np.abs(expected - found).max() <= 1e-4 * np.ptp(expected)


def test_evaluate_writes_scores_and_a_report(run: tuple[str, Finetuned], tmp_path: Path) -> None:
    task, done = run
    scores = evaluate_model(done.path, items(task, 2), tmp_path, say=lambda line: None)
    better = done.model.task.better
    assert np.isfinite(scores["pooled"]["model"][better]["value"])
    assert json.loads((tmp_path / "scores.json").read_text()) == scores
    assert (tmp_path / "report.html").stat().st_size > 1000


def test_a_task_learns(tmp_path: Path) -> None:
    """Not only runs: twice as fine is nearer the truth than before the first step."""
    spec = FinetuneSpec(
        task={"name": "twice"},
        backbone=BODIES["plain"],
        train=quick(200).model_copy(update={"learning_rate": 1e-2}),
        patch=(8, 16, 16),
        held_out=0.3,
    )
    done = finetune(items("twice"), tmp_path / "run", spec)
    history = done.model.card["training"]
    assert history["best"] > 0.6 > history["first"]


def test_one_specimen_is_cut_where_its_annotation_can_be(tmp_path: Path) -> None:
    """A projection is not cut along z, a light field only between lenslets, a class not at all."""
    for task, share in (("flatten", 1), ("lenslet", 1 / 4), ("twice", 2)):
        (kept,), (held,), _ = split_groups(items(task, 1))
        for part in (kept, held):
            assert part.image.size[0] == items(task, 1)[0].image.size[0]
            assert part.annotation.volume.size[2] == share * part.image.size[2]  # type: ignore[attr-defined]
    kept, held, line = split_groups(items("brightness", 1))
    assert len(kept) == 1 and not held and "nothing is held out" in line


def test_pretrained_bodies_are_taken_up(tmp_path: Path) -> None:
    volumes = [specimen("twice", n)[0] for n in range(2)]
    spec = PretrainSpec.parse(
        {
            "objectives": [{"objective": {"name": "autoencode"}, "weight": 0.5}],
            "backbone": BODIES["unet"],
            "train": quick(30).plain(),
            "patch": [8, 16, 16],
        }
    )
    done = pretrain(volumes, tmp_path / "pre", spec)
    rows = (tmp_path / "pre" / "metrics.csv").read_text().splitlines()
    first, last = (float(rows[n].split(",")[1]) for n in (2, -1))
    assert last < first
    written = done.path.stat().st_mtime_ns
    assert pretrain(volumes, tmp_path / "pre", spec).card == card_of(done.path)
    assert done.path.stat().st_mtime_ns == written
    with pytest.raises(SpecError, match="objectives differ"):
        pretrain(volumes, tmp_path / "pre", spec.model_copy(update={"objectives": ()}))
    with pytest.raises(ModelError, match="without a task"):
        load(done.path)
    start = FinetuneSpec(
        task={"name": "centres"}, start=str(done.path), train=quick(1), adapter={"name": "linear"}
    )
    tuned = finetune(items("centres"), tmp_path / "run", start)
    assert tuned.model.card["backbone"] == card_of(done.path)["backbone"]
    fresh = load(tuned.path).network.backbone.state_dict()
    for name, tensor in load_file(done.path).items():
        if "num_batches" not in name and "running" not in name:
            assert torch.equal(fresh[name.removeprefix("backbone.")], tensor)


@pytest.mark.parametrize("name", TASKS)
def test_the_kit_passes_the_tasks(name: str) -> None:
    checks.task(name)


def test_the_kit_passes_the_others() -> None:
    checks.backbone("plain")
    checks.backbone("plain", channels=1, width=3)
    checks.objective("autoencode")
    checks.adapter("linear", {"name": "plain"})
    checks.adapter("lora", {"name": "plain"}, rank=2)


def test_the_engine_does_not_know_them() -> None:
    """No name of the package stands in the source of engine or verbs."""
    source = Path(registry.__file__).parent
    words = ("aequorea_dummies", *(f'"{name}"' for name in (*TASKS, "plain", "autoencode")))
    for path in (*source.glob("engine/*.py"), *source.glob("workflows/*.py")):
        assert not any(word in path.read_text(encoding="utf-8") for word in words), path
