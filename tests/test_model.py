"""Model files: what is saved comes back, and what was changed is noticed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import aequorea as aq
from aequorea import model as module
from aequorea.backbones.swinir import SwinIRSpec
from aequorea.backbones.unet import UNetSpec
from aequorea.engine.predict import normalised, predict_whole
from aequorea.errors import DataError, ModelError, SpecError
from aequorea.layers.published import PublishedSpec
from aequorea.model import Model, load
from aequorea.registry import build
from aequorea.signal.intensity import measure
from aequorea.volume import from_array
from aequorea.workflows.convert import Published, build_published, model_of
from quick import SPACING, model_file, nuclei

torch.set_num_threads(1)


def rewritten(path: Path, new: Path, change: object = None, **words: object) -> Path:
    """Write a copy of a model file with changed weights or card."""
    with safe_open(path, "pt") as file:
        card = json.loads(file.metadata()["aequorea"])
    tensors = load_file(path)
    if callable(change):
        change(tensors)
    save_file(tensors, new, metadata={"aequorea": json.dumps({**card, **words})})
    return new


@pytest.mark.parametrize(("task", "backbone"), [("semantic", "filters"), ("instances", "unet")])
def test_a_saved_model_comes_back(tmp_path: Path, task: str, backbone: str) -> None:
    """Weights, card and output are the same; saving again gives the same file."""
    path = model_file(task, backbone)
    model = aq.load(path)
    assert isinstance(model, aq.Model)
    again = load(model.save(tmp_path / "again.safetensors"))
    assert again.card == model.card
    image = nuclei(3)[0]
    for name, layer in model.predict(image, SPACING).layers.items():
        np.testing.assert_array_equal(again.predict(image, SPACING).layers[name].read(), layer.read())
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_the_card_says_what_the_model_is() -> None:
    """Recipes, units, operating point, history and self-check; the class says what each is."""
    card = load(model_file("instances", "unet")).card
    assert card["task"]["name"] == "instances" and card["task"]["min_size_um3"] > 0
    assert UNetSpec.parse({k: v for k, v in card["backbone"].items() if k != "name"}).levels == 2
    assert card["spacing"] == list(SPACING) and card["channels"] == 1
    assert set(card["training"]) >= {"steps", "first", "best", "best_step", "score", "items", "held_out"}
    assert card["training"]["items"] and card["training"]["held_out"]
    assert len(card["self_check"]) == 16 and card["version"] == aq.__version__
    assert set(card["intensities"]) == {*card["training"]["items"], *card["training"]["held_out"]}
    assert json.loads(json.dumps(card)) == card


def test_the_module_explains_every_word_of_the_card() -> None:
    """The list in the docstring, from which the reference is made, is complete."""
    card = {**load(model_file("instances", "unet")).card, **load(model_file("semantic", "filters")).card}
    published = PublishedSpec(task="denoise", planes=1)
    body = SwinIRSpec(width=6, depths=(1,))
    card |= model_of(Published(published, build_published(published, body))).card
    terms = re.findall(r"^``.*$", module.__doc__ or "", re.M)
    assert sorted(card) == sorted(word for term in terms for word in re.findall("``(.*?)``", term))


def test_changed_weights_are_noticed(tmp_path: Path) -> None:
    """One convolution scaled by a tenth: the file loads and computes something else, which is said."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        key = next(k for k, t in tensors.items() if k.startswith("head") and t.dim() == 5)
        tensors[key] *= 1.1

    path = rewritten(model_file("semantic", "filters"), tmp_path / "m.safetensors", change)
    with pytest.raises(ModelError, match="no longer computes what it did"):
        load(path)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    """Each is one line with the file's name."""
    missing, text, bare = (tmp_path / name for name in ("a", "b", "c"))
    text.write_text("no model")
    save_file({"x": torch.zeros(2)}, bare)
    good = model_file("semantic", "filters")
    cut = tmp_path / "cut"
    cut.write_bytes(good.read_bytes()[:-100])
    lost = rewritten(good, tmp_path / "lost", lambda tensors: tensors.pop(sorted(tensors)[0]))
    for path, words in (
        (missing, "no such file"),
        (text, "no whole safetensors file"),
        (cut, "no whole safetensors file"),
        (bare, "no model card"),
        (lost, "weights do not fit"),
        (tmp_path, "safetensors"),
    ):
        with pytest.raises(ModelError, match=words) as caught:
            load(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_plug_in_the_card_is_named(tmp_path: Path) -> None:
    """A model of a third party's backbone, without the third party."""
    path = rewritten(
        model_file("semantic", "filters"), tmp_path / "m", None, backbone={"name": "unett", "levels": 2}
    )
    with pytest.raises(SpecError, match="unet"):
        load(path)


def test_arrays_of_every_kind_are_predicted() -> None:
    """Y X, Z Y X and C Z Y X; the spacing comes with the result; a range can be given."""
    model = load(model_file("semantic", "filters"))
    image = nuclei(3)[0]
    whole = model.predict(image, SPACING).layers["classes"]
    assert whole.shape == (1, *image.shape) and whole.spacing == SPACING
    np.testing.assert_array_equal(model.predict(image[None], SPACING).layers["classes"].read(), whole.read())
    assert model.predict(image[4]).layers["classes"].size == (1, *image.shape[1:])
    # A part seen in the range of the whole equals the part of the whole, away from its border.
    part = model.predict(image[:, :, :40], SPACING, intensity=measure(from_array(image, SPACING)))
    np.testing.assert_array_equal(part.layers["classes"].read()[..., :20], whole.read()[..., :20])


def test_the_operating_point_decides() -> None:
    """Foreground shrinks with the threshold."""
    model = load(model_file("semantic", "filters"))
    image = nuclei(3)[0]
    counts = [
        int(model.predict(image, SPACING, point={"threshold": t}).layers["classes"].read().sum())
        for t in (0.1, 0.5, 0.9)
    ]
    assert counts[0] > counts[1] > counts[2] > 0


def test_what_is_computed_is_what_is_trained(tmp_path: Path) -> None:
    """The folded copy that predicts gives the network's own numbers."""
    model = load(model_file("semantic", "unet"))
    volume = from_array(nuclei(3)[0], SPACING)
    ranged = normalised(volume, measure(volume))
    stored = predict_whole(model.network, model.task, ranged, SPACING, "float32").read()
    with torch.inference_mode():
        logits = model.network(torch.from_numpy(ranged.read())[None], SPACING)
    own = model.task.store(logits)[0].numpy()
    assert np.abs(stored.astype(int) - own.astype(int)).max() <= 1


def test_a_model_that_never_trained_can_be_saved(tmp_path: Path) -> None:
    """Also without spacing."""
    task = build("tasks", {"name": "semantic", "classes": 3})
    model = Model.build(task, {"name": "unet", "levels": 2}, None, channels=2)
    again = load(model.save(tmp_path / "m.safetensors"))
    assert again.spacing is None and again.point == {}
    image = np.random.default_rng(0).normal(size=(2, 4, 16, 16)).astype(np.float32)
    assert again.predict(image).layers["classes"].read().max() <= 2


def test_a_wrong_number_of_channels_is_refused() -> None:
    """As by the command."""
    model = load(model_file("semantic", "filters"))
    with pytest.raises(DataError, match="channel"):
        model.predict(np.zeros((2, 4, 16, 16), np.float32))
    with pytest.raises(DataError, match="channel"):
        load(model_file("semantic", "unet")).predict(np.ones((2, 4, 16, 16), np.float32))
