"""Prediction of volumes into stores, with models trained in a second."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import zarr

import aequorea as aq
from aequorea.engine import writer
from aequorea.errors import DataError, SpecError
from aequorea.signal.intensity import measure
from aequorea.volume import Region, from_array
from aequorea.workflows.open import open as open_volume
from aequorea.workflows.plan import plan_predict
from aequorea.workflows.predict import PredictSpec, predict
from aequorea.workflows.preview import preview
from quick import SPACING, call, item, model_file, nuclei, recipe

torch.set_num_threads(1)

FLOAT = PredictSpec(precision="float32")


@pytest.fixture
def said() -> list[str]:
    return []


def classes(path: Path) -> np.ndarray:
    found = zarr.open_group(path, mode="r")["labels/classes/0"][:]
    assert isinstance(found, np.ndarray)
    return found


def dense(path: Path) -> np.ndarray:
    found = zarr.open_group(path, mode="r")["0"][:]
    assert isinstance(found, np.ndarray)
    return found.astype(int)


@pytest.mark.parametrize("backbone", ["filters", "unet"])
def test_the_store_holds_what_the_model_finds(tmp_path: Path, said: list[str], backbone: str) -> None:
    """Tiles on disk give what one pass in memory gives; a second run does nothing."""
    path = model_file("semantic", backbone)
    image = nuclei(3, (12, 80, 80))[0]
    full = FLOAT.model_copy(update={"halo": "full", "tile": 30_000})
    done = predict(path, from_array(image, SPACING), tmp_path / "a.ome.zarr", full, say=said.append)
    assert said == [] and done.timing is not None and done.timing.tiles > 4
    assert done.timing.computed > done.timing.kept == image.size
    whole = aq.load(path).predict(image, SPACING, precision="float32")
    assert (classes(tmp_path / "a.ome.zarr") != whole.layers["classes"].read()[0]).mean() < 1e-3
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "a.ome.zarr").rglob("*") if p.is_file()}
    again = predict(path, from_array(image, SPACING), tmp_path / "a.ome.zarr", full, say=said.append)
    assert again.timing is None and said == [f"{tmp_path / 'a.ome.zarr'}: finished before, nothing to do"]
    assert files == {p: p.stat().st_mtime_ns for p in (tmp_path / "a.ome.zarr").rglob("*") if p.is_file()}


def test_objects_come_with_a_table(tmp_path: Path) -> None:
    """Every object of the label image has its row, in µm, and the intensity of the image."""
    image = nuclei(3)[0]
    done = predict(model_file("instances"), from_array(image, SPACING), tmp_path / "a.ome.zarr", FLOAT)
    labels = done.result.layers["objects"].read()[0]
    rows = list(csv.DictReader((tmp_path / "a.ome.zarr" / "tables" / "objects.csv").open()))
    assert [int(row["id"]) for row in rows] == list(range(1, labels.max() + 1)) and len(rows) > 5
    for row in rows[:5]:
        inside = labels == int(row["id"])
        assert float(row["volume_um3"]) == pytest.approx(inside.sum() * 0.5, rel=1e-6)
        assert float(row["mean_intensity"]) == pytest.approx(image[inside].mean(), rel=1e-6)
        assert float(row["z_um"]) == pytest.approx(2 * np.argwhere(inside)[:, 0].mean(), abs=1e-4)


@pytest.mark.parametrize("backbone", ["filters", "unet"])
def test_a_region_is_the_crop_of_the_whole(tmp_path: Path, backbone: str) -> None:
    """Bounds that divide nothing; the intensity range stays that of the whole volume."""
    image = nuclei(3, (12, 80, 80))[0].copy()
    image[:, 60:] *= 3
    volume, path = from_array(image, SPACING), model_file("semantic", backbone)
    words = {"halo": "full", "precision": "float32"}
    predict(path, volume, tmp_path / "whole.ome.zarr", PredictSpec.parse(words))
    part = PredictSpec.parse({**words, "region": "2:11,13:60,5:"})
    predict(path, volume, tmp_path / "part.ome.zarr", part)
    wanted = dense(tmp_path / "whole.ome.zarr")[:, 2:11, 13:60, 5:]
    assert np.abs(dense(tmp_path / "part.ome.zarr") - wanted).max() <= 1
    for place in ("", "labels/classes"):
        group = zarr.open_group(tmp_path / "part.ome.zarr", mode="r", path=place)
        (level, *_) = group.attrs["ome"]["multiscales"][0]["datasets"]  # type: ignore[index,call-overload,union-attr]
        shift = level["coordinateTransformations"][1]["translation"]
        assert shift[-3:] == [2 * 2.0, 13 * 0.5, 5 * 0.5]
    with pytest.raises(DataError, match="not inside"):
        predict(path, volume, tmp_path / "x.ome.zarr", PredictSpec(region="0:13,0:80,0:80"))


def test_nothing_is_predicted_outside_a_mask(tmp_path: Path) -> None:
    """Inside it is as without a mask; a mask of another size is refused."""
    image = nuclei(3, (12, 80, 80))[0]
    volume, path = from_array(image, SPACING), model_file("semantic", "filters")
    inside = np.zeros(image.shape, np.uint8)
    inside[:, 10:50, 20:70] = 1
    spec = FLOAT.model_copy(update={"halo": "full"})
    predict(path, volume, tmp_path / "all.ome.zarr", spec)
    done = predict(path, volume, tmp_path / "masked.ome.zarr", spec, mask=from_array(inside))
    whole, masked = classes(tmp_path / "all.ome.zarr"), classes(tmp_path / "masked.ome.zarr")
    assert not masked[inside == 0].any()
    assert (masked[inside == 1] != whole[inside == 1]).mean() < 1e-3
    nothing = predict(
        path, volume, tmp_path / "none.ome.zarr", spec, mask=from_array(np.zeros(image.shape, np.uint8))
    )
    assert nothing.timing is not None and nothing.timing.tiles == 0
    assert not classes(tmp_path / "none.ome.zarr").any()
    with pytest.raises(DataError, match="mask of"):
        predict(path, volume, tmp_path / "x.ome.zarr", spec, mask=from_array(inside[1:]))
    assert done.timing is not None


def test_another_mask_is_another_recipe(tmp_path: Path, said: list[str]) -> None:
    """Wherever it differs; and what no mask can be is refused, or told."""
    volume, path = from_array(nuclei(3, (12, 80, 80))[0], SPACING), model_file("semantic", "filters")
    mask = np.zeros(volume.size, np.uint8)
    mask[:, 10:50, 20:70] = 1
    predict(path, volume, tmp_path / "out.ome.zarr", FLOAT, mask=from_array(mask))
    mask[:, 50:60, 20:70] = 1
    with pytest.raises(DataError, match="overwrite"):
        predict(path, volume, tmp_path / "out.ome.zarr", FLOAT, mask=from_array(mask))
    with pytest.raises(DataError, match="2 channels"):
        predict(path, volume, tmp_path / "two.ome.zarr", FLOAT, mask=from_array(np.stack([mask, mask])))
    predict(path, volume, tmp_path / "none.ome.zarr", FLOAT, mask=from_array(mask * 0), say=said.append)
    assert any("is 0 everywhere" in line for line in said)


def test_a_model_is_told_from_another_in_memory_too(tmp_path: Path, said: list[str]) -> None:
    """As its file it is the same; with a weight changed it is another."""
    volume, path = from_array(nuclei(3)[0], SPACING), model_file("semantic", "filters")
    model = aq.load(path)
    predict(model, volume, tmp_path / "out.ome.zarr", FLOAT)
    predict(path, volume, tmp_path / "out.ome.zarr", FLOAT, say=said.append)
    assert "finished before" in said[0]
    with torch.no_grad():
        next(model.network.head.parameters()).add_(0.01)
    with pytest.raises(DataError, match="overwrite"):
        predict(model, volume, tmp_path / "out.ome.zarr", FLOAT)


def test_absurd_voxel_sizes_are_refused(tmp_path: Path, said: list[str]) -> None:
    """As where millimetres were read as micrometres; and why voxels are made others is told as it is."""
    image, path = nuclei(3)[0], model_file("semantic", "filters")
    with pytest.raises(DataError, match="are voxels of 2000 x 500 x 500 µm right"):
        predict(path, from_array(image, (2000.0, 500.0, 500.0)), tmp_path / "mm.ome.zarr")
    spec = FLOAT.model_copy(update={"scale": 2.0})
    predict(path, from_array(image, SPACING), tmp_path / "half.ome.zarr", spec, say=said.append)
    assert "as --scale says" in said[0] and "match" not in said[0]


def test_background_of_one_value_is_skipped(tmp_path: Path) -> None:
    """A volume in a large empty frame costs little more than without; its objects are the same."""
    image = nuclei(3)[0]
    framed = np.zeros((10, 48, 400), image.dtype)
    framed[:, :, :48] = image
    path = model_file("semantic", "unet")
    tiles = FLOAT.model_copy(update={"tile": 40_000})
    done = predict(path, from_array(framed, SPACING), tmp_path / "a.ome.zarr", tiles)
    assert done.timing is not None and done.timing.skipped > framed.size / 3
    assert not classes(tmp_path / "a.ome.zarr")[:, :, 150:].any()


def test_saturated_foreground_is_no_background(tmp_path: Path) -> None:
    """A tile of one bright value is computed: whatever the tile, the result is the same."""
    image = np.full((1, 300, 300), 10, np.uint8)
    image[:, 20:280, 20:280] = 255
    found = []
    for tile in (10_000, 1_000_000):
        out = tmp_path / f"{tile}.ome.zarr"
        spec = FLOAT.model_copy(update={"tile": tile, "halo": "full", "scale": 1.0})
        predict(model_file("semantic", "filters"), from_array(image, SPACING), out, spec)
        found.append(dense(out))
    assert np.abs(found[0] - found[1]).max() <= 1 and found[0].max() > 0


def test_finer_voxels_are_matched_and_results_are_on_the_images_grid(tmp_path: Path, said: list[str]) -> None:
    """An image with half the voxel size is seen at the model's, which one line says; --scale 1 turns it off."""
    image = nuclei(3)[0]
    fine = from_array(image.repeat(2, 1).repeat(2, 2), (2.0, 0.25, 0.25), name="fine")
    path = model_file("semantic", "filters")
    predict(path, from_array(image, SPACING), tmp_path / "own.ome.zarr", FLOAT, say=said.append)
    assert said == []
    done = predict(path, fine, tmp_path / "fine.ome.zarr", FLOAT, say=said.append)
    assert len(said) == 1 and "computed at (10, 48, 48) voxels instead of (10, 96, 96)" in said[0]
    assert done.result.layers["classes"].size == fine.size
    assert done.result.layers["classes"].spacing == pytest.approx(fine.spacing)
    own, matched = classes(tmp_path / "own.ome.zarr"), classes(tmp_path / "fine.ome.zarr")
    assert (matched[:, ::2, ::2] == own).mean() > 0.95
    said.clear()
    predict(path, fine, tmp_path / "as_is.ome.zarr", FLOAT.model_copy(update={"scale": 1.0}), say=said.append)
    assert said == [] and not np.array_equal(classes(tmp_path / "as_is.ome.zarr"), matched)


