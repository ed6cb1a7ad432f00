import numpy as np
import pytest
from skimage.metrics import adapted_rand_error

from aequorea.annotations import LabelImage
from aequorea.errors import DataError
from aequorea.scores import matching, overlap, skeleton, surface, volumes
from aequorea.volume import from_array

SPACING = (2.0, 0.5, 0.5)


@pytest.fixture
def pair(rng):
    blobs = [np.kron(rng.integers(0, 4, (3, 4, 4)), np.ones((4, 6, 6), int)) for _ in range(2)]
    return blobs[0].astype(np.uint8), np.where(rng.random(blobs[0].shape) < 0.7, *blobs).astype(np.uint16)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(volumes, "BLOCK", (5, 7, 9))


def test_class_scores_are_those_of_the_whole_arrays(pair, small_blocks):
    truth, pred = pair
    ignore = truth == 3
    scores = volumes.class_scores(
        from_array(pred), LabelImage(from_array(truth, SPACING), unlabelled=3), {1: "axon", 2: "soma"}
    )
    for number, name in ((1, "axon"), (2, "soma")):
        masks = truth == number, pred == number
        assert scores[f"dice.{name}"] == overlap.dice(*masks, ignore)
        assert scores[f"cldice.{name}"] == pytest.approx(skeleton.cldice(*masks, ignore))
        assert scores[f"hd95_um.{name}"] == pytest.approx(surface.hd95(*masks, SPACING, ignore))
        assert scores[f"surface_distance_um.{name}"] == pytest.approx(
            surface.average_surface_distance(*masks, SPACING, ignore)
        )
    assert scores["iou"] == pytest.approx((scores["iou.axon"] + scores["iou.soma"]) / 2)
    assert "tp" not in scores


def test_one_class_has_plain_names_and_says_its_unit(pair, small_blocks):
    truth, pred = pair
    scores = volumes.class_scores(from_array(pred), LabelImage(from_array(truth)), {1: "axon"})
    assert scores["dice"] == overlap.dice(truth == 1, pred == 1)
    assert "hd95_voxels" in scores and "hd95_um" not in scores


def test_skeletons_of_large_volumes_are_drawn_in_blocks(pair, monkeypatch):
    truth, pred = pair
    monkeypatch.setattr(volumes, "SKELETON_VOXELS", 10)
    scores = volumes.class_scores(from_array(pred), LabelImage(from_array(truth)), {1: "axon"})
    assert scores["cldice"] == pytest.approx(skeleton.cldice(truth == 1, pred == 1))


def test_object_scores_are_those_of_the_whole_arrays(pair, small_blocks):
    truth, pred = pair
    scores = volumes.object_scores(from_array(pred), LabelImage(from_array(truth), unlabelled=2))
    expected = matching.instance_scores(np.where(truth == 2, 0, truth), pred, truth == 2)
    assert {name: scores[name] for name in expected} == pytest.approx(expected)
    assert scores["dice"] == overlap.dice(truth > 0, pred > 0, truth == 2)
    plain = volumes.object_scores(from_array(pred), LabelImage(from_array(truth)))
    assert plain["rand_error"] == pytest.approx(adapted_rand_error(truth.astype(int), pred.astype(int))[0])


def test_zero_may_mean_unlabelled(pair):
    """Then 1 is background and objects begin at 2, as strokes are painted."""
    truth, pred = pair
    scores = volumes.object_scores(from_array(pred), LabelImage(from_array(truth), unlabelled=0))
    expected = matching.instance_scores(np.maximum(truth.astype(int) - 1, 0), pred, truth == 0)
    assert {name: scores[name] for name in expected} == pytest.approx(expected)


def test_grids_must_agree():
    with pytest.raises(DataError, match=r"labels of \(1, 4, 4\)"):
        volumes.object_scores(
            from_array(np.zeros((5, 5), int)), LabelImage(from_array(np.zeros((4, 4), int)))
        )
