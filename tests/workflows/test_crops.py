"""Crops: inside, apart, informative, the same again, and readable as what they are."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from typer import Typer
from typer.testing import CliRunner

from aequorea.cli import crops as crops_command
from aequorea.errors import AequoreaWarning, DataError
from aequorea.volume import Region, Volume, from_array
from aequorea.workflows.crops import choose, crops, ome_tiff
from aequorea.workflows.dataset import dataset
from aequorea.workflows.open import open as open_volume
from quick import call


def textured(size: tuple[int, int, int] = (24, 96, 96), seed: int = 0) -> np.ndarray:
    """Noise everywhere, bright blobs in the far half along x."""
    rng = np.random.default_rng(seed)
    image = rng.normal(100, 3, size)
    z, y, x = np.indices(size)
    for _ in range(60):
        c = rng.uniform(0, 1, 3) * size
        c[2] = size[2] / 2 + c[2] / 2
        image += (
            200 * rng.uniform(0.3, 1) * np.exp(-((z - c[0]) ** 2 + (y - c[1]) ** 2 + (x - c[2]) ** 2) / 18)
        )
    return image.astype(np.uint16)


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(*[st.integers(1, 30)] * 3),
    st.tuples(*[st.integers(1, 12)] * 3),
    st.integers(1, 9),
    st.integers(0, 99),
)
def test_crops_lie_inside_and_apart_and_are_the_same_again(
    size: tuple[int, int, int], crop: tuple[int, int, int], n: int, seed: int
) -> None:
    volume = from_array(np.random.default_rng(0).random(size))
    if np.prod(np.minimum(crop, size)) == 1:
        with pytest.raises(DataError, match="all values are equal"):
            choose(volume, n=n, size=crop, seed=seed)
        return
    found = choose(volume, n=n, size=crop, seed=seed)
    assert found == choose(volume, n=n, size=crop, seed=seed)
    assert 1 <= len(found) <= n
    taken = np.zeros(size, int)
    for region in found:
        assert region.inside(volume.region) and region.size == tuple(np.minimum(crop, size))
        taken[region.slices] += 1
    assert taken.max() == 1


def test_places_with_something_in_them_go_first() -> None:
    found = choose(from_array(textured()), n=4, size=(24, 24, 24))
    assert all(region.stop[2] > 48 for region in found)


def test_constant_blocks_are_never_chosen() -> None:
    image = np.zeros((8, 32, 32), np.uint8)
    image[:, :8, :8] = np.random.default_rng(0).integers(0, 9, (8, 8, 8))
    assert choose(from_array(image), n=5, size=(8, 8, 8)) == [Region.at((0, 0, 0), (8, 8, 8))]
    with pytest.raises(DataError, match="all values are equal"):
        choose(from_array(image * 0), size=(8, 8, 8))
    with pytest.raises(DataError, match="equal or not finite"):
        choose(from_array(np.full((4, 8, 8), np.nan)), size=(4, 4, 4))


def test_the_chosen_are_unlike_each_other() -> None:
    rng = np.random.default_rng(0)
    # Places of grain that differ a little, one of coarse grain and one far brighter.
    strength = np.repeat(rng.uniform(8, 12, 10), 16)
    image = np.repeat(rng.uniform(80, 120, 10), 16) + strength * rng.normal(0, 1, (4, 16, 160))
    image[..., 48:64] = np.kron(rng.normal(100, 15, (2, 4, 4)), np.ones((2, 4, 4)))
    image[..., 96:112] += 500 + rng.normal(0, 15, (4, 16, 16))
    starts = {region.start[2] for region in choose(from_array(image), n=3, size=(4, 16, 16))}
    assert {48, 96} <= starts


def test_seeds_move_the_places() -> None:
    volume = from_array(textured())
    assert choose(volume, n=2, size=(16, 20, 20), seed=0) != choose(volume, n=2, size=(16, 20, 20), seed=5)


def test_places_are_chosen_on_a_coarse_level() -> None:
    image = textured((24, 128, 128))
    fine, coarse = from_array(image), from_array(image[::2, ::2, ::2])
    asked: list[Region] = []

    def refuse(region: Region) -> np.ndarray:
        asked.append(region)
        return fine.reader(region)

    volume = Volume(refuse, fine.shape, fine.dtype, levels=(coarse,))
    found = choose(volume, n=3, size=(24, 32, 32))
    assert len(found) == 3 and not asked


def test_large_volumes_are_sampled() -> None:
    read: list[Region] = []

    def reader(region: Region) -> np.ndarray:
        read.append(region)
        return np.random.default_rng(region.start[2]).integers(0, 99, (1, *region.size), np.uint8)

    volume = Volume(reader, (1, 10**4, 10**5, 10**5), np.dtype(np.uint8))
    assert len(choose(volume, n=4, size=(8, 8, 8))) == 4
    assert len(read) <= 400


def test_an_unsure_model_decides() -> None:
    volume = from_array(np.random.default_rng(0).random((4, 8, 160)))
    doubtful = Region.at((0, 0, 64), (4, 8, 64))
    found = choose(
        volume,
        n=3,
        size=(4, 8, 8),
        unsureness=lambda region: region.clip(doubtful).voxels + region.start[2] / 1e4,
    )
    assert all(not region.clip(doubtful).empty for region in found)


@pytest.mark.parametrize(("n", "size"), [(0, (4, 4, 4)), (2, (0, 4, 4))])
def test_nothing_cannot_be_asked_for(n: int, size: tuple[int, int, int]) -> None:
    with pytest.raises(DataError, match="positive"):
        choose(from_array(textured()), n=n, size=size)


@pytest.mark.parametrize(
    "kind", ["uint8", "uint16", "int16", "float32", "float64", "float16", "int64", "bool"]
)
@pytest.mark.parametrize("shape", [(1, 4, 5, 3), (2, 1, 6, 4), (3, 2, 4, 4), (1, 1, 1, 1)])
def test_any_image_comes_back_from_its_tiff(
    tmp_path: Path, kind: str, shape: tuple[int, int, int, int]
) -> None:
    image = (np.arange(np.prod(shape)).reshape(shape) % 100).astype(kind)
    names = tuple(f"dye {i}" for i in range(shape[0]))
    (tmp_path / "a.ome.tif").write_bytes(ome_tiff(image, (2.0, 0.5, 0.25), names))
    volume = open_volume(tmp_path / "a.ome.tif")
    assert volume.shape == shape and volume.spacing == (2.0, 0.5, 0.25) and volume.channels == names
    assert (volume.read() == image).all()
    assert tifffile.imread(tmp_path / "a.ome.tif").squeeze().shape == tuple(n for n in shape if n > 1)


def paint(folder: Path, which: int, value: int) -> None:
    path = sorted(folder.glob("*_label.ome.tif"))[which]
    label = tifffile.imread(path)
    assert label.dtype == np.uint16 and not label.any()
    label[..., :3] = value
    # As napari saves: without spacing, and for want of axes with planes as channels.
    tifffile.imwrite(path, label, compression="zlib")


@pytest.mark.parametrize("strokes", [False, True])
def test_painted_crops_come_back_as_a_dataset(tmp_path: Path, strokes: bool) -> None:
    image = textured()
    volume = from_array(image, (2.0, 0.5, 0.5))
    made = crops(volume, tmp_path, name="brain", n=3, size=(16, 24, 24), strokes=strokes)
    assert len(made) == 3
    with pytest.raises(DataError, match="none of 3 crops is painted yet"):
        dataset(tmp_path)
    paint(tmp_path, 0, 1)
    with pytest.warns(AequoreaWarning, match="2 of 3 crops are not painted: left out"):
        (item,) = dataset(tmp_path)
    assert item.group == "brain" and item.image.spacing == (2.0, 0.5, 0.5) == item.annotation.spacing
    assert item.annotation.unlabelled == (0 if strokes else None)  # type: ignore[attr-defined]
    assert item.offset is not None
    assert (item.image.read()[0] == image[Region.at(item.offset, (16, 24, 24)).slices]).all()


def test_crops_are_not_overwritten(tmp_path: Path) -> None:
    volume = from_array(textured())
    crops(volume, tmp_path, name="a", n=1)
    with pytest.raises(DataError, match="already holds crops"):
        crops(volume, tmp_path, name="a", n=1)


def run(*words: str) -> tuple[int, str]:
    app = Typer()
    app.callback()(lambda: None)
    crops_command.command(app)
    result = CliRunner().invoke(app, ["crops", *words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def test_the_command_writes_and_says_what_to_do(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "v.tif", textured(), photometric="minisblack")
    words = (str(tmp_path / "v.tif"), "--axes", "ZYX", "--spacing", "2,0.5,0.5", "--out", str(tmp_path / "c"))
    code, said = run(*words, "--n", "2", "--size", "12,24,24")
    assert code == 0 and "paint all of it" in said and f"aequorea check {tmp_path / 'c'}" in said
    assert len(list((tmp_path / "c").glob("v_z*_label.ome.tif"))) == 2
    with pytest.raises(DataError, match="already holds crops"):
        run(*words)
    code, said = run(*words[:-1], str(tmp_path / "d"), "--n", "99", "--size", "24,96,96", "--strokes")
    assert "1 of 99" in said and "0 unlabelled, 1 background" in said


def test_real_volumes(real_data: Path) -> None:
    volume = open_volume(real_data / "open" / "organoid_lstree" / "budding_t301_nuclei.tif")
    label = open_volume(real_data / "open" / "organoid_lstree" / "budding_t301_nuclei_label.tif").read()[0]
    chosen = [(label[region.slices] > 0).mean() for region in choose(volume, n=4, size=(18, 48, 48))]
    assert min(chosen) > 0.02 and np.mean(chosen) > 1.5 * (label > 0).mean()


def test_nothing_is_left_of_crops_that_could_not_be_chosen(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="all values are equal"):
        crops(from_array(np.ones((8, 32, 32), np.uint8)), tmp_path / "crops", name="a", size=(4, 8, 8))
    assert not (tmp_path / "crops").exists()


def test_a_time_point_of_several_is_picked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Crops of each have names of their own."""
    monkeypatch.chdir(tmp_path)
    frames = np.random.default_rng(0).integers(0, 100, (2, 8, 32, 32), np.uint8)
    tifffile.imwrite("time.ome.tif", frames, metadata={"axes": "TZYX"}, photometric="minisblack")
    words = "crops time.ome.tif --time 1 --n 1 --size 4,16,16 --spacing 2,.5,.5 -o out"
    assert not call(*words.split())
    (image,) = [path for path in Path("out").glob("*.tif") if "label" not in path.name]
    z, y, x = (int(part[1:]) for part in image.name.split(".")[0].split("_")[2:])
    assert image.name.startswith("time_t1_")
    assert np.array_equal(tifffile.imread(image), frames[1, z : z + 4, y : y + 16, x : x + 16])