def test_a_region_at_another_scale_is_on_the_images_grid(tmp_path: Path, said: list[str]) -> None:
    """Coarser than the model, with bounds that fall between the network's voxels."""
    image = nuclei(3)[0]
    coarse = from_array(image[:, ::2, ::2], (2.0, 1.0, 1.0))
    path = model_file("semantic", "filters")
    words = {"precision": "float32", "halo": "full"}
    predict(path, coarse, tmp_path / "a.ome.zarr", PredictSpec.parse(words), say=said.append)
    spec = PredictSpec.parse({**words, "region": "1:9,3:20,5:24"})
    predict(path, coarse, tmp_path / "b.ome.zarr", spec, say=said.append)
    whole, part = classes(tmp_path / "a.ome.zarr"), classes(tmp_path / "b.ome.zarr")
    assert part.shape == (8, 17, 19) and (part == whole[1:9, 3:20, 5:24]).mean() > 0.999


def test_larger_objects_are_made_smaller(tmp_path: Path, said: list[str]) -> None:
    """--object-size says how large they are in µm; the model knows how large its own were."""
    path = model_file("instances")
    trained = aq.load(path).card["object_um"]
    assert 4 < trained < 10
    image = nuclei(3)[0]
    spec = FLOAT.model_copy(update={"object_size": 2 * trained})
    done = predict(path, from_array(image, SPACING), tmp_path / "a.ome.zarr", spec, say=said.append)
    assert "24, 24) voxels instead of (10, 48, 48)" in said[0]
    assert done.result.layers["objects"].size == image.shape
    with pytest.raises(DataError, match="--scale"):
        predict(model_file("semantic"), from_array(image, SPACING), tmp_path / "b.ome.zarr", spec)


