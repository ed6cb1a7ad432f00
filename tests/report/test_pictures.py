from io import BytesIO

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from aequorea.report import pictures
from aequorea.report.pictures import ERROR_COLOURS, FALSE, MISSED, POOR, RIGHT, Key, Overlay
from aequorea.scores.matching import match
from aequorea.volume import Region, from_array


def _open(png):
    return np.asarray(Image.open(BytesIO(png)).convert("RGB")).astype(int)


def _blob(shape=(12, 40, 40)):
    z, y, x = np.indices(shape)
    return ((z - 6) ** 2 * 9 + (y - 18) ** 2 + (x - 22) ** 2 < 100).astype(np.uint16)


def test_planes_are_those_of_the_volume(rng):
    array = rng.integers(0, 99, (5, 7, 9))
    planes = pictures.cut(from_array(array), (2, 3, 4))
    assert np.array_equal(planes.xy, array[2])
    assert np.array_equal(planes.xz, array[:, 3])
    assert np.array_equal(planes.yz, array[:, :, 4].T)
    part = pictures.cut(from_array(array), (2, 3, 4), Region((1, 2, 3), (4, 6, 8)))
    assert np.array_equal(part.xy, array[2, 2:6, 3:8])
    assert np.array_equal(part.yz, array[1:4, 2:6, 4].T)
    assert part.at == (1, 1, 1)


def test_only_the_planes_are_read():
    read = []

    class Watched:
        shape, dtype = (30, 40, 50), np.dtype(np.uint8)

        def __getitem__(self, index):
            block = np.zeros(self.shape, np.uint8)[index]
            read.append(block.size)
            return block

    pictures.cut(from_array(Watched()), (1, 2, 3))
    assert sum(read) == 40 * 50 + 30 * 50 + 30 * 40


def test_several_channels_are_shown_together():
    array = np.zeros((2, 3, 8, 8))
    array[0, :, 2], array[1, :, 5] = 10, 5000
    planes = pictures.cut(from_array(array), (1, 2, 3))
    assert planes.xy[2].min() > 0.9 and planes.xy[5].min() > 0.9 and planes.xy[0].max() < 0.1


def test_voxels_keep_their_proportions():
    mask = _blob()
    planes = pictures.cut(from_array(mask), pictures.busiest(mask))
    picture = _open(pictures.draw(planes, (2.0, 0.5, 0.5), width=900))
    # 40 × 0.5 µm in plane beside 12 × 2 µm in depth.
    assert picture.shape == pytest.approx((900, 900, 3), abs=2)
    flat = _open(pictures.draw(planes, (0.1, 0.5, 0.5), width=900))
    assert flat.shape[1] == pytest.approx(900, abs=2)
    assert (flat.shape[0] - 8) / (flat.shape[1] - 8) == pytest.approx(1, abs=0.01)


def test_a_single_plane_is_shown_alone():
    image = from_array(np.eye(20))
    picture = _open(pictures.draw(pictures.cut(image, (0, 10, 10)), None, width=200))
    assert picture.shape == (200, 200, 3)


def test_outlines_lie_on_the_border_of_labels():
    mask = _blob()
    planes = pictures.cut(from_array(np.zeros(mask.shape)), (6, 18, 22))
    labels = pictures.cut(from_array(mask), (6, 18, 22))
    red = _open(pictures.draw(planes, None, [Overlay(labels, {1: (255, 0, 0)})], width=1060))
    scale = 1052 / 52
    y, x = np.nonzero((red[..., 0] > 128) & (red[..., 1] < 60))
    in_xy = (y < 40 * scale) & (x < 40 * scale)
    radius = np.hypot(y[in_xy] / scale - 18.5, x[in_xy] / scale - 22.5)
    assert radius.size > 300
    assert radius.min() > 9 and radius.max() < 10.6


def test_fill_blends_and_labels_without_colour_are_left_clear():
    labels = np.zeros((1, 10, 20), int)
    labels[..., :10], labels[..., 10:] = 1, 2
    planes = pictures.cut(from_array(np.zeros((1, 10, 20))), (0, 5, 5))
    overlay = Overlay(pictures.cut(from_array(labels), (0, 5, 5)), {1: (200, 100, 0)}, fill=0.5, line=0)
    picture = _open(pictures.draw(planes, None, [overlay], width=200))
    assert picture[30, 50] == pytest.approx([100, 50, 0], abs=1)
    assert picture[30, 150].max() == 0


