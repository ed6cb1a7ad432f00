"""Fine-tuning from labels to a model file, on small simulated specimens and on real ones."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from aequorea.annotations import TargetImage
from aequorea.errors import DataError, SpecError
from aequorea.model import load
from aequorea.signal.intensity import measure
from aequorea.volume import Region, from_array
from aequorea.workflows.dataset import Item, dataset
from aequorea.workflows.finetune import FinetuneSpec, finetune, patch_size
from aequorea.workflows.splits import split_groups
from quick import SPACING, TRAIN, call, item, model_file, nuclei, recipe, specimens

torch.set_num_threads(1)


def dice(labels: np.ndarray, found: np.ndarray) -> float:
    return 2 * float((labels & found).sum()) / max(1, int(labels.sum() + found.sum()))


def foreground(path: Path, seed: int) -> float:
    """Dice of a model's foreground on a simulated specimen."""
    image, labels = nuclei(seed)
    found = load(path).predict(image, SPACING).layers["classes"].read()[0] > 0
    return dice(labels > 0, found)


def test_unet_learns_classes(tmp_path: Path) -> None:
    """A few steps lower the loss; the run folder holds recipe, metrics and model, and no checkpoints."""
    train = TRAIN.model_copy(update={"steps": 16, "learning_rate": 5e-3, "evaluate_every": 8}).plain()
    done = finetune(specimens(1, 2), tmp_path / "run", recipe(train=train))
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    losses = [float(row["loss"]) for row in rows if row["loss"]]
    assert len(losses) == 16 and np.mean(losses[-4:]) < np.mean(losses[:4])
    assert done.scores["unet"] == max(float(row["dice"]) for row in rows if row["dice"])
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"all", "spec.yaml", "data.json", "metrics.csv", "summary.json", "model.safetensors"}
    assert FinetuneSpec.from_yaml(tmp_path / "run" / "spec.yaml") == recipe(train=train)


def test_filters_find_objects(tmp_path: Path) -> None:
    """One convex fit finds most nuclei of a specimen that it has not seen."""
    done = finetune(specimens(1, 2), tmp_path / "run", recipe("instances", "filters"))
    assert done.scores["filters"] > 0.4
    assert set(done.model.point) <= {"threshold", "persistence"}
    image, labels = nuclei(3)
    found = done.model.predict(image, SPACING).layers["objects"].read()[0]
    assert abs(len(np.unique(found)) - len(np.unique(labels))) < 0.4 * len(np.unique(labels))


def test_auto_keeps_the_better_and_says_by_how_much(tmp_path: Path) -> None:
    """Both bodies are scored on the same held-out specimen."""
    done = finetune(specimens(1, 2), tmp_path / "run", recipe(backbone="auto"))
    assert set(done.scores) == {"filters", "unet"}
    best, other = sorted(done.scores, key=lambda name: -done.scores[name])
    assert done.model.card["backbone"]["name"] == best
    gap = done.scores[best] - done.scores[other]
    line = next(line for line in done.lines if line.startswith("kept"))
    assert line.startswith(f"kept {best}: held-out dice {done.scores[best]:.3f}, {gap:.3f} above {other}")


def test_strokes_suffice(tmp_path: Path) -> None:
    """With 0 for what nobody looked at, a few lines through nuclei and background give the whole."""
    image, labels = nuclei(1)
    strokes = np.zeros_like(labels)
    strokes[::3, ::8] = 1 + (labels[::3, ::8] > 0)
    done = finetune(
        [item(image, strokes, "painted", unlabelled=0)], tmp_path / "run", recipe(backbone="filters")
    )
    assert "held out 25% of the one specimen 'painted'" in done.lines[0]
    assert foreground(done.path, 3) > 0.8


def test_what_nobody_looked_at_teaches_nothing(tmp_path: Path) -> None:
    """Equal strokes on images that differ where nothing is labelled, beyond the filters' sight, fit equally."""
    image, labels = nuclei(1)
    strokes = np.zeros_like(labels)
    strokes[:, :8, :8] = 1 + (labels[:, :8, :8] > 0)
    strokes[:, :8, 8:12] = 1
    strokes[5, 20, 20], strokes[5, 20, 21] = 1, 2
    ignored = np.where(strokes == 0, 7, strokes)
    fits = []
    for name, painted, mark in (("a", strokes, 0), ("b", ignored, 7)):
        values = {"values": {1: 0, 2: 1}} if mark == 7 else {}
        task = {"name": "semantic", "classes": 2, **values}
        spec = recipe(backbone="filters", task=task)
        fits.append(finetune([item(image, painted, name, unlabelled=mark)], tmp_path / name, spec))
    for key, weight in fits[0].model.network.state_dict().items():
        assert torch.equal(weight, fits[1].model.network.state_dict()[key])