def test_unknown_voxel_size_is_told(tmp_path: Path, said: list[str]) -> None:
    """Not for a single plane, where z does not matter."""
    path, image = model_file("semantic", "unet"), nuclei(3)[0]
    predict(path, from_array(image), tmp_path / "a.ome.zarr", FLOAT, say=said.append)
    assert len(said) == 1 and "voxel size unknown" in said[0]
    done = predict(path, from_array(image[4]), tmp_path / "b.ome.zarr", FLOAT, say=said.append)
    assert len(said) == 1 and done.result.layers["classes"].size == (1, 48, 48)


def test_channels_must_be_as_in_training(tmp_path: Path) -> None:
    """The message lists those that there are."""
    image = nuclei(3)[0]
    two = from_array(np.stack([image, image]), SPACING, ("DAPI", "GFP"))
    with pytest.raises(DataError, match=r"trained on 1; pick with --channel \(DAPI, GFP\)"):
        predict(model_file("semantic"), two, tmp_path / "a.ome.zarr")
    assert not (tmp_path / "a.ome.zarr").exists()


def test_two_channels(tmp_path: Path) -> None:
    """A model of two channels, filters and network alike."""
    from aequorea.workflows.finetune import finetune

    image, labels = nuclei(1)
    two = np.stack([image, image[:, ::-1]])
    for backbone in ("filters", "unet"):
        done = finetune([item(two, labels, "two")], tmp_path / backbone, recipe(backbone=backbone))
        found = predict(done.path, from_array(two, SPACING), tmp_path / f"{backbone}.ome.zarr", FLOAT)
        assert found.result.layers["classes"].size == image.shape


