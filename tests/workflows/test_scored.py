"""Specimens that benchmarks score are left out of pretraining, whatever their files are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from aequorea.annotations import TargetImage
from aequorea.engine.train import TrainSpec
from aequorea.errors import DataError
from aequorea.volume import Volume, from_array
from aequorea.workflows import scored
from aequorea.workflows.dataset import Item
from aequorea.workflows.found import Found
from aequorea.workflows.open import open as open_volume
from aequorea.workflows.pretrain import PretrainSpec, WeightedObjective, pretrain
from quick import nuclei

SPEC = PretrainSpec(
    objectives=(WeightedObjective(objective={"name": "restore_many", "tasks": {"denoise": 1.0}}),),
    backbone={"name": "unet", "levels": 2},
    train=TrainSpec(steps=1, batch=2),
    patch=(8, 32, 32),
    held_out=0,
)


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """A volume that benchmarks of ``restore_many`` score."""
    image, _ = nuclei(1)
    rows = [
        scored.line("restore_many", "fish", from_array(image)),
        scored.line("mae", "other", from_array(nuclei(2)[0])),
    ]
    place = tmp_path / "list.txt"
    place.write_text("\n".join(rows))
    monkeypatch.setattr(scored, "LIST", place)
    return image


def test_a_scored_file_is_known_by_its_voxels(listed: np.ndarray, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "copy.tif", listed, metadata={"axes": "ZYX"}, compression="zlib")
    np.save(tmp_path / "other_format.npy", listed)
    same = [
        open_volume(tmp_path / "copy.tif", spacing=(3.0, 1.0, 1.0)),
        open_volume(tmp_path / "other_format.npy"),
        from_array(listed.astype(np.float32)),
        from_array(listed[2:-3]),
        from_array(listed[4]),
        from_array(np.stack([nuclei(3)[0], listed])),
    ]
    assert scored.scored(same, ["restore_many"]) == dict.fromkeys(range(6), "fish")
    others = [from_array(nuclei(4)[0]), from_array(np.zeros((10, 48, 48))), from_array(listed[:, :40])]
    assert scored.scored(others, ["restore_many"]) == {}
    assert scored.scored(same, ["mae"]) == {}, "by others than its objective it may be learnt from"


def test_pretraining_leaves_it_out_and_says_so(listed: np.ndarray, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "renamed.tif", listed, metadata={"axes": "ZYX"})
    tifffile.imwrite(tmp_path / "mine.tif", nuclei(3)[0], metadata={"axes": "ZYX"})
    said: list[str] = []
    files = [tmp_path / "renamed.tif", tmp_path / "mine.tif"]
    done = pretrain(files, tmp_path / "run", SPEC, say=said.append)
    assert any("renamed.tif is fish" in line and "left out" in line for line in said)
    assert done.card["training"]["images"] == [str(tmp_path / "mine.tif")]
    with pytest.raises(DataError, match="benchmarks score"):
        pretrain(files[:1], tmp_path / "other", SPEC, say=said.append)


def test_a_pair_is_left_out_where_either_side_is_scored(listed: np.ndarray, tmp_path: Path) -> None:
    def pair(name: str, image: np.ndarray, target: np.ndarray) -> Item:
        return Item(name, from_array(image), TargetImage(from_array(target)), name)

    a, b = nuclei(3)[0], nuclei(4)[0]
    items = [pair("a", a, b), pair("b", listed, a), pair("c", a, listed)]
    sides: list[list[Volume]] = [[item.image, item.annotation.volume] for item in items]
    kept = scored.without_scored(items, sides, ["restore_many"], Found(tmp_path), lambda line: None)
    assert [item.name for item in kept] == ["a"]


def test_what_was_found_is_not_read_again(listed: np.ndarray, tmp_path: Path) -> None:
    image = from_array(listed)
    sides = [[image], [from_array(nuclei(3)[0])]]
    for reader in (image.reader, None):  # its fingerprint is known by then, as an index knows it
        object.__setattr__(image, "reader", reader)
        kept = scored.without_scored(
            ["scored", "mine"], sides, ["restore_many"], Found(tmp_path), lambda line: None
        )
        assert kept == ["mine"]


def test_the_list_names_what_restoration_is_scored_by(real_data: Path) -> None:
    paths = [
        "open/brainreg/whole_brain.tif",
        "bench_only/w2s/fov003_avg1.tif",
        "open/liver_vessels/liver_1.tif",
    ]
    found = scored.scored([open_volume(real_data / path) for path in paths], ["restore_many"])
    assert found == dict(enumerate(paths[:2]))
