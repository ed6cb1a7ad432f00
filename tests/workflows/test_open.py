from __future__ import annotations

import dask.array
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

import aequorea
from aequorea.errors import AequoreaError, FormatError
from aequorea.volume import Region
from aequorea.workflows.open import open, open_many

VALUES = np.arange(2 * 5 * 6 * 7, dtype="u2").reshape(2, 5, 6, 7)


@pytest.mark.parametrize(
    "wrap",
    [
        np.asarray,
        lambda a: dask.array.from_array(a, chunks=2),
        lambda a: zarr.create_array({}, data=a, chunks=(1, 2, 3, 4)),
        lambda a: a.astype(">u2"),
    ],
)
def test_arrays(wrap):
    volume = open(wrap(VALUES), spacing=(2, 1, 1))
    assert volume.spacing == (2.0, 1.0, 1.0)
    assert volume.dtype == np.dtype("u2")
    np.testing.assert_array_equal(volume.read(), VALUES)
    part = Region((1, 2, 3), (4, 5, 6))
    np.testing.assert_array_equal(volume.read(part), VALUES[:, 1:4, 2:5, 3:6])
    second = open(wrap(VALUES), axes="TZYX", time=1)
    np.testing.assert_array_equal(second.read(part)[0], VALUES[1, 1:4, 2:5, 3:6])
    assert all(n <= m for n, m in zip(second.chunks, (5, 6, 7)))
    np.testing.assert_array_equal(open(wrap(VALUES), channel=1).read()[0], VALUES[1])


def test_dimensions_of_a_zarr_array_are_read():
    array = zarr.create_array({}, data=VALUES, dimension_names=["t", "z", "y", "x"])
    with pytest.raises(FormatError, match="--time"):
        open(array)
    np.testing.assert_array_equal(open(array, time=1).read()[0], VALUES[1])


def test_volumes_come_back():
    volume = open(VALUES)
    assert open(volume) is volume
    again = open(volume, spacing=(1, 1, 1), channel="1")
    assert again.spacing == (1.0, 1.0, 1.0)
    np.testing.assert_array_equal(again.read()[0], VALUES[1])
    with pytest.raises(FormatError, match="axes= cannot be picked"):
        open(volume, axes="CZYX")
    with pytest.raises(FormatError, match="no channel"):
        open(volume, channel=2)


@pytest.mark.parametrize(
    "source", [None, 3, [1, 2], np.zeros((1, 1, 5, 6, 7)), np.array(["a"]), np.zeros((0, 3, 4))]
)
def test_what_is_no_image(source):
    with pytest.raises(AequoreaError):
        open(source)


def test_arrays_hold_nothing_to_pick():
    with pytest.raises(FormatError, match="scene= picks in a file"):
        open(VALUES, axes="CZYX", scene=1)


def test_the_public_name():
    assert aequorea.open is open


def test_many_time_points(tmp_path):
    values = np.arange(11 * 2 * 3 * 4 * 5, dtype="u2").reshape(11, 2, 3, 4, 5)
    tifffile.imwrite(tmp_path / "a.ome.tif", values, ome=True, metadata={"axes": "TCZYX"})
    found = list(open_many(tmp_path / "a.ome.tif"))
    assert [name for name, _ in found] == [f"a_t{t:02d}" for t in range(11)]
    for (_, volume), expected in zip(found, values):
        np.testing.assert_array_equal(volume.read(), expected)
    [(name, volume)] = open_many(tmp_path / "a.ome.tif", time=3, channel=1)
    assert name == "a"
    np.testing.assert_array_equal(volume.read()[0], values[3, 1])


def test_many_scenes(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        file.write(np.zeros((2, 5, 6, 7), "u1"), metadata={"axes": "TZYX", "Name": "first"})
        file.write(np.ones((4, 8, 9), "u1"), metadata={"axes": "ZYX", "Name": "second"})
    found = dict(open_many(tmp_path / "a.ome.tif"))
    assert {name: volume.shape for name, volume in found.items()} == {
        "a_0_t0": (1, 5, 6, 7),
        "a_0_t1": (1, 5, 6, 7),
        "a_1": (1, 4, 8, 9),
    }
    assert [name for name, _ in open_many(tmp_path / "a.ome.tif", scene="second")] == ["a"]


def test_many_files(tmp_path):
    for i in (10, 9):
        Image.fromarray(np.full((6, 7), i, "u1")).save(tmp_path / f"p{i}.png")
    np.save(tmp_path / "p9.npy", np.zeros((3, 4, 5)))
    found = dict(open_many(tmp_path, many="each"))
    assert list(found) == ["p9.npy", "p9.png", "p10"]
    assert found["p9.png"].read().max() == 9
    with pytest.raises(FormatError, match="--sequence"):
        list(open_many(tmp_path))


def test_names_are_unlike_and_fit_for_files(tmp_path):
    group = zarr.open_group(tmp_path / "my plate.zarr", mode="w", zarr_format=2)
    group.attrs["plate"] = {"wells": [{"path": "A/1"}]}
    group.require_group("A/1").attrs["well"] = {"images": [{"path": "0"}, {"path": "1"}]}
    for field in ("0", "1"):
        image = group.create_group(f"A/1/{field}")
        image.create_array("0", data=np.zeros((5, 6, 7), "u1"))
        axes = [{"name": a, "type": "space"} for a in "zyx"]
        image.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0"}]}]
    assert [name for name, _ in open_many(tmp_path / "my plate.zarr")] == ["my-plate_A-1-0", "my-plate_A-1-1"]