def test_an_interrupted_prediction_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after a few shards, the next run computes the others alone and ends in the same voxels."""
    image = nuclei(3, (12, 80, 80))[0]
    volume, path = from_array(image, SPACING), model_file("instances")
    tiles = FLOAT.model_copy(update={"tile": 30_000})
    whole = predict(path, volume, tmp_path / "whole.ome.zarr", tiles)

    class Stopped(Exception):
        pass

    written = []
    real = writer.ZarrLayer.write

    def write(self: writer.ZarrLayer, region: Region, block: np.ndarray) -> None:
        if len(written) == 3:
            raise Stopped
        real(self, region, block)
        written.append(region)

    with monkeypatch.context() as patch:
        patch.setattr(writer.ZarrLayer, "write", write)
        with pytest.raises(Stopped):
            predict(path, volume, tmp_path / "cut.ome.zarr", tiles)
    assert len(written) == 3
    done = predict(path, volume, tmp_path / "cut.ome.zarr", tiles)
    assert whole.timing is not None and done.timing is not None
    assert 0 < done.timing.kept < whole.timing.kept
    for name in ("0", "labels/objects/0", "labels/objects/1"):
        one, two = (zarr.open_group(tmp_path / f"{n}.ome.zarr", mode="r") for n in ("whole", "cut"))
        np.testing.assert_array_equal(one[name][:], two[name][:])
    tables = [(tmp_path / f"{n}.ome.zarr/tables/objects.csv").read_bytes() for n in ("whole", "cut")]
    assert tables[0] == tables[1]


def test_a_damaged_shard_is_computed_again(tmp_path: Path, said: list[str]) -> None:
    volume, path = from_array(nuclei(3)[0], SPACING), model_file("semantic")
    predict(path, volume, tmp_path / "a.ome.zarr", FLOAT, say=said.append)
    before = dense(tmp_path / "a.ome.zarr")
    shard = next(p for p in (tmp_path / "a.ome.zarr" / "0").rglob("*") if p.is_file() and "c" in p.parts)
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0xFF
    shard.write_bytes(bytes(data))
    done = predict(path, volume, tmp_path / "a.ome.zarr", FLOAT, say=said.append)
    assert "damaged" in said[0] and done.timing is not None and done.timing.kept > 0
    np.testing.assert_array_equal(dense(tmp_path / "a.ome.zarr"), before)


def test_another_result_is_not_overwritten(tmp_path: Path) -> None:
    """Unless it is said; the image itself never is."""
    path, image = model_file("semantic"), nuclei(3)[0]
    out = tmp_path / "a.ome.zarr"
    predict(path, from_array(image, SPACING), out, FLOAT)
    with pytest.raises(DataError, match="--overwrite"):
        predict(path, from_array(image[:5], SPACING), out, FLOAT)
    with pytest.raises(DataError, match="--overwrite"):
        predict(path, from_array(image, SPACING), out, FLOAT.model_copy(update={"threshold": 0.7}))
    done = predict(path, from_array(image[:5], SPACING), out, FLOAT, overwrite=True)
    assert done.result.layers["classes"].size == (5, 48, 48)
    with pytest.raises(DataError, match="holds the image itself"):
        predict(path, open_volume(out), out, FLOAT, overwrite=True)


def test_thresholds_and_ranges_are_remembered(tmp_path: Path) -> None:
    """A higher threshold finds less; model, image and intensity range stand in the store."""
    path, image = model_file("semantic"), nuclei(3)[0]
    sums = []
    for threshold in (0.2, 0.8):
        out = tmp_path / f"{threshold}.ome.zarr"
        predict(path, from_array(image, SPACING), out, FLOAT.model_copy(update={"threshold": threshold}))
        sums.append(int(classes(out).sum()))
    assert sums[0] > sums[1] > 0
    facts = zarr.open_group(out, mode="r").attrs["aequorea"]
    assert isinstance(facts, dict) and facts["version"] == aq.__version__
    assert facts["intensity"] == measure(from_array(image)).plain()


def test_a_folder_of_images_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--each predicts each; a folder alone is ambiguous; planes are one volume with --sequence."""
    image = nuclei(3)[0]
    (tmp_path / "in").mkdir()
    for name, part in (("a", image), ("b", image[:, ::-1])):
        tifffile.imwrite(tmp_path / "in" / f"{name}.tif", part, metadata={"axes": "ZYX"})
    run = partial(call, "predict", str(model_file("semantic")), str(tmp_path / "in"))

    assert run(str(tmp_path / "out")) == 2
    assert "--each" in capsys.readouterr().err
    assert run(str(tmp_path / "out"), "--each", "--spacing", "2,0.5,0.5") == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a.ome.zarr", "b.ome.zarr"}
    for file in (tmp_path / "in").iterdir():
        file.unlink()
    for z, plane in enumerate(image):
        tifffile.imwrite(tmp_path / "in" / f"plane_{z}.tif", plane)
    assert run(str(tmp_path / "one.ome.zarr"), "--sequence", "--spacing", "2,0.5,0.5") == 0
    np.testing.assert_array_equal(
        classes(tmp_path / "one.ome.zarr"), classes(tmp_path / "out" / "a.ome.zarr")
    )


