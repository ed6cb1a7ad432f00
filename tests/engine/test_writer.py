"""The store on disk: what other readers see, what a kill leaves, what a second run does."""

from __future__ import annotations

import csv
import errno
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaozarrs
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from aequorea.engine import writer
from aequorea.engine.layer import ZarrLayer
from aequorea.engine.writer import ZarrOutput
from aequorea.errors import DataError
from aequorea.signal.pyramid import reduce
from aequorea.volume import Region, Triple

SIZE: Triple = (20, 37, 41)
SMALL: dict[str, Any] = {"identity": "a", "shard": (16, 16, 32), "chunk": (8, 8, 8)}
SPACING = (2.0, 0.5, 0.5)


def fill(layer: ZarrLayer, array: np.ndarray, most: int | None = None) -> int:
    for count, region in enumerate(list(layer.pending())):
        if count == most:
            return count
        layer.write(region, array[(slice(None), *region.slices)])
    return len(list(Region.whole(layer.spec.size).split(layer.spec.shard)))


def dense(output: ZarrOutput, size: Triple = SIZE, spacing: Any = SPACING) -> ZarrLayer:
    return output.layer(
        "dense", size=size, dtype="u1", kind="image", channels=("cells", "edge"), spacing=spacing
    )


def objects(output: ZarrOutput, size: Triple = SIZE, spacing: Any = SPACING) -> ZarrLayer:
    return output.layer("objects", size=size, dtype="u4", kind="label", spacing=spacing)


@pytest.fixture
def image(rng: np.random.Generator) -> np.ndarray:
    array = rng.integers(0, 256, (2, *SIZE), dtype=np.uint8)
    array[:, :16, :16, :32] = 0  # one empty shard
    return array


@pytest.fixture
def labels(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 100_000, (1, *SIZE), dtype=np.uint32)


def files(path: Path) -> dict[str, tuple[int, int]]:
    return {
        str(p.relative_to(path)): (p.stat().st_mtime_ns, p.stat().st_size)
        for p in path.rglob("*")
        if p.is_file()
    }


def complete(path: Path, image: np.ndarray | None, labels: np.ndarray | None, **options: Any) -> ZarrOutput:
    output = ZarrOutput(path, **(SMALL | options))
    if image is not None:
        layer = dense(output)
        fill(layer, image)
        layer.finish()
    if labels is not None:
        layer = objects(output)
        fill(layer, labels)
        layer.finish()
    output.complete()
    return output


@pytest.mark.parametrize("which", ["both", "image", "labels"])
def test_other_readers_see_every_voxel(
    tmp_path: Path, image: np.ndarray, labels: np.ndarray, which: str
) -> None:
    path = tmp_path / "out.ome.zarr"
    want_image, want_labels = which != "labels", which != "image"
    complete(path, image if want_image else None, labels if want_labels else None, facts={"model": "m"})
    yaozarrs.validate_zarr_store(str(path))
    shown = image if want_image else labels[0]

    root = zarr.open_group(path, mode="r")
    assert root.attrs["aequorea"] == {"model": "m"}
    if want_image:
        np.testing.assert_array_equal(root["0"][:], image)
        assert root["0"].shards == (2, 16, 16, 32)
        assert root["0"].chunks == (1, 8, 8, 8)
    if want_labels:
        np.testing.assert_array_equal(root["labels/objects/0"][:], labels[0])

    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    nodes = [node for node in Reader(parse_url(str(path)))() if node.data]
    np.testing.assert_array_equal(nodes[0].data[0].compute(), shown)
    if want_labels:
        np.testing.assert_array_equal(nodes[-1].data[0].compute(), labels[0])

    napari_ome_zarr = pytest.importorskip("napari_ome_zarr")
    layers = napari_ome_zarr.napari_get_reader(str(path))(str(path))
    np.testing.assert_array_equal(np.asarray(layers[0][0][0]), shown)
    assert layers[0][1]["scale"] == list(SPACING)
    assert [layer[2] for layer in layers] == (["image", "labels"] if want_labels else ["image"])


