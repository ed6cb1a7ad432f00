"""Pretraining: from files to a body that fine-tuning starts from, resumable, judged on other specimens."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from aequorea.cli import _app
from aequorea.engine import checkpoint
from aequorea.engine.train import LOADERS, TrainSpec
from aequorea.errors import DataError
from aequorea.signal.specimens import touching_nuclei
from aequorea.volume import from_array
from aequorea.workflows import pretrain as module
from aequorea.workflows.pretrain import PretrainSpec, pretrain
from aequorea.workflows.unlabelled import find_volumes
from crowd import crowd
from quick import nuclei


def volumes(n: int, size: tuple[int, int, int] = (16, 48, 48)) -> list:
    return [
        from_array(touching_nuclei(size, (2.0, 0.5, 0.5), seed).image, (2.0, 0.5, 0.5)) for seed in range(n)
    ]


def spec(**words: object) -> PretrainSpec:
    train = TrainSpec(steps=4, batch=2, checkpoint_every=1, precision="float32")
    return PretrainSpec.parse({"train": train.plain(), "patch": (8, 32, 32), **words})


@pytest.mark.parametrize("name", ["hiera", "unet"])
def test_resumed_equals_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    data, recipe = volumes(3), spec(backbone={"name": name}, held_out=0.34)
    whole = pretrain(data, tmp_path / "a", recipe, say=lambda line: None)

    def stopped(*words: object, after_step: object = None, **rest: object) -> object:
        def stop(step: int) -> None:
            if step == 3:
                raise StopIteration("as a kill would")

        return train(*words, after_step=stop, **rest)

    train = module.train
    monkeypatch.setattr(module, "train", stopped)
    with pytest.raises(StopIteration):
        pretrain(data, tmp_path / "b", recipe, say=lambda line: None)
    monkeypatch.setattr(module, "train", train)
    again = pretrain(data, tmp_path / "b", recipe, say=lambda line: None)
    one, two = load_file(whole.path), load_file(again.path)
    assert one.keys() == two.keys()
    for key, tensor in one.items():
        assert torch.equal(tensor, two[key]), key
    assert whole.card["held_out"] == again.card["held_out"]
    assert len(whole.card["held_out"]) == 1
    assert not list((tmp_path / "b").glob("checkpoints/*"))


@pytest.mark.parametrize("objective", ["mae", "restore_many"])
def test_several_loaders_give_the_bits_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    words = {"backbone": {"name": "unet", "levels": 2}, "objectives": [{"objective": {"name": objective}}]}
    recipe = spec(**words, held_out=0)
    one = pretrain(volumes(3), tmp_path / "a", recipe, say=lambda line: None)
    monkeypatch.setitem(LOADERS, "cpu", 4)
    four = pretrain(volumes(3), tmp_path / "b", recipe, say=lambda line: None)
    found, other = load_file(one.path), load_file(four.path)
    assert all(torch.equal(found[name], other[name]) for name in found)


def test_planes_volumes_and_channels_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = [
        *volumes(1),
        from_array(rng.random((1, 64, 64)), (1.0, 0.5, 0.5)),
        from_array(rng.random((2, 16, 40, 40)), (0.5, 0.5, 0.5)),
        from_array(rng.random((3, 9, 9))),
    ]
    done = pretrain(data, tmp_path / "run", spec(held_out=0.0), say=lambda line: None)
    assert done.card["held_out"] == []
    told: list[str] = []
    done = pretrain(data[:1], tmp_path / "two", spec(), held=data[1:], say=told.append)
    assert len(done.card["held_out"]) == 3
    assert "R²" in told[0] and told[-1].startswith("mean")
    (row,) = done.card["strokes"]
    assert row["filters"] > 0.6 and 0 <= row["pretrained"] <= 1 and 0 <= row["random"] <= 1


def test_a_stale_survey_is_not_used(tmp_path: Path) -> None:
    """What was found out of other volumes, by a run that never began, is found anew."""
    run = tmp_path / "run"
    pretrain(volumes(2), run, spec(held_out=0.0), say=lambda line: None)
    before = (run / "found-0.jsonl").read_text().count("survey")
    (run / "body.safetensors").unlink()
    (run / "spec.yaml").unlink()
    pretrain(volumes(2, (24, 48, 48)), run, spec(held_out=0.0), say=lambda line: None)
    assert (run / "found-0.jsonl").read_text().count("survey") == 2 * before


def test_images_are_found(tmp_path: Path) -> None:
    for name in (
        "a/x.tif",
        "a/x_label.tif",
        "a/.hidden.tif",
        "b/images/1.tif",
        "b/labels/1.tif",
        "b/notes.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, np.zeros((4, 8, 8), np.uint8), photometric="minisblack")
    found = find_volumes([tmp_path])
    assert [path.relative_to(tmp_path).as_posix() for path, _ in found] == ["a/x.tif", "b/images/1.tif"]
    assert len({group for _, group in found}) == 2
    assert find_volumes([tmp_path / "a" / "x.tif"])[0][1].endswith("x.tif")
    with pytest.raises(DataError, match="does not exist"):
        find_volumes([tmp_path / "none"])
    with pytest.raises(DataError, match="no images"):
        find_volumes([_empty(tmp_path)])


def _empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = {"axes": "ZYX", "spacing": 2.0, "unit": "um"}
    for n, volume in enumerate(volumes(2)):
        tifffile.imwrite(f"fish_{n}.tif", volume.read()[0], imagej=True, resolution=(2, 2), metadata=words)
    run = [
        "pretrain",
        "fish_0.tif",
        "--held",
        "fish_1.tif",
        "--steps",
        "2",
        "--batch",
        "2",
        "--patch",
        "8,32,32",
    ]
    result = CliRunner().invoke(_app(), [*run, "--set", "objective.unit=16"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "Gaussian fill" in result.output and "fish_1.tif" in result.output
    assert "simulated nuclei" in result.output
    html = Path("pretrained/report.html").read_text()
    assert html.count("data:image/png") == 4 and "<polyline" in html and "<script" not in html
    assert "finetune LABELLED --model pretrained/body.safetensors" in result.output
    with pytest.raises(Exception, match="no recipe is called"):
        CliRunner().invoke(_app(), [*run, "--set", "body.size=small"], catch_exceptions=False)


def test_any_number_of_processes_gives_the_losses_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under torchrun with Gloo, each process reading its own blocks; also where one process began and two went on."""
    for n, volume in enumerate(volumes(2)):
        tifffile.imwrite(tmp_path / f"fish_{n}.tif", volume.read()[0], metadata={"axes": "ZYX"})
    (tmp_path / "painted").mkdir()
    for name, array in zip(("small", "small_label"), nuclei(5, (8, 64, 64))):
        np.save(tmp_path / "painted" / f"{name}.npy", array)

    def words(run: str) -> list[str]:
        # Small steps: AdamW makes large ones of gradients that are rounding and no more, and those differ.
        more = "--steps 3 --batch 4 --patch 8,32,32 --learning-rate 0.0001"
        fields = "--set train.precision=float32 --set train.checkpoint_every=1"
        probe = f"--probe {tmp_path / 'painted'}"
        images = f"{tmp_path / 'fish_0.tif'} {tmp_path / 'fish_1.tif'}"
        return f"pretrain {images} -o {tmp_path / run} {more} {fields} {probe}".split()

    def losses(run: str, world: int) -> list[float]:
        if world == 1:
            CliRunner().invoke(_app(), words(run), catch_exceptions=False)
        else:
            crowd(world, "-m", "aequorea", *words(run), env={})
        with (tmp_path / run / "metrics.csv").open() as file:
            return [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]

    real = checkpoint.write

    def write(folder: Path, step: int, *more: Any) -> None:
        real(folder, step, *more)
        if step == 2:
            raise StopIteration("as a kill would")

    with monkeypatch.context() as patch, pytest.raises(StopIteration):
        patch.setattr(checkpoint, "write", write)
        CliRunner().invoke(_app(), words("both"), catch_exceptions=False)
    one, two, both = losses("one", 1), losses("two", 2), losses("both", 2)
    assert len(one) == 3
    np.testing.assert_allclose(one, two, rtol=1e-5)
    np.testing.assert_allclose(one, both, rtol=1e-5)
