"""What can be meant in two ways is an error that names the option which settles it."""

from __future__ import annotations

import h5py
import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from aequorea.errors import FormatError
from aequorea.workflows.open import open


def test_four_axes_without_metadata(tmp_path):
    values = np.arange(2 * 5 * 6 * 7, dtype="u2").reshape(2, 5, 6, 7)
    np.save(tmp_path / "a.npy", values)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack")
    zarr.create_array(tmp_path / "a.zarr", data=values)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = values
    for name in ("a.npy", "a.tif", "a.zarr", "a.h5"):
        with pytest.raises(FormatError, match="--axes"):
            open(tmp_path / name)
        channels = open(tmp_path / name, axes="CZYX")
        np.testing.assert_array_equal(channels.read(), values)
        second = open(tmp_path / name, axes="tzyx", time=1)
        np.testing.assert_array_equal(second.read()[0], values[1])
        turned = open(tmp_path / name, axes="ZCXY")
        np.testing.assert_array_equal(turned.read(), values.transpose(1, 0, 3, 2))
        with pytest.raises(FormatError, match="2 time points; pick one with --time 0 to --time 1"):
            open(tmp_path / name, axes="TZYX")
        with pytest.raises(FormatError, match="no time point 2"):
            open(tmp_path / name, axes="TZYX", time=2)
        with pytest.raises(FormatError, match="one letter per axis"):
            open(tmp_path / name, axes="ZYX")
        for wrong in ("CCYX", "QZYX", "CTZY"):
            with pytest.raises(FormatError, match="different letters"):
                open(tmp_path / name, axes=wrong)


def test_three_axes_are_z_y_x_and_axes_of_length_one_need_no_letter(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((5, 6, 7)))
    assert open(tmp_path / "a.npy").shape == (1, 5, 6, 7)
    np.save(tmp_path / "b.npy", np.zeros((1, 1, 5, 6, 7)))
    assert open(tmp_path / "b.npy").shape == (1, 5, 6, 7)
    assert open(tmp_path / "b.npy", axes="CYX").shape == (5, 1, 6, 7)
    np.save(tmp_path / "c.npy", np.zeros((6, 7)))
    assert open(tmp_path / "c.npy").shape == (1, 1, 6, 7)
    np.save(tmp_path / "d.npy", np.zeros(7))
    with pytest.raises(FormatError, match="is no image"):
        open(tmp_path / "d.npy")


def test_a_last_axis_that_may_be_colour(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((5, 6, 3), "u1"))
    with pytest.raises(FormatError, match="--axes YXS or --axes ZYX"):
        open(tmp_path / "a.npy")
    assert open(tmp_path / "a.npy", axes="YXS").channels == ("red", "green", "blue")
    assert open(tmp_path / "a.npy", axes="ZYX").shape == (1, 5, 6, 3)
    np.save(tmp_path / "b.npy", np.zeros((5, 6, 3), "u2"))
    assert open(tmp_path / "b.npy").shape == (1, 5, 6, 3)


def test_pages_are_z_and_it_is_said(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 6, 7), "u1"), metadata=None)
    volume = open(tmp_path / "a.tif")
    assert volume.shape == (1, 5, 6, 7)
    assert volume.spacing is None
    assert "pages taken as z" in volume.extra["axes"]


@pytest.mark.parametrize("spacing", [(1, 2), (0, 1, 1), (1, 1, -2), (1, 1, float("nan")), 3, "a,b,c"])
def test_wrong_spacing(spacing):
    with pytest.raises(FormatError, match="--spacing Z,Y,X"):
        open(np.zeros((5, 6, 7)), spacing=spacing)