@pytest.mark.filterwarnings("error::zarr.errors.ZarrUserWarning")
def test_zarr_lists_the_store_without_complaint(tmp_path: Path, image: np.ndarray) -> None:
    output = complete(tmp_path / "o", image, None)
    output.table("objects", {"id": np.arange(2)})
    assert {"0", "1", "tables"} <= set(zarr.open_group(tmp_path / "o", mode="r").keys())


@pytest.mark.parametrize("how", ["nearest", "mode"])
def test_levels_are_made_of_the_level_below(
    tmp_path: Path, image: np.ndarray, labels: np.ndarray, how: Any
) -> None:
    output = complete(tmp_path / "o", image, labels, label_levels=how)
    for name, kind in (("dense", "mean"), ("objects", how)):
        volume = output.result.layers[name]
        below, spacing = volume.read(), volume.spacing
        assert len(volume.levels) == 4
        for level in volume.levels:
            steps = tuple(round(a / b) for a, b in zip(level.spacing, spacing))
            np.testing.assert_array_equal(level.read(), reduce(below, steps, kind))
            below, spacing = level.read(), level.spacing


def test_means_are_placed_at_the_centre_of_their_cell(
    tmp_path: Path, image: np.ndarray, labels: np.ndarray
) -> None:
    complete(tmp_path / "o", image, labels)
    root = zarr.open_group(tmp_path / "o", mode="r")
    moves = root.attrs["ome"]["multiscales"][0]["datasets"][1]["coordinateTransformations"]
    assert moves[0]["scale"] == [1, 2, 1, 1]
    assert moves[1]["translation"] == [0, 0, 0.25, 0.25]
    label = root["labels/objects"].attrs["ome"]
    assert len(label["multiscales"][0]["datasets"][1]["coordinateTransformations"]) == 1
    assert "image-label" in label


def test_empty_shards_are_not_written(tmp_path: Path, image: np.ndarray) -> None:
    complete(tmp_path / "o", image, None)
    assert not (tmp_path / "o" / "0" / "c" / "0" / "0" / "0" / "0").exists()
    assert (tmp_path / "o" / "0" / "c" / "0" / "0" / "0" / "1").exists()
    assert ZarrOutput(tmp_path / "o", **SMALL).finished


