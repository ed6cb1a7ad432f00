"""Only what a region touches is read and decoded, and not twice."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile

from aequorea.formats import tiff
from aequorea.volume import Region
from aequorea.workflows.open import open


@pytest.fixture
def decoded(monkeypatch):
    """The segments that were decoded: (page, number)."""
    seen = []
    inner = tiff._Pages._segment
    monkeypatch.setattr(tiff._Pages, "_segment", lambda self, p, n: seen.append((p, n)) or inner(self, p, n))
    return seen


def test_tiles_of_a_tiff(tmp_path, decoded):
    values = np.random.default_rng(0).integers(0, 99, (10, 64, 96)).astype("u2")
    tifffile.imwrite(tmp_path / "a.tif", values, tile=(16, 32), compression="zlib")
    volume = open(tmp_path / "a.tif")
    assert volume.chunks == (1, 16, 32)
    assert not decoded
    volume.read(Region((2, 10, 30), (4, 20, 33)))
    assert sorted(decoded) == [(p, n) for p in (2, 3) for n in (0, 1, 3, 4)]
    volume.read(Region((2, 0, 0), (4, 32, 64)))
    assert len(decoded) == 8


def test_strips_of_a_tiff(tmp_path, decoded):
    values = np.random.default_rng(0).integers(0, 99, (10, 64, 96)).astype("u2")
    tifffile.imwrite(tmp_path / "a.tif", values, rowsperstrip=8, compression="lzw")
    volume = open(tmp_path / "a.tif")
    assert volume.chunks == (1, 8, 96)
    volume.read(Region((9, 10, 30), (10, 20, 33)))
    assert sorted(decoded) == [(9, 1), (9, 2)]


def test_two_files_are_never_mixed_up(tmp_path):
    for i in range(2):
        tifffile.imwrite(tmp_path / f"{i}.tif", np.full((3, 20, 30), i, "u1"), compression="zlib")
    a, b = (open(tmp_path / f"{i}.tif") for i in range(2))
    assert (a.read(), b.read())[1].max() == 1
    assert a.read().max() == 0
    tifffile.imwrite(tmp_path / "0.tif", np.full((3, 20, 30), 9, "u1"), compression="zlib")
    assert open(tmp_path / "0.tif").read().max() == 9


def test_no_file_stays_open(tmp_path, make):
    listed = Path("/proc/self/fd")
    if not listed.is_dir():
        pytest.skip("counts open files by /proc")
    volumes = []
    before = len(list(listed.iterdir()))
    for name in ("tiff_plain", "tiff_ome_tiles", "hdf5_plain", "npy", "nifti", "sequence_of_tiff", "png"):
        (tmp_path / name).mkdir()
        made = make(name, tmp_path / name)
        volumes += [open(made.path, **made.options) for _ in range(5)]
    for volume in volumes:
        volume.read()
    assert len(list(listed.iterdir())) <= before + 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("name", ["tiff_ome_tiles", "hdf5_imaris", "tiff_plain", "nifti_packed_scaled_time"])
def test_forked_children_read_too(tmp_path, make, name):
    made = make(name, tmp_path)
    volume = open(made.path, **made.options)
    volume.read(Region((0, 0, 0), (1, 1, 1)))
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            same = all(np.array_equal(volume.read(), made.truth) for _ in range(20))
            os._exit(0 if same else 1)
        children.append(child)
    assert all(np.array_equal(volume.read(), made.truth) for _ in range(20))
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]


def test_packed_nifti_is_unpacked_once_and_leaves_nothing(tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    values = np.arange(5 * 6 * 7, dtype="i2").reshape(7, 6, 5)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii.gz")
    unpacked = []
    inner = gzip.open
    volume = open(tmp_path / "a.nii.gz")
    monkeypatch.setattr(
        "aequorea.formats.nifti.gzip.open", lambda *a, **k: unpacked.append(a) or inner(*a, **k)
    )
    for _ in range(3):
        np.testing.assert_array_equal(volume.read()[0], values.T)
    assert len(unpacked) == 1
    del volume
    assert list(scratch.iterdir()) == []


def test_the_header_of_an_npy_is_read_once(tmp_path, monkeypatch):
    """Before Python 3.12 two threads cannot read one at a time."""
    array = np.arange(24, dtype=">u2").reshape(2, 3, 4)
    np.save(tmp_path / "a.npy", np.asfortranarray(array))
    volume = open(tmp_path / "a.npy", axes="ZYX")
    monkeypatch.setattr(np, "load", None)
    np.testing.assert_array_equal(volume.read(Region((0, 1, 0), (2, 3, 4)))[0], array[:, 1:])