def test_an_unlabelled_value_that_no_voxel_has_is_told(tmp_path: Path) -> None:
    """A slip of the finger would else teach that what nobody painted is background; once, whatever is tried."""
    image, labels = nuclei(1)
    labels[:, ::4] = 99
    for mark, told in ((98, 1), (99, 0)):
        done = finetune(
            [item(image, labels, "a", unlabelled=mark)], tmp_path / f"{mark}", recipe(backbone="auto")
        )
        assert sum(line.startswith(f"no label is {mark}") for line in done.lines) == told


def test_one_sided_labels_are_refused(tmp_path: Path) -> None:
    """Foreground alone cannot teach what background looks like."""
    image, labels = nuclei(1)
    only = np.where(labels > 0, 2, 0).astype(np.uint8)
    with pytest.raises(DataError, match="of one class"):
        finetune([item(image, only, "a", unlabelled=0)], tmp_path / "run", recipe(backbone="filters"))
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_nothing_but_background_is_refused(tmp_path: Path) -> None:
    image, labels = nuclei(1)
    with pytest.raises(DataError, match="nothing but background"):
        finetune([item(image, labels * 0, "a")], tmp_path / "s", recipe(task={"name": "semantic"}))
    with pytest.raises(DataError, match="no object"):
        finetune([item(image, labels * 0, "a")], tmp_path / "i", recipe("instances"))