@settings(deadline=None, max_examples=12)
@given(
    st.tuples(st.integers(1, 12), st.integers(1, 30), st.integers(1, 30)),
    st.tuples(*[st.integers(1, 20)] * 3),
    st.tuples(*[st.integers(3, 9)] * 3),
    st.sampled_from(["u1", "i2", "u8", "f4", "f8", ">u2", "bool"]),
    st.integers(1, 2),
    st.integers(0, 6),
)
def test_interrupted_equals_whole(
    tmp_path_factory: pytest.TempPathFactory,
    size: Triple,
    shard: Triple,
    chunk: Triple,
    dtype: str,
    channels: int,
    before: int,
) -> None:
    shard = tuple(max(s, n // 2 + 1) for s, n in zip(shard, size))  # not thousands of files
    path = tmp_path_factory.mktemp("o") / "o"
    array = (np.random.default_rng(1).random((channels, *size)) * 3).astype(dtype)

    def begin() -> ZarrLayer:
        output = ZarrOutput(path, identity="a", shard=shard, chunk=chunk)
        assert not output.damaged
        return output.layer(
            "dense", size=size, dtype=dtype, kind="image", channels=tuple("ab"[:channels]), spacing=None
        )

    written = fill(begin(), array, before)
    layer = begin()
    regions = list(layer.pending())
    assert len(regions) == len(list(Region.whole(size).split(layer.spec.shard))) - written
    fill(layer, array)
    np.testing.assert_array_equal(layer.finish().read(), array)
    yaozarrs.validate_zarr_store(str(path))


def test_a_write_is_one_whole_shard(tmp_path: Path, image: np.ndarray) -> None:
    layer = dense(ZarrOutput(tmp_path / "o", **SMALL))
    for region in (
        Region((0, 0, 0), (8, 16, 32)),
        Region((0, 0, 0), (20, 16, 32)),
        Region((16, 32, 32), (32, 48, 64)),
        Region((0, 0, 0), (0, 0, 0)),
    ):
        with pytest.raises(ValueError, match="not one shard"):
            layer.write(region, np.zeros((2, *region.size), "u1"))
    with pytest.raises(ValueError, match="block of shape"):
        layer.write(Region((0, 0, 0), (16, 16, 32)), np.zeros((1, 16, 16, 32), "u1"))
    with pytest.raises(ValueError, match="shards are not written"):
        layer.finish()


@pytest.mark.parametrize(
    ("shard", "want"),
    [((256, 192, 100), (64, 96, 100)), ((97, 194, 1), (97, 97, 1)), ((66, 7, 130), (33, 7, 65))],
)
def test_chunks_divide_shards_of_any_size(tmp_path: Path, shard: Triple, want: Triple) -> None:
    layer = dense(ZarrOutput(tmp_path / "o", identity="a", shard=shard), size=(300, 300, 300))
    assert layer.spec.shard == shard
    assert layer.spec.chunk == want


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(*[st.integers(1, 40)] * 3),
    st.tuples(*[st.sampled_from((8, 16, 24))] * 3),
    st.integers(500, 4000),
)
def test_shards_of_labels_are_small_and_cover_the_same(
    tmp_path_factory: pytest.TempPathFactory, size: Triple, shard: Triple, most: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(writer, "LABELS", most)
        output = ZarrOutput(tmp_path_factory.mktemp("w") / "s", identity="a", shard=shard, chunk=(8, 8, 8))
        layer, image = objects(output, size), dense(output, size)
    assert all(b >= min(s, n) for b, s, n in zip(image.block, shard, size))
    # Padding to whole chunks comes on top.
    assert np.prod([min(b, n) for b, n in zip(layer.block, size)]) <= 8 * most
    array = np.random.default_rng(0).integers(1, 99, (1, *size), dtype=np.uint32)
    fill(layer, array)
    np.testing.assert_array_equal(layer.finish().read(), array)


def test_names_and_types_of_layers(tmp_path: Path) -> None:
    output = ZarrOutput(tmp_path / "o", **SMALL)
    for name in ("labels", "tables", "0", "a/b", ".aequorea", ""):
        with pytest.raises(ValueError, match="name of a layer"):
            output.layer(name, size=SIZE, dtype="u1", kind="image")
    with pytest.raises(ValueError, match="whole numbers"):
        output.layer("objects", size=SIZE, dtype="f4", kind="label")


def test_a_second_image_gets_its_own_group(tmp_path: Path, image: np.ndarray) -> None:
    output = ZarrOutput(tmp_path / "o", **SMALL)
    layer = output.layer("restored", size=SIZE, dtype="u1", kind="image", channels=("a", "b"))
    fill(layer, image)
    fill(dense(output), image)
    layer.finish()
    yaozarrs.validate_zarr_store(str(tmp_path / "o"))
    yaozarrs.validate_zarr_store(str(tmp_path / "o" / "restored"))


def test_a_second_run_does_nothing(tmp_path: Path, image: np.ndarray, labels: np.ndarray) -> None:
    path = tmp_path / "o"
    output = ZarrOutput(path, **SMALL)
    (output.scratch("pairs") / "a.bin").write_bytes(b"x")
    assert ZarrOutput(path, **SMALL).scratch("pairs").joinpath("a.bin").exists()
    complete(path, image, labels)
    assert not (path / ".aequorea" / "scratch").exists()
    before = files(path)
    again = ZarrOutput(path, **SMALL)
    assert again.finished
    assert list(again.result.layers) == ["dense", "objects"]
    assert not list(dense(again).pending())
    np.testing.assert_array_equal(dense(again).finish().read(), image)
    again.complete()
    assert files(path) == before


def test_complete_wants_everything(tmp_path: Path, image: np.ndarray) -> None:
    output = ZarrOutput(tmp_path / "o", **SMALL)
    fill(dense(output), image)
    with pytest.raises(ValueError, match="dense"):
        output.complete()
    assert not ZarrOutput(tmp_path / "o", **SMALL).finished


def damage(path: Path, how: str) -> None:
    data, stat = bytearray(path.read_bytes()), path.stat()
    if how == "missing":
        path.unlink()
        return
    if how == "cut":
        del data[-5:]
    if how in ("flipped", "flipped unseen"):
        data[3] ^= 4
    time.sleep(0.01)
    path.write_bytes(data)
    if how == "flipped unseen":
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("how", ["missing", "cut", "flipped"])
@pytest.mark.parametrize("level", [0, 1])
def test_damaged_shards_are_made_again(tmp_path: Path, image: np.ndarray, how: str, level: int) -> None:
    path = tmp_path / "o"
    whole = complete(path, image, None).result.layers["dense"].levels[0].read()
    shard = path / str(level) / "c" / "0" / "1" / "1" / "0"
    damage(shard, how)
    again = ZarrOutput(path, **SMALL)
    assert again.damaged == [shard]
    assert not again.finished
    layer = dense(again)
    assert list(layer.pending()) == ([Region((16, 16, 0), (20, 32, 32))] if level == 0 else [])
    fill(layer, image)
    volume = layer.finish()
    np.testing.assert_array_equal(volume.read(), image)
    np.testing.assert_array_equal(volume.levels[0].read(), whole)
    again.complete()
    assert ZarrOutput(path, **SMALL).finished


def test_a_copy_is_as_good(tmp_path: Path, image: np.ndarray) -> None:
    complete(tmp_path / "o", image, None)
    for path in (tmp_path / "o").rglob("*"):
        os.utime(path)
    assert ZarrOutput(tmp_path / "o", **SMALL).finished


def test_damage_that_shows_only_on_reading(tmp_path: Path, image: np.ndarray) -> None:
    path = tmp_path / "o"
    complete(path, image, None)
    shard = path / "0" / "c" / "0" / "0" / "1" / "0"
    damage(shard, "flipped unseen")
    output = ZarrOutput(path, **SMALL)
    assert output.finished
    with pytest.raises(DataError, match="run the same command again"):
        output.result.layers["dense"].read()
    again = ZarrOutput(path, **SMALL)
    assert again.damaged == [shard]
    fill(dense(again), image)
    np.testing.assert_array_equal(dense(again).finish().read(), image)


def test_another_identity_or_settings_are_refused(tmp_path: Path, image: np.ndarray) -> None:
    path = tmp_path / "o"
    complete(path, image, None)
    with pytest.raises(DataError, match="--overwrite"):
        ZarrOutput(path, **(SMALL | {"identity": "b"}))
    with pytest.raises(DataError, match="--overwrite"):
        dense(ZarrOutput(path, **(SMALL | {"shard": (16, 16, 16)})))
    assert ZarrOutput(path, **SMALL).finished
    anew = ZarrOutput(path, **(SMALL | {"identity": "b"}), overwrite=True)
    assert not (path / "0").exists()
    fill(dense(anew), 255 - image)
    np.testing.assert_array_equal(dense(anew).finish().read(), 255 - image)


def test_a_place_that_holds_something_else(tmp_path: Path) -> None:
    foreign = tmp_path / "data"
    foreign.mkdir()
    (foreign / "raw.tif").write_bytes(b"x")
    with pytest.raises(DataError, match="choose another name"):
        ZarrOutput(foreign, **SMALL)
    with pytest.raises(DataError, match="no OME-Zarr"):
        ZarrOutput(foreign, **SMALL, overwrite=True)
    with pytest.raises(DataError):
        ZarrOutput(foreign / "raw.tif", **SMALL)
    assert files(foreign).keys() == {"raw.tif"}
    zarr.create_group(tmp_path / "other")
    with pytest.raises(DataError, match="--overwrite"):
        ZarrOutput(tmp_path / "other", **SMALL)
    assert not ZarrOutput(tmp_path / "other", **SMALL, overwrite=True).finished
    (tmp_path / "empty").mkdir()
    ZarrOutput(tmp_path / "empty", **SMALL)
    (tmp_path / "killed" / ".aequorea").mkdir(parents=True)  # before the first state was written
    ZarrOutput(tmp_path / "killed", **SMALL, overwrite=True)


def test_killed_while_overwriting(tmp_path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "o"
    complete(path, image, None)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ZarrOutput(path, **(SMALL | {"identity": "b"}), overwrite=True)
    again = ZarrOutput(path, **(SMALL | {"identity": "b"}))
    assert len(list(dense(again).pending())) == 12
    assert not (path / "1" / "c").exists()


@pytest.mark.parametrize("step", ["open", "write", "fsync", "replace"])
def test_a_full_disk_leaves_nothing_half(
    tmp_path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "o"
    layer = dense(ZarrOutput(path, **SMALL))
    fill(layer, image, 3)
    before = files(path)
    real, left = getattr(os, step), 2

    def fail(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(DataError, match="no space left") as raised:
            fill(layer, image)
    assert "\n" not in str(raised.value)
    assert not any(name.endswith(".partial") for name in files(path))
    assert before.keys() <= files(path).keys()
    again = dense(ZarrOutput(path, **SMALL))
    fill(again, image)
    np.testing.assert_array_equal(again.finish().read(), image)


def test_written_from_several_threads(tmp_path: Path, image: np.ndarray) -> None:
    layer = dense(ZarrOutput(tmp_path / "o", **SMALL))
    regions = list(layer.pending())

    def work(part: list[Region]) -> None:
        for region in part:
            layer.write(region, image[(slice(None), *region.slices)])

    threads = [threading.Thread(target=work, args=(regions[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(layer.finish().read(), image)


def test_tables(tmp_path: Path) -> None:
    output = ZarrOutput(tmp_path / "o", **SMALL)
    output.table(
        "objects",
        {
            "id": np.arange(70_000, dtype=np.uint64) + 2**60,
            "volume_um3": np.full(70_000, 1 / 3, np.float32),
            "border": np.arange(70_000) % 2 == 0,
            "name": np.array(['a,"b"'] * 70_000),
        },
    )
    with (tmp_path / "o" / "tables" / "objects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 70_000
    assert rows[1] == {"id": str(2**60 + 1), "volume_um3": "0.333333343", "border": "false", "name": 'a,"b"'}
    with pytest.raises(ValueError, match="no table"):
        output.table("bad", {"a": np.arange(2), "b": np.arange(3)})
    assert not (tmp_path / "o" / "tables" / "bad.csv").exists()
    output.table("none", {"a": np.arange(0)})
    assert (tmp_path / "o" / "tables" / "none.csv").read_bytes() == b"a\n"


CHILD = """
import sys, numpy as np
from aequorea.engine.writer import ZarrOutput
size, path = (24, 96, 96), sys.argv[1]
print("ready", flush=True)
output = ZarrOutput(path, identity="a", shard=(16, 32, 32), chunk=(8, 16, 16))
z, y, x = np.ogrid[:24, :96, :96]
array = ((z * 7919 + y * 104729 + x * 1299709) % 65521).astype(np.uint16)[None]
for name, kind in (("dense", "image"), ("objects", "label")):
    layer = output.layer(name, size=size, dtype="u2", kind=kind)
    for region in layer.pending():
        layer.write(region, array[(slice(None), *region.slices)])
    layer.finish()
output.table("objects", {"id": np.arange(5)})
output.complete()
print("done", flush=True)
"""


def test_killed_at_any_instant_resumes_to_the_same(tmp_path: Path) -> None:
    def start(path: Path) -> subprocess.Popen[str]:
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        return child

    child, began = start(tmp_path / "whole"), time.monotonic()
    assert child.communicate()[0] == "done\n"
    lasted = time.monotonic() - began
    chance = random.Random(5)
    for _ in range(3):
        child = start(tmp_path / "killed")
        time.sleep(chance.uniform(0, 0.6 * lasted))
        child.kill()
        child.communicate()
    assert start(tmp_path / "killed").communicate()[0] == "done\n"
    whole, killed = (
        {
            str(p.relative_to(tmp_path / name)): p.read_bytes()
            for p in (tmp_path / name).rglob("*")
            if p.is_file() and "journal" not in p.parts
        }
        for name in ("whole", "killed")
    )
    assert whole == killed
