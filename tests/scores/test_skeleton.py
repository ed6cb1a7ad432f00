import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.ndimage import label
from skimage.morphology import skeletonize

from aequorea.scores import skeleton


def _tube(shape=(20, 20, 40), radius=3, centre=10):
    z, y, _ = np.indices(shape)
    return (z - centre) ** 2 + (y - centre) ** 2 <= radius**2


def test_a_thinner_tube_is_as_good():
    assert skeleton.cldice(_tube(), _tube(radius=1)) == 1


def test_a_broken_tube_loses_what_is_missing():
    truth, pred = _tube(), _tube()
    pred[:, :, 10:30] = False
    counts = skeleton.skeleton_counts(truth, pred)
    assert counts.pred_covered == counts.pred
    assert counts.truth_covered / counts.truth == pytest.approx(0.5, abs=0.1)


def test_a_tube_beside_it_is_worth_nothing():
    assert skeleton.cldice(_tube(radius=2, centre=5), _tube(radius=2, centre=14)) == 0


def test_one_plane_is_treated_as_an_image(rng):
    mask = rng.random((24, 24)) < 0.7
    assert np.array_equal(skeleton.skeleton(mask[None])[0], skeletonize(mask))
    other = np.roll(mask, 1, axis=0)
    assert skeleton.cldice(mask[None], other[None]) == skeleton.cldice(mask, other)


@given(st.data())
def test_laws(data):
    shape = data.draw(array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=8))
    truth, pred, ignore = (data.draw(arrays(bool, shape)) for _ in range(3))
    value = skeleton.cldice(truth, pred, ignore)
    assert 0 <= value <= 1
    assert value == pytest.approx(skeleton.cldice(pred, truth, ignore))
    assert skeleton.cldice(truth, truth, ignore) == 1


def test_empty_masks():
    none, some = np.zeros((4, 4, 4), bool), np.ones((4, 4, 4), bool)
    assert skeleton.cldice(none, none) == 1
    assert skeleton.cldice(some, none) == skeleton.cldice(none, some) == 0


@given(st.data())
def test_every_piece_has_a_line(data):
    mask = data.draw(arrays(bool, data.draw(array_shapes(min_dims=2, max_dims=3, min_side=2, max_side=7))))
    line = skeleton.skeleton(mask)
    assert not (line & ~mask).any()
    pieces, n = label(mask, np.ones((3,) * mask.ndim))
    assert set(np.unique(pieces[line])) == set(range(1, n + 1))


def test_counts_add():
    one = skeleton.skeleton_counts(_tube(), _tube(radius=1))
    both = one + skeleton.skeleton_counts(_tube(radius=2, centre=5), _tube(radius=2, centre=14))
    assert 0 < both.cldice < one.cldice