def test_what_a_file_does_not_have_cannot_be_picked(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((5, 6, 7)))
    for word in ("scene", "level"):
        assert open(tmp_path / "a.npy", **{word: 0}).shape == (1, 5, 6, 7)
        with pytest.raises(FormatError, match=f"leave --{word} out"):
            open(tmp_path / "a.npy", **{word: 1})
    with pytest.raises(FormatError, match="leave --dataset out"):
        open(tmp_path / "a.npy", dataset="raw")
    with pytest.raises(FormatError, match=r"no channel 'red'; --channel takes 0 'channel 0'"):
        open(tmp_path / "a.npy", channel="red")


def test_datasets(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = np.zeros((5, 6, 7), "f4")
        file["labels/cells"] = np.ones((5, 6, 7), "u2")
        file["names"] = np.array([b"a", b"b"])
        file["table"] = np.zeros(9)
    with pytest.raises(FormatError, match=r"holds 2 datasets \(labels/cells, raw\); pick one with --dataset"):
        open(tmp_path / "a.h5")
    assert open(tmp_path / "a.h5", dataset="/labels/cells").dtype == np.uint16
    with pytest.raises(FormatError, match="no dataset 'cells'; --dataset takes labels/cells, raw"):
        open(tmp_path / "a.h5", dataset="cells")
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("raw", data=np.zeros((5, 6, 7), "f4"))
    assert open(tmp_path / "a.zarr").shape == (1, 5, 6, 7)
    group.create_array("labels/cells", data=np.ones((5, 6, 7), "u2"))
    with pytest.raises(FormatError, match=r"holds 2 arrays \(labels/cells, raw\); pick one with --dataset"):
        open(tmp_path / "a.zarr")
    assert open(tmp_path / "a.zarr", dataset="labels/cells").dtype == np.uint16
    with pytest.raises(FormatError, match="nothing called 'cells'"):
        open(tmp_path / "a.zarr", dataset="cells")


def test_units_that_nobody_named(tmp_path):
    nibabel.save(
        nibabel.Nifti1Image(np.zeros((7, 6, 5), "i2"), np.diag([0.2, 0.3, 2, 1])), tmp_path / "a.nii"
    )
    volume = open(tmp_path / "a.nii")
    assert volume.spacing is None
    assert "z 2, y 0.3, x 0.2 without a unit" in volume.extra["spacing"]
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.create_array("0", data=np.zeros((5, 6, 7), "u1"))
    scale = [{"type": "scale", "scale": [2, 0.3, 0.2]}]
    axes = [{"name": a, "type": "space"} for a in "zyx"]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    volume = open(tmp_path / "a.zarr")
    assert volume.spacing is None
    assert "z 2, y 0.3, x 0.2 without a unit" in volume.extra["spacing"]
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.zeros((5, 6, 7), "u1"),
        imagej=True,
        resolution=(5, 3),
        metadata={"spacing": 2.0, "unit": "pixel", "axes": "ZYX"},
    )
    assert open(tmp_path / "a.tif").spacing is None


def test_imagej_may_have_a_unit_for_each_axis(tmp_path):
    words = {"spacing": 500.0, "unit": "micron", "zunit": "nm", "axes": "ZYX"}
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((5, 6, 7), "u1"), imagej=True, resolution=(5, 2), metadata=words
    )
    assert open(tmp_path / "a.tif").spacing == pytest.approx((0.5, 0.5, 0.2))


def test_a_z_step_that_nobody_named(tmp_path):
    sizes = {"PhysicalSizeX": 0.2, "PhysicalSizeY": 0.3}
    tifffile.imwrite(
        tmp_path / "a.ome.tif", np.zeros((5, 6, 7), "u1"), ome=True, metadata={"axes": "ZYX", **sizes}
    )
    volume = open(tmp_path / "a.ome.tif")
    assert volume.spacing is None
    assert "no z step" in volume.extra["spacing"]
    tifffile.imwrite(
        tmp_path / "b.ome.tif", np.zeros((6, 7), "u1"), ome=True, metadata={"axes": "YX", **sizes}
    )
    np.testing.assert_allclose(open(tmp_path / "b.ome.tif").spacing, (0.3, 0.3, 0.2))


