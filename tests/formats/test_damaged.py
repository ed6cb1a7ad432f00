"""Files that are cut off, scrambled or not what they are called: one line, never wrong voxels."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aequorea.errors import AequoreaError, FormatError
from aequorea.volume import Region
from aequorea.workflows.open import open

relaxed = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))


def one_line(error: pytest.ExceptionInfo[AequoreaError], path: Path) -> str:
    text = str(error.value)
    assert path.name in text
    assert "\n" not in text
    return text


@relaxed
@given(share=st.floats(0, 1, exclude_max=True))
def test_cut_off(made, share, tmp_path_factory):
    if made.path.is_dir() or len(list(made.path.parent.iterdir())) > 2:
        return
    data = made.path.read_bytes()
    cut = tmp_path_factory.mktemp("cut") / made.path.name
    cut.write_bytes(data[: int(share * len(data))])
    try:
        volume = open(cut, **made.options)
        values = volume.read()
    except FormatError as error:
        assert cut.name in str(error)
        assert "\n" not in str(error)
    else:
        # what was cut held no voxels
        np.testing.assert_array_equal(values, made.truth)


@relaxed
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), early=st.booleans())
def test_scrambled(made, place, byte, early, tmp_path_factory):
    if made.path.is_dir() or len(list(made.path.parent.iterdir())) > 2:
        return
    data = bytearray(made.path.read_bytes())
    data[int(place * (min(600, len(data)) if early else len(data)))] = byte
    bad = tmp_path_factory.mktemp("bad") / made.path.name
    bad.write_bytes(data)
    try:
        volume = open(bad, **made.options)
        volume.read(Region.whole([min(8, n) for n in volume.size]))
    except AequoreaError as error:
        assert "\n" not in str(error)


def test_missing_empty_unreadable_unknown(tmp_path):
    with pytest.raises(FormatError, match="no such file") as error:
        open(tmp_path / "gone.tif")
    one_line(error, tmp_path / "gone.tif")
    (tmp_path / "empty.tif").touch()
    with pytest.raises(FormatError, match="is empty"):
        open(tmp_path / "empty.tif")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(FormatError, match=r"no known image format; known are .*tif"):
        open(tmp_path / "notes.txt")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FormatError, match="a folder without images"):
        open(tmp_path / "folder")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_no_permission(tmp_path):
    for name in ("a.tif", "b.zarr"):
        path = tmp_path / name
        if name.endswith("zarr"):
            zarr.create_array(path, shape=(2, 3, 4), dtype="u1")
        else:
            tifffile.imwrite(path, np.zeros((4, 5), "u1"))
        path.chmod(0)
        try:
            with pytest.raises(FormatError, match="no permission") as error:
                open(path)
            one_line(error, path)
        finally:
            path.chmod(0o755)


def test_no_permission_is_one_line_even_as_root(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((4, 5), "u1"))

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(FormatError, match="no permission"):
        open(path)


@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg", ".npy", ".h5", ".ims", ".nii", ".nii.gz"])
def test_named_like_one_but_none(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"this is text, not an image")
    with pytest.raises(FormatError, match=r"is named like .*begins with 74 68"):
        open(path)


def test_a_wrong_suffix_does_not_matter(tmp_path):
    values = np.arange(100, dtype="u2").reshape(5, 4, 5)
    tifffile.imwrite(tmp_path / "a.tif", values)
    shutil.move(tmp_path / "a.tif", tmp_path / "a.npy")
    volume = open(tmp_path / "a.npy")
    assert volume.format == "tiff"
    np.testing.assert_array_equal(volume.read()[0], values)


def test_complex_numbers(tmp_path):
    values = np.zeros((3, 4, 5), "c8")
    np.save(tmp_path / "a.npy", values)
    tifffile.imwrite(tmp_path / "a.tif", values)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = values
    zarr.create_array(tmp_path / "a.zarr", data=values)
    for source in ("a.npy", "a.tif", "a.h5", "a.zarr"):
        with pytest.raises(FormatError, match="complex numbers are no image") as error:
            open(tmp_path / source)
        one_line(error, tmp_path / source)
    with pytest.raises(AequoreaError, match="complex"):
        open(values)


def test_a_zarr_of_petabytes_opens_and_reads_its_fill(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(10**5,) * 3, chunks=(64,) * 3, dtype="u2", fill_value=7)
    volume = open(tmp_path / "a.zarr")
    assert volume.shape == (1, 10**5, 10**5, 10**5)
    block = volume.read(Region.at((99_990, 5, 50_000), (10, 20, 30)))
    assert block.shape == (1, 10, 20, 30)
    assert (block == 7).all()


def test_a_zarr_of_one_chunk_of_petabytes(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(10**5,) * 3, chunks=(10**5,) * 3, dtype="u2", fill_value=7)
    volume = open(tmp_path / "a.zarr")
    assert (volume.read(Region.at((99_990, 5, 50_000), (10, 20, 30))) == 7).all()


@pytest.mark.parametrize("version", [2, 3])
def test_zarr_with_damaged_metadata(tmp_path, version):
    path = tmp_path / "a.zarr"
    zarr.create_array(path, data=np.ones((4, 5, 6), "u1"), zarr_format=version)
    (path / ("zarr.json" if version == 3 else ".zarray")).write_text('{"shape": [4, 5')
    with pytest.raises(FormatError) as error:
        open(path)
    one_line(error, path)


def test_zarr_with_a_damaged_chunk(tmp_path):
    path = tmp_path / "a.zarr"
    zarr.create_array(path, data=np.arange(120, dtype="u1").reshape(4, 5, 6), chunks=(2, 5, 6))
    chunk = next(f for f in (path / "c").rglob("*") if f.is_file())
    chunk.write_bytes(chunk.read_bytes()[:5])
    with pytest.raises(FormatError, match="cannot be read") as error:
        open(path).read()
    one_line(error, path)


@pytest.mark.parametrize(
    "change",
    [
        {"datasets": [{"path": "nowhere"}]},
        {"datasets": []},
        {"axes": [{"name": "y"}, {"name": "x"}]},
        {"datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1]}]}]},
        {"datasets": 3},
    ],
)
def test_ome_zarr_with_wrong_metadata(tmp_path, change):
    path = tmp_path / "a.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=3)
    group.create_array("0", data=np.ones((4, 5, 6), "u1"))
    image = {"axes": [{"name": a, "type": "space"} for a in "zyx"], "datasets": [{"path": "0"}]} | change
    group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}
    with pytest.raises(FormatError) as error:
        open(path)
    one_line(error, path)


def test_a_folder_named_zarr_without_metadata(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(FormatError, match="not a Zarr"):
        open(tmp_path / "a.zarr")


def test_tiff_with_a_file_of_its_set_gone(tmp_path, make):
    made = make("tiff_several_files", tmp_path)
    (tmp_path / "c1.ome.tif").unlink()
    with pytest.raises(FormatError, match="of its 8 planes are missing") as error:
        open(made.path)
    one_line(error, made.path)
