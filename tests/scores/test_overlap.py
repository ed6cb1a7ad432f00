import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from monai.metrics import compute_dice, compute_iou
from sklearn.metrics import precision_score, recall_score

from aequorea.errors import DataError
from aequorea.scores import overlap

SHAPES = array_shapes(min_dims=3, max_dims=3, max_side=6)


@st.composite
def mask_pairs(draw, n=2):
    shape = draw(SHAPES)
    return tuple(draw(arrays(bool, shape)) for _ in range(n))


@given(mask_pairs())
def test_equal_to_monai(pair):
    truth, pred = pair
    tensors = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (pred, truth)]
    kwargs = {"include_background": True, "ignore_empty": False}
    assert overlap.dice(truth, pred) == pytest.approx(float(compute_dice(*tensors, **kwargs)))
    if truth.any() or pred.any():
        assert overlap.iou(truth, pred) == pytest.approx(float(compute_iou(*tensors, **kwargs)))


@given(mask_pairs())
def test_equal_to_sklearn(pair):
    truth, pred = (mask.ravel() for mask in pair)
    if pred.any():
        assert overlap.precision(truth, pred) == pytest.approx(precision_score(truth, pred))
    if truth.any():
        assert overlap.recall(truth, pred) == pytest.approx(recall_score(truth, pred))


@given(mask_pairs(3))
def test_laws(triple):
    truth, pred, ignore = triple
    counts = overlap.count(truth, pred, ignore)
    assert counts.tp + counts.fp + counts.fn + counts.tn == np.count_nonzero(~ignore)
    for name in ("dice", "iou"):
        value = getattr(counts, name)
        assert 0 <= value <= 1
        assert value == getattr(overlap.count(pred, truth, ignore), name)
    assert overlap.dice(truth, truth, ignore) == overlap.iou(truth, truth, ignore) == 1
    swapped = overlap.count(pred, truth, ignore)
    assert (counts.precision, counts.recall) == (swapped.recall, swapped.precision)


@given(mask_pairs(3), st.integers(0, 6))
def test_blocks_add_up(triple, cut):
    truth, pred, ignore = triple
    parts = [overlap.count(*(m[where] for m in triple)) for where in (np.s_[:cut], np.s_[cut:])]
    assert parts[0] + parts[1] == overlap.count(truth, pred, ignore)


def test_ignored_voxels_do_not_count():
    truth = np.array([1, 1, 0, 0])
    pred = np.array([1, 0, 1, 0])
    assert overlap.dice(truth, pred) == 0.5
    assert overlap.dice(truth, pred, ignore=np.array([0, 1, 1, 0])) == 1


def test_empty_masks():
    none, some = np.zeros((2, 2), bool), np.ones((2, 2), bool)
    assert overlap.dice(none, none) == overlap.precision(none, none) == overlap.recall(none, none) == 1
    assert overlap.dice(some, none) == overlap.precision(some, none) == overlap.recall(none, some) == 0


def test_classes_are_counted_apart():
    truth = np.array([0, 1, 1, 2])
    pred = np.array([0, 1, 2, 2])
    counts = overlap.count_classes(truth, pred, (1, 2))
    assert counts[1] == overlap.Counts(tp=1, fp=0, fn=1, tn=2)
    assert counts[2] == overlap.Counts(tp=1, fp=1, fn=0, tn=2)


def test_shapes_must_agree():
    with pytest.raises(DataError, match="different shapes"):
        overlap.dice(np.zeros((2, 2)), np.zeros((2, 3)))
