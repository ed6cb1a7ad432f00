"""The objective ``restore_many``: tasks by temperature, heads that others do not move, models beside the body."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from aequorea import checks
from aequorea.backbones.unet import UNet, UNetSpec
from aequorea.engine.pieces import Recorded
from aequorea.engine.train import TrainSpec
from aequorea.errors import DataError, SpecError
from aequorea.model import load
from aequorea.objectives.restore_many import RestoreMany, RestoreManySpec
from aequorea.volume import from_array
from aequorea.workflows.pretrain import PretrainSpec, WeightedObjective, pretrain
from quick import nuclei

torch.set_num_threads(1)
ALL = ("denoise", "deblur", "super_resolve", "isotropic", "project", "light_field")


def prepared(objective: RestoreMany, seed: int) -> dict[str, np.ndarray]:
    patch = np.random.default_rng(0).random((1, 16, 40, 40), np.float32)
    return objective.prepare(patch, np.random.default_rng(seed), {"spacing": (0.5, 0.2, 0.2)})


def test_conforms() -> None:
    checks.objective("restore_many")


def test_tasks_come_as_often_as_shares_and_temperature_say() -> None:
    shares = {"denoise": 8.0, "deblur": 1.0}
    for temperature, expected in ((1.0, 8 / 9), (3.0, 2 / 3), (1000.0, 1 / 2)):
        objective = RestoreMany(RestoreManySpec(tasks=shares, temperature=temperature))
        assert objective.shares["denoise"] == pytest.approx(expected, rel=0.01)
    objective = RestoreMany(RestoreManySpec(tasks=shares, temperature=1.0))
    patch = np.random.default_rng(0).random((1, 4, 16, 16), np.float32)
    drawn = Counter(int(objective.prepare(patch, np.random.default_rng(n))["task"]) for n in range(200))
    assert 0.82 < drawn[0] / 200 < 0.95


def test_heads_of_other_tasks_are_not_touched() -> None:
    """With zeroed gradients momentum would go on moving heads that no sample used."""
    torch.manual_seed(0)
    objective = RestoreMany(RestoreManySpec(tasks={"denoise": 1.0, "deblur": 1.0}))
    body = UNet(UNetSpec(levels=2))
    batch = {k: torch.from_numpy(np.asarray(v))[None] for k, v in prepared(objective, 1).items()}
    objective(body, batch, None)
    optimizer = torch.optim.AdamW([*body.parameters(), *objective.parameters()], lr=0.1)
    for number in (0, 1, 1):  # the first task has a momentum when the second is trained
        before = {n: p.clone() for n, p in objective.named_parameters()}
        batch["task"][:] = number
        sum(objective(body, batch, None).values()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        used = list(objective.tasks)[number]
        for name, parameter in objective.named_parameters():
            assert torch.equal(parameter, before[name]) == (f".{used}." not in name), name


def test_every_task_trains_and_is_saved_as_a_model(tmp_path: Path) -> None:
    words = {"name": "restore_many", "tasks": dict.fromkeys(ALL, 1.0), "degrade": {"views": 4, "depth": 8}}
    spec = PretrainSpec(
        objectives=(WeightedObjective(objective=words),),
        backbone={"name": "unet", "levels": 2},
        train=TrainSpec(steps=3, batch=4),
        patch=(16, 32, 32),
    )
    images = [from_array(nuclei(n, (16, 48, 48))[0], (0.5, 0.2, 0.2)) for n in (1, 2, 3)]
    done = pretrain(images, tmp_path / "run", spec, say=lambda line: None)
    body = dict(load(tmp_path / "run" / "denoise.safetensors").network.backbone.named_parameters())
    means = []
    for name in ALL:
        model = load(tmp_path / "run" / f"{name}.safetensors")
        own = dict(model.network.backbone.named_parameters())
        assert all(torch.equal(own[k], body[k]) for k in body)
        means.append(model.network.backbone.embed_norm.running_mean)
        image = nuclei(4, (16, 48, 48))[0]
        restored = model.predict(image[:1] if name == "light_field" else image).layers["restored"]
        assert restored.dtype == np.uint16 and np.isfinite(restored.read()).all()
    assert not torch.allclose(means[0], means[3]), "normalisations know the images of their own task"
    assert done.path.exists()


def test_without_volumes_structures_are_simulated(tmp_path: Path) -> None:
    spec = PretrainSpec(
        objectives=(WeightedObjective(objective={"name": "restore_many"}),),
        backbone={"name": "unet", "levels": 2},
        train=TrainSpec(steps=2, batch=2),
    )
    assert pretrain([], tmp_path / "run", spec, say=lambda line: None).path.exists()


def test_unknown_tasks_are_refused_with_the_nearest() -> None:
    with pytest.raises(SpecError, match="denoise"):
        RestoreManySpec.parse({"tasks": {"denoize": 1.0}})


def recorded_folder(folder: Path, size: tuple[int, int, int], target: tuple[int, int, int]) -> Path:
    """Write two pairs whose images and targets hold one value each, far from all that is made."""
    for place in ("images", "targets"):
        (folder / place).mkdir(parents=True)
    for n in range(2):
        image, _ = nuclei(n + 1, (16, 48, 48))
        cut = image[: size[0], : size[1], : size[2]]
        tifffile.imwrite(folder / "images" / f"{n}.tif", cut, metadata={"axes": "ZYX"})
        factor = [t // s for t, s in zip(target, size)]
        fine = np.kron(cut, np.ones(factor)).astype(np.uint16)
        tifffile.imwrite(folder / "targets" / f"{n}.tif", 3 * fine + 100, metadata={"axes": "ZYX"})
    return folder


def recipe(pairs: dict[str, str], **words: object) -> PretrainSpec:
    objective = {"name": "restore_many", "tasks": dict.fromkeys(pairs, 1.0), "pairs": pairs, **words}
    return PretrainSpec(
        objectives=(WeightedObjective(objective=objective),),
        backbone={"name": "unet", "levels": 2},
        train=TrainSpec(steps=2, batch=4),
        patch=(8, 32, 32),
        held_out=0,
    )


def test_every_second_sample_is_of_recorded_pairs_where_there_are_any() -> None:
    objective = RestoreMany(RestoreManySpec(tasks={"denoise": 1.0}, pairs={"denoise": "anywhere"}))
    image = from_array(np.full((16, 48, 48), 7.0, np.float32))
    target = from_array(np.full((16, 48, 48), 5.0, np.float32))
    objective.take({"denoise": [(image, target)]}, [(8, 32, 32)])
    patch = np.random.default_rng(0).random((1, 8, 32, 32), np.float32)
    made = [objective.prepare(patch, np.random.default_rng(n)) for n in range(100)]
    recorded = [one for one in made if (one["denoise image"] == 7).all()]
    assert 35 < len(recorded) < 65
    assert all((one["denoise target"] == 5).all() for one in recorded)
    planes = objective.prepare(patch[:, :1], np.random.default_rng(0))
    assert planes["denoise image"].shape == (1, 1, 32, 32), "where no pair fits, pairs are made"


def test_pieces_of_image_and_target_are_of_one_place() -> None:
    """A super-resolved ramp: wherever it is cut and however it is mirrored, target and image say the same place."""
    fine = np.arange(64 * 64, dtype=np.float32).reshape(1, 64, 64)
    coarse = fine.reshape(1, 32, 2, 32, 2).mean((2, 4))
    one = Recorded(from_array(coarse), from_array(fine))
    for seed in range(20):
        image, target = one.piece((1, 8, 8), (1, 16, 16), np.random.default_rng(seed))
        assert np.allclose(target.reshape(1, 1, 8, 2, 8, 2).mean((3, 5)), image)


def test_recorded_pairs_are_learnt_from_by_the_whole_verb(tmp_path: Path) -> None:
    pairs = {
        "denoise": str(recorded_folder(tmp_path / "noisy", (16, 48, 48), (16, 48, 48))),
        "super_resolve": str(recorded_folder(tmp_path / "coarse", (16, 24, 24), (16, 48, 48))),
    }
    spec = recipe(pairs)
    images = [from_array(nuclei(3, (16, 48, 48))[0], (0.5, 0.2, 0.2))]
    assert pretrain(images, tmp_path / "run", spec, say=lambda line: None).path.exists()
    tifffile.imwrite(tmp_path / "noisy" / "targets" / "0.tif", np.zeros((16, 48, 48), np.uint16))
    with pytest.raises(DataError, match=r"pairs denoise .* has changed"):
        pretrain(images, tmp_path / "run", spec, say=lambda line: None)


def test_recorded_pairs_that_fit_nothing_are_refused(tmp_path: Path) -> None:
    images = [from_array(nuclei(3, (16, 48, 48))[0], (0.5, 0.2, 0.2))]
    same = recorded_folder(tmp_path / "same", (16, 48, 48), (16, 48, 48))
    with pytest.raises(DataError, match="no pair for super_resolve fits"):
        pretrain(images, tmp_path / "run", recipe({"super_resolve": str(same)}), say=lambda line: None)
    flat = recorded_folder(tmp_path / "flat", (1, 48, 48), (1, 48, 48))
    with pytest.raises(DataError, match="volumes as deep"):
        pretrain(images, tmp_path / "run", recipe({"denoise": str(flat)}), say=lambda line: None)
    with pytest.raises(SpecError, match="deblur"):
        RestoreManySpec.parse({"tasks": {"deblur": 1.0}, "pairs": {"deblurr": "x"}})