def test_the_scale_bar_is_as_long_as_it_says():
    planes = pictures.cut(from_array(np.zeros((1, 100, 100))), (0, 5, 5))
    picture = _open(pictures.draw(planes, (1.0, 0.5, 0.5), limits=(0, 1), width=500))
    row = picture[500 - 16]
    # A third of 50 µm leaves room for 10 µm, a fifth of the width.
    assert np.count_nonzero(row.min(axis=1) == 255) == pytest.approx(100, abs=2)


def test_keys_are_written_where_there_is_room():
    planes = pictures.cut(from_array(np.zeros((30, 30, 30))), (5, 5, 5))
    key = [Key("missed", ERROR_COLOURS[MISSED])]
    picture = _open(pictures.draw(planes, None, keys=key))
    assert np.any(np.all(picture == ERROR_COLOURS[MISSED], axis=2))
    flat = pictures.cut(from_array(np.zeros((2, 30, 30))), (1, 5, 5))
    assert pictures.draw(flat, None, keys=key) == pictures.draw(flat, None)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_anything_can_be_drawn(data):
    shape = data.draw(array_shapes(min_dims=3, max_dims=3, max_side=12))
    image = data.draw(
        arrays(np.float32, shape, elements=st.floats(width=32, allow_nan=True, allow_infinity=True))
    )
    labels = data.draw(arrays(np.int64, shape, elements=st.sampled_from([0, 1, 7, 10**12])))
    at = pictures.busiest(labels)
    where = pictures.frame(labels, at, None)
    cuts = [pictures.cut(from_array(a), at, where) for a in (image, labels)]
    picture = _open(pictures.draw(cuts[0], None, [Overlay(cuts[1])], width=120))
    assert picture.shape[1] <= 121


@settings(max_examples=50)
@given(st.data())
def test_the_frame_holds_the_mask(data):
    mask = data.draw(arrays(bool, array_shapes(min_dims=3, max_dims=3, max_side=9)))
    at = pictures.busiest(mask)
    box = pictures.frame(mask, at, (2.0, 1.0, 1.0))
    assert mask[box.slices].sum() == mask.sum()
    assert all(a <= b < c for a, b, c in zip(box.start, at, box.stop))
    assert not mask.any() or mask[at]


def test_error_codes_of_voxels():
    truth, pred = np.array([0, 1, 1, 0, 1, 2]), np.array([0, 1, 0, 1, 2, 2])
    assert pictures.voxel_errors(truth, pred).tolist() == [0, RIGHT, MISSED, FALSE, POOR, RIGHT]
    assert pictures.voxel_errors(truth, pred, truth == 1).tolist() == [0, 0, 0, FALSE, 0, RIGHT]


def test_error_codes_of_objects():
    truth = np.repeat([1, 2, 3, 0], [10, 10, 10, 10])
    pred = np.repeat([1, 0, 5, 6, 7, 0], [9, 11, 5, 5, 4, 6])
    codes = pictures.object_errors(truth, pred, match(truth, pred, 0.6))
    assert codes.tolist() == [RIGHT] * 10 + [MISSED] * 10 + [POOR] * 10 + [FALSE] * 4 + [0] * 6


def test_matched_objects_have_the_colour_of_their_label():
    truth = pictures.colours_of([3, 4])
    assert pictures.colours_of([8], {8: 3})[8] == truth[3] != truth[4]


def test_many_labels_are_drawn_quickly():
    labels = np.arange(1, 10_001).reshape(1, 100, 100)
    planes = pictures.cut(from_array(labels), (0, 50, 50))
    assert _open(pictures.draw(planes, None, [Overlay(planes)], width=400)).shape == (400, 400, 3)


def test_a_real_volume(real_data):
    image = tifffile.imread(real_data / "open/organoid_lstree/budding_t301_nuclei.tif")
    labels = tifffile.imread(real_data / "open/organoid_lstree/budding_t301_nuclei_label.tif")
    at = pictures.busiest(labels)
    planes = [pictures.cut(from_array(a), at) for a in (image, labels)]
    plain = _open(pictures.draw(planes[0], (2.0, 0.26, 0.26)))
    over = _open(pictures.draw(planes[0], (2.0, 0.26, 0.26), [Overlay(planes[1])]))
    assert plain.shape == over.shape
    changed = np.any(plain != over, axis=2).mean()
    assert 0.002 < changed < 0.05