def test_several_images_in_a_tiff(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        file.write(np.zeros((5, 6, 7), "u1"), metadata={"axes": "ZYX", "Name": "first", "PhysicalSizeX": 1})
        file.write(np.ones((4, 8, 9), "u1"), metadata={"axes": "ZYX", "Name": "second"})
    with pytest.raises(FormatError, match=r"holds 2 images \(0 'first', 1 'second'\); pick one with --scene"):
        open(tmp_path / "a.ome.tif")
    for scene in (1, "1", "second"):
        assert open(tmp_path / "a.ome.tif", scene=scene).shape == (1, 4, 8, 9)
    with pytest.raises(FormatError, match="no scene 'third'; --scene takes"):
        open(tmp_path / "a.ome.tif", scene="third")


def test_scenes_of_a_plate(tmp_path, make):
    made = make("ome_zarr_plate", tmp_path)
    with pytest.raises(FormatError, match=r"4 images \(A/1/0, A/1/1, B/2/0, B/2/1\); pick one with --scene"):
        open(made.path)
    with pytest.raises(FormatError, match="well A/1 has 2 fields; pick one with --scene A/1/0"):
        open(made.path, scene="A/1")
    with pytest.raises(FormatError, match="no scene 'C/1'"):
        open(made.path, scene="C/1")
    np.testing.assert_array_equal(open(made.path, scene=3).read(), made.truth)
    np.testing.assert_array_equal(open(made.path / "B" / "2", scene=1).read(), made.truth)
    np.testing.assert_array_equal(open(made.path / "B" / "2" / "1").read(), made.truth)


def test_levels(tmp_path, make):
    made = make("ome_zarr_05", tmp_path)
    coarse = open(made.path, level=1)
    assert coarse.size == (8, 16, 24)
    np.testing.assert_allclose(coarse.spacing, (2.0, 0.6, 0.4))
    with pytest.raises(FormatError, match="no level 2; --level takes 0 to 1"):
        open(made.path, level=2)


def test_a_folder_of_pictures(tmp_path):
    for i in range(3):
        Image.fromarray(np.full((6, 7), i, "u1")).save(tmp_path / f"{i}.png")
    with pytest.raises(FormatError, match=r"a folder of 3 images: say --sequence .* --each"):
        open(tmp_path)
    with pytest.raises(FormatError, match="3 separate images"):
        open(tmp_path, many="each")
    assert open(tmp_path, many="sequence").shape == (1, 3, 6, 7)
    assert open(tmp_path, many="sequence", axes="TYX", time=2).read().max() == 2
    assert open(tmp_path, many="sequence", axes="CYX").shape == (3, 1, 6, 7)
    Image.fromarray(np.zeros((6, 8), "u1")).save(tmp_path / "10.png")
    with pytest.raises(FormatError, match=r"10.png: is 1 x 6 x 8 of uint8, but .*0.png is 1 x 6 x 7"):
        open(tmp_path, many="sequence")


def test_a_folder_of_one_picture_or_of_stacks(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 6, 7), "u1"))
    assert open(tmp_path).shape == (1, 5, 6, 7)
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((5, 6, 7), "u1"))
    with pytest.raises(FormatError, match="say --each"):
        open(tmp_path, many="sequence")


def test_setups_of_bigdataviewer(tmp_path, make):
    made = make("hdf5_bigdataviewer", tmp_path)
    beside = made.path.with_suffix(".xml")
    words = beside.read_text()
    beside.write_text(words.replace("<channel>1</channel><tile>0", "<channel>1</channel><tile>1"))
    with pytest.raises(FormatError, match=r"2 set-ups \(0, 1\); pick one with --scene"):
        open(made.path)
    one = open(made.path, scene=1)
    np.testing.assert_allclose(one.spacing, (2.0, 0.3, 0.2))
    np.testing.assert_array_equal(one.read(), made.truth[1:])
    beside.unlink()
    assert open(made.path, scene=1).spacing is None