def test_a_damaged_image_of_many_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are predicted, labels beside their images are left out, and the status says that one is missing."""
    image, labels = nuclei(3)
    folder = tmp_path / "in"
    folder.mkdir()
    for name, part in (("a", image), ("a_label", labels), ("b", image), ("c", image[:, ::-1])):
        tifffile.imwrite(folder / f"{name}.tif", part, metadata={"axes": "ZYX"})
    (folder / "b.tif").write_bytes((folder / "b.tif").read_bytes()[:5000])
    words = [
        str(model_file("semantic")),
        str(folder),
        str(tmp_path / "out"),
        "--each",
        "--spacing",
        "2,0.5,0.5",
    ]
    status = call("predict", *words)
    said = capsys.readouterr()
    assert status == 2 and "images that could not be predicted: 1 (above); that were: 2" in said.err
    assert "b.tif" in said.err and "a_label: labels of a, left out" in said.out
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a.ome.zarr", "c.ome.zarr"}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["in", "--each"], "results there would be taken for"),
        (["out", "--each", "--sequence"], "--each and --sequence"),
        (["out", "--preview", "--part", "1/2", "--memory", "2GB"], "leave out --part and --memory"),
        (["out", "--scheduler", "tcp://nowhere:1", "--memory", "2GB"], "leave out --memory"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    why: str,
) -> None:
    """Rather than to leave one of them out without a word."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    tifffile.imwrite("in/a.tif", nuclei(3)[0], metadata={"axes": "ZYX"})
    source = "in" if "--each" in words else "in/a.tif"
    assert call("predict", str(model_file("semantic")), source, *words) == 2
    assert why in capsys.readouterr().err
    assert [p.name for p in Path().rglob("*.tif")] == ["a.tif"] and not Path("out").exists()