def test_scarce_labels_are_told(tmp_path: Path) -> None:
    """Under 50 voxels of a class there is a warning, and no threshold is chosen from so few."""
    image, labels = nuclei(1)
    strokes = np.zeros_like(labels)
    inside, outside = np.argwhere(labels > 0), np.argwhere(labels == 0)
    for places, value in ((inside[:: len(inside) // 40], 2), (outside[::20], 1)):
        strokes[tuple(places.T)] = value
    done = finetune([item(image, strokes, "a", unlabelled=0)], tmp_path / "run", recipe(backbone="filters"))
    assert any("labelled voxels of class 1: paint more" in line for line in done.lines)
    assert any("too few held-out labels" in line for line in done.lines) and done.model.point == {}


def test_a_trained_model_is_held_back_from_scarce_labels(tmp_path: Path) -> None:
    """Ten voxels of foreground would ruin it: refused, and nothing is begun."""
    image, labels = nuclei(3)
    strokes = np.where(labels == 0, 1, 0).astype(np.uint8)
    strokes[tuple(np.argwhere(labels > 0)[::400][:10].T)] = 2
    spec = recipe(start=str(model_file("semantic", "unet")))
    with pytest.raises(DataError, match=r"only \d+ labelled voxels of class 1: a trained model loses"):
        finetune([item(image, strokes, "a", unlabelled=0)], tmp_path / "run", spec)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_class_that_only_the_held_out_part_shows_is_a_class(tmp_path: Path) -> None:
    """The model that is kept learns it in the end; a trained model that does not have it refuses it."""

    def fish(i: int, classes: int) -> Item:
        image, labels = nuclei(i)
        shown = (labels > 0).astype(np.uint8)
        shown[:, :24] *= classes - 1
        return item(image, shown, f"fish_{i}")

    _, (held,), _ = split_groups([fish(i, 2) for i in range(3)], 0.25, 0)
    spec = recipe(task={"name": "semantic"}, backbone="filters")
    two = finetune([fish(i, 2) for i in range(3)], tmp_path / "two", spec)
    items = [fish(i, 3 if held.name == f"fish_{i}" else 2) for i in range(3)]
    assert finetune(items, tmp_path / "three", spec).model.task.spec.classes == 3
    with pytest.raises(DataError, match="shows class 2 where the classes are 0 to 1"):
        finetune(items, tmp_path / "again", recipe({"name": "semantic"}, "filters", start=str(two.path)))


def test_nothing_is_held_out_if_asked(tmp_path: Path) -> None:
    done = finetune(specimens(1, 2), tmp_path / "run", recipe(backbone="filters", held_out=0))
    assert done.scores == {} and "nothing is held out, as asked" in done.lines


@pytest.mark.parametrize("words", [{"batch": 0}, {"steps": 0}, {"learning_rate": -1}])
def test_recipes_out_of_range_are_refused(words: dict[str, float]) -> None:
    with pytest.raises(SpecError, match=next(iter(words))):
        recipe(train={**TRAIN.plain(), **words})


def test_a_run_in_which_nothing_was_learnt_yet_binds_nobody(tmp_path: Path) -> None:
    """Its recipe may be mended; that of a run that was begun may not."""
    run = tmp_path / "run"
    run.mkdir()
    for name in ("data.json", "spec.yaml"):
        (run / name).write_text("{}\n")
    finetune(specimens(1, 2), run, recipe(backbone="filters"))
    with pytest.raises(SpecError, match="another recipe"):
        finetune(specimens(1, 2), run, recipe(backbone="filters", held_out=0.5))


def test_object_numbers_are_not_taken_for_classes(tmp_path: Path) -> None:
    image, labels = nuclei(1, (16, 96, 96))
    with pytest.raises(DataError, match="object numbers"):
        finetune([item(image, labels, "a")], tmp_path / "run", recipe(task={"name": "semantic"}))


@pytest.mark.parametrize("adapter", ["lora", "linear"])
def test_adapters_change_little(tmp_path: Path, adapter: str) -> None:
    """lora is merged into weights of the same names; linear leaves the body as it was."""
    start = load(model_file("semantic", "unet"))
    spec = recipe(start=str(model_file("semantic", "unet")), adapter={"name": adapter})
    done = finetune(specimens(3, 4), tmp_path / "run", spec)
    before, after = start.network.backbone.state_dict(), done.model.network.backbone.state_dict()
    assert list(before) == list(after)
    assert load(done.path).card["self_check"] == done.model.card["self_check"]
    if adapter == "linear":
        assert all(torch.equal(before[key], after[key]) for key in before)
        assert not torch.equal(
            next(start.network.head.parameters()), next(done.model.network.head.parameters())
        )


def test_lora_on_filters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="--backbone unet"):
        finetune(specimens(1), tmp_path / "run", recipe(backbone="filters", adapter={"name": "lora"}))


def test_start_from_a_model_that_cannot_be_bettered(tmp_path: Path) -> None:
    """The score before the first step is kept with its weights, and that it did not help is said."""
    path = model_file("semantic", "unet", 16)
    train = TRAIN.model_copy(update={"steps": 2, "learning_rate": 1e2, "weight_decay": 0.0}).plain()
    spec = recipe(backbone="auto", start=str(path), train=train)
    done = finetune(specimens(3, 4), tmp_path / "run", spec)
    training = done.model.card["training"]
    assert training["best_step"] == 0 and training["first"] == training["best"] == done.scores["unet"]
    assert f"fine-tuning did not help: held-out dice was {training['first']:.3f} before" in "\n".join(
        done.lines
    )
    before, after = load(path).network.state_dict(), done.model.network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    """Again: nothing is done. Another recipe or other images: refused."""
    spec = recipe(backbone="filters")
    first = finetune(specimens(1, 2), tmp_path / "run", spec)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    again = finetune(specimens(1, 2), tmp_path / "run", spec)
    assert "finished before" in again.lines[0] and again.scores == first.scores
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    with pytest.raises(SpecError, match="train differ"):
        finetune(specimens(1, 2), tmp_path / "run", recipe(backbone="filters", train={"seed": 1}))
    with pytest.raises(DataError, match="other images"):
        finetune(specimens(1, 3), tmp_path / "run", spec)


def test_an_interrupted_run_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between two checkpoints it ends in the same bits as a run that was not."""
    whole = finetune(specimens(1, 2), tmp_path / "whole", recipe())
    from aequorea.workflows import finetune as verb

    class Stopped(Exception):
        pass

    calls = []
    real = verb.Sampler.__call__

    def sample(self: verb.Sampler, index: int) -> dict[str, np.ndarray]:
        calls.append(index)
        if len(calls) > 7:
            raise Stopped
        return real(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(verb.Sampler, "__call__", sample)
        with pytest.raises(Stopped):
            finetune(specimens(1, 2), tmp_path / "cut", recipe())
    cut = finetune(specimens(1, 2), tmp_path / "cut", recipe())
    assert (tmp_path / "cut" / "model.safetensors").read_bytes() == whole.path.read_bytes()
    assert cut.scores == whole.scores


def test_several_channels_and_single_planes(tmp_path: Path) -> None:
    """Two channels are learnt from together; a plane is a volume of Z = 1."""
    image, labels = nuclei(1)
    two = np.stack([image, image[::-1]])
    done = finetune([item(two, labels, "two")], tmp_path / "two", recipe())
    assert done.model.card["channels"] == 2
    with pytest.raises(DataError, match=r"\[1, 2\] channels"):
        finetune([item(two, labels, "two"), *specimens(2)], tmp_path / "mixed", recipe())
    for backbone in ("unet", "filters"):
        plane = item(image[5], labels[5], "plane", (1.0, 0.5, 0.5))
        done = finetune([plane], tmp_path / backbone, recipe("instances", backbone))
        assert done.model.predict(image[5], (1.0, 0.5, 0.5)).layers["objects"].size == (1, 48, 48)


def test_images_of_other_voxel_sizes_are_matched(tmp_path: Path) -> None:
    """Training beside (or from a model of) coarser voxels sees structures at one size."""
    image, labels = nuclei(1)
    fine = item(image.repeat(2, 1).repeat(2, 2), labels.repeat(2, 1).repeat(2, 2), "fine", (2.0, 0.25, 0.25))
    path = model_file("semantic", "unet")
    spec = recipe(start=str(path), backbone="auto")
    coarse = finetune(specimens(1), tmp_path / "coarse", spec)
    done = finetune([fine], tmp_path / "fine", spec)
    first = [out.model.card["training"]["first"] for out in (coarse, done)]
    assert abs(first[0] - first[1]) < 0.1
    assert "fine: (10, 96, 96) voxels made (10, 48, 48) (z, y, x), to match the model's voxels" in done.lines


def test_split_told_by_the_data_is_kept(tmp_path: Path) -> None:
    """What is marked for validation is held out, what is marked as test is never touched."""
    items = [replace(one, split=split) for one, split in zip(specimens(1, 2, 3), ("train", "val", "test"))]
    done = finetune(items, tmp_path / "run", recipe(backbone="filters"))
    training = done.model.card["training"]
    assert (training["items"], training["held_out"]) == (["fish_1"], ["fish_2"])


def test_patches_are_about_cubic() -> None:
    """Fewer planes where z is coarse, multiples of the grid, not beyond the smallest image."""
    assert patch_size([(100, 100, 100)], (8, 8, 8)) == (40, 40, 40)
    assert patch_size([(16, 200, 200)], (2, 8, 8)) == (16, 64, 64)
    assert patch_size([(1, 400, 400)], (1, 8, 8)) == (1, 256, 248)
    assert patch_size([(10, 20, 30), (50, 10, 60)], (4, 4, 4)) == (12, 12, 32)


def test_small_images_that_make_all_samples_small_are_named(tmp_path: Path) -> None:
    items = [*specimens(1, 2, 3), item(*nuclei(4, (8, 16, 16)), "scrap")]
    own = {"patch": None, "held_out": 0}
    said = finetune(items, tmp_path / "a", recipe(**own)).lines
    assert any("(as scrap, (8, 16, 16))" in line and "--set patch=[10,48,48]" in line for line in said)
    alike = finetune(items[:3], tmp_path / "b", recipe(**own)).lines
    assert not any("--set patch" in line for line in alike)


def test_unknown_words_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="did you mean 'unet'"):
        finetune(specimens(1), tmp_path / "a", recipe(backbone="unett"))
    with pytest.raises(SpecError, match="did you mean 'persistence'"):
        finetune(specimens(1), tmp_path / "b", recipe(task={"name": "instances", "persistance": 0.1}))
    with pytest.raises(SpecError, match="'auto' takes no fields"):
        finetune(
            specimens(1),
            tmp_path / "c",
            FinetuneSpec(task={"name": "instances"}, backbone={"name": "auto", "size": "small"}),
        )
    assert not any(tmp_path.iterdir()), "nothing is begun on a wrong recipe"


def test_filters_learn_real_nuclei_from_a_crop(tmp_path: Path, real_data: Path) -> None:
    """One labelled crop of a noisy ovule: the rest of it is found (Dice above 0.8)."""
    (one,) = dataset(real_data / "open" / "ovule_nuclei")
    crop = Region.at((26, 26, 26), (48, 48, 48))
    part = item(one.image.read(crop)[0], one.annotation.volume.read(crop)[0], "ovule", one.image.spacing)
    part = replace(part, intensity=measure(one.image))
    done = finetune([part], tmp_path / "run", recipe(backbone="filters"))
    found = done.model.predict(one.image).layers["classes"].read()[0] > 0
    labels = one.annotation.volume.read()[0] > 0
    rest = np.ones(labels.shape, bool)
    rest[crop.slices] = False
    assert dice(labels[rest], found[rest]) > 0.8


def test_real_organoids_from_the_folder_as_it_is(tmp_path: Path, real_data: Path) -> None:
    """Nuclei of one organoid, fitted from the files; the summary and the card say what was done."""
    data = real_data / "open" / "organoid_lstree" / "budding_t301_nuclei.tif"
    done = finetune(data, tmp_path / "run", recipe("instances", "filters"))
    assert done.scores["filters"] > 0.2
    assert done.model.spacing == pytest.approx((2.0, 0.26, 0.26))
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["scores"] == done.scores


def test_fields_of_every_recipe_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--set reaches task, backbone, adapter and train; a recipe that there is not is named."""
    data = tmp_path / "data"
    data.mkdir()
    for seed in (1, 2):
        for array, ending in zip(nuclei(seed), ("", "_label")):
            tifffile.imwrite(data / f"fish_{seed}{ending}.tif", array, metadata={"axes": "ZYX"})

    run = partial(call, "finetune", str(data), "-o", str(tmp_path / "run"))
    assert run("--set", "bone.levels=2") == 2
    assert "did you mean 'backbone'" in capsys.readouterr().err
    words = ("backbone.levels=2", "any_object=true", "train.batch=1", "adapter.rank=2")
    chosen = [flag for word in words for flag in ("--set", word)]
    base = ("--backbone", "unet", "--task", "semantic", "--adapter", "lora", "--spacing", "2,0.5,0.5")
    assert run(*base, "--steps", "1", *chosen) == 0
    spec = FinetuneSpec.from_yaml(tmp_path / "run" / "spec.yaml")
    assert spec.task == {"name": "semantic", "any_object": True} and spec.train.batch == 1
    assert spec.backbone == {"name": "unet", "levels": 2} and spec.adapter == {"name": "lora", "rank": 2}


def test_repainted_labels_are_other_data(tmp_path: Path) -> None:
    """One voxel painted anew, and the folder of the run before is refused instead of called finished."""
    image, labels = nuclei(1)
    finetune([item(image, labels, "a")], tmp_path, recipe(backbone="filters"))
    labels[-1, -1, -1] = labels[-1, -1, -1] == 0
    with pytest.raises(DataError, match="other images or labels"):
        finetune([item(image, labels, "a")], tmp_path, recipe(backbone="filters"))


def test_target_on_a_grid_of_its_own(tmp_path: Path) -> None:
    """A target whose voxels are no multiple of the image's is refused by name, with the size that is wanted."""
    light_field = from_array(np.random.default_rng(0).random((1, 16, 16), np.float32))
    volume = TargetImage(from_array(np.zeros((3, 5, 5), np.float32)))
    spec = FinetuneSpec.parse(
        {"task": {"name": "light_field", "views": 4, "depth": 3}, "backbone": {"name": "unet"}}
    )
    with pytest.raises(DataError, match=r"vesicle: the image has \(3, 5, 5\) .* gives \(3, 16, 16\)"):
        finetune([Item("vesicle", light_field, volume, "vesicle")], tmp_path / "run", spec)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"task": "instances"}, "--task instances: .* has semantic"),
        ({"backbone": "filters"}, "--backbone filters: .* has unet"),
        ({"task": {"name": "semantic", "classes": 7}}, "task.classes=7: .* has 2"),
    ],
)
def test_what_a_model_is_cannot_be_changed_by_a_recipe(
    tmp_path: Path, words: dict[str, Any], why: str
) -> None:
    """Else something other than what was asked for would be trained, without a word."""
    spec = recipe(**words, start=str(model_file("semantic", "unet")))
    with pytest.raises(SpecError, match=why):
        finetune(specimens(1), tmp_path / "run", spec)
    assert not (tmp_path / "run").exists()


def test_a_forest_on_a_body_that_trains_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="--backbone filters"):
        finetune(specimens(1), tmp_path / "run", recipe(backbone="unet", head="forest"))


def test_the_command_takes_the_task_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, labels = nuclei(1)
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    tifffile.imwrite("data/fish.tif", image, metadata={"axes": "ZYX"})
    tifffile.imwrite("data/fish_label.tif", labels.astype(np.uint16), metadata={"axes": "ZYX"})
    start = str(model_file("semantic", "unet"))
    words = ["data", "--model", start, "--steps", "1", "--spacing", "2,0.5,0.5", "--set", "patch=[8,24,24]"]
    assert not call("finetune", *words)
    spec = FinetuneSpec.from_yaml(Path("run/spec.yaml"))
    assert spec.task["name"] == "semantic" and spec.patch == (8, 24, 24)