def test_a_mask_needs_no_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an image whose axes must be told a mask has those of space."""
    image = nuclei(3)[0]
    monkeypatch.chdir(tmp_path)
    np.save("two.npy", np.stack([image, image]))
    np.save("mask.npy", np.ones(image.shape, np.uint8))
    words = ["--axes", "CZYX", "--channel", "0", "--spacing", "2,0.5,0.5", "--mask", "mask.npy"]
    assert not call("predict", str(model_file("semantic")), "two.npy", "out", *words)
    assert Path("out").exists()


def test_a_preview_keeps_to_what_was_told(tmp_path: Path) -> None:
    """Region, scale and threshold change what is shown."""
    model, image = aq.load(model_file("instances")), from_array(nuclei(3, (12, 80, 80))[0], SPACING)
    said: dict[str, list[str]] = {}
    for name, words in (("plain", {}), ("part", {"region": "2:11,:40,:"}), ("coarse", {"scale": 4.0})):
        lines = said[name] = []
        preview(model, image, tmp_path / f"{name}.html", PredictSpec.parse(words), say=lines.append)
        assert (tmp_path / f"{name}.html").exists()
    assert said["plain"] != said["coarse"] and said["part"][0].startswith("0:9,0:40,0:80")


@pytest.mark.parametrize(
    "words",
    [{"scale": 0}, {"scale": -1}, {"object_size": -5}, {"threshold": 1.5}, {"threshold": 0}, {"tile": 0}],
)
def test_numbers_out_of_range_are_refused(words: dict[str, float]) -> None:
    with pytest.raises(SpecError, match=next(iter(words))):
        PredictSpec.parse(words)


def test_an_object_size_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    """Of a model that knows no objects, and for an image of unknown voxels; and results have their own ending."""
    image, spec = nuclei(3)[0], PredictSpec(object_size=5.0)
    with pytest.raises(DataError, match="use --scale instead"):
        predict(model_file("semantic"), from_array(image, SPACING), tmp_path / "a.ome.zarr", spec)
    with pytest.raises(DataError, match="give --spacing"):
        predict(model_file("instances"), from_array(image), tmp_path / "a.ome.zarr", spec)
    with pytest.raises(DataError, match=r"name it .*a\.ome\.zarr"):
        predict(model_file("semantic"), from_array(image, SPACING), tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"name it .*plan\.ome\.zarr"):
        plan_predict(model_file("semantic"), from_array(image, SPACING), tmp_path / "plan.ome.tif")
    assert not any(tmp_path.iterdir())


def test_real_organoid(tmp_path: Path, real_data: Path) -> None:
    """A volume of 1.3 megavoxels, read from its file in tiles, gives what one pass gives."""
    volume = open_volume(real_data / "open" / "organoid_lstree" / "budding_t301_nuclei.tif")
    path = model_file("semantic")
    spec = PredictSpec(halo="full", tile=700_000, scale=1.0)
    done = predict(path, volume, tmp_path / "a.ome.zarr", spec)
    assert done.timing is not None and done.timing.tiles > 1
    whole = aq.load(path).predict(volume).layers["classes"].read()[0]
    assert (classes(tmp_path / "a.ome.zarr") != whole).mean() < 1e-3
