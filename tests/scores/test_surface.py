import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

from aequorea.scores import surface
from aequorea.volume import Region

SPACINGS = st.tuples(*[st.sampled_from([0.26, 1.0, 2.0])] * 3)


@st.composite
def cases(draw, fill=0.5):
    shape = draw(array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7))
    return draw(arrays(bool, shape)), draw(arrays(bool, shape)), draw(SPACINGS)


def _oracle(truth, pred, spacing):
    """Of a plane, the distances of the 2-D image."""
    if truth.shape.count(1) == 1:
        spacing = [step for n, step in zip(truth.shape, spacing) if n > 1]
        truth, pred = truth.squeeze(), pred.squeeze()
    tensors = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (pred, truth)]
    kwargs = {"include_background": True, "spacing": list(spacing)}
    return (
        float(compute_hausdorff_distance(*tensors, percentile=95, **kwargs)),
        float(compute_average_surface_distance(*tensors, symmetric=True, **kwargs)),
    )


@given(cases())
def test_equal_to_monai(case):
    truth, pred, spacing = case
    if not truth.any() or not pred.any() or truth.shape.count(1) == 2:
        return
    measured = surface.surface_distances(truth, pred, spacing)
    assert (measured.hd95, measured.average) == pytest.approx(
        _oracle(truth, pred, spacing), rel=1e-5, abs=1e-5
    )


def test_equal_to_monai_on_blobs(rng):
    z, y, x = np.indices((14, 40, 40))
    masks = [
        (z - a) ** 2 * 16 + (y - b) ** 2 + (x - c) ** 2 < r**2
        for a, b, c, r in [(7, 20, 20, 14), (6, 23, 18, 12)]
    ]
    spacing = (2.0, 0.26, 0.26)
    measured = surface.surface_distances(*masks, spacing)
    assert (measured.hd95, measured.average) == pytest.approx(_oracle(*masks, spacing), rel=1e-5)


@given(cases())
def test_laws(case):
    truth, pred, spacing = case
    forth, back = (
        surface.surface_distances(truth, pred, spacing),
        surface.surface_distances(pred, truth, spacing),
    )
    assert forth.hd95 == back.hd95
    assert forth.average == pytest.approx(back.average)
    assert surface.hd95(truth, truth, spacing) == surface.average_surface_distance(truth, truth, spacing) == 0
    assert 0 <= forth.hd95 <= forth.diagonal
    double = surface.surface_distances(truth, pred, tuple(2 * s for s in spacing))
    assert double.hd95 == pytest.approx(2 * forth.hd95)


def test_empty_masks():
    none, some = np.zeros((3, 5, 5), bool), np.ones((3, 5, 5), bool)
    assert surface.hd95(none, none) == 0
    assert surface.hd95(some, none) == surface.hd95(none, some) == pytest.approx(np.sqrt(4 + 16 + 16))
    assert surface.hd95(some, none, (2.0, 1.0, 1.0)) == pytest.approx(np.sqrt(16 + 16 + 16))


def test_unknown_voxels_are_no_surface():
    truth = np.zeros((1, 1, 10), bool)
    truth[..., 2:5] = True
    pred = truth.copy()
    pred[..., 5:8] = True
    ignore = np.zeros_like(truth)
    ignore[..., 5:] = True
    flat = surface.surface_distances(truth[0], pred[0], ignore=ignore[0])
    assert flat.hd95 == 0


def test_one_plane_is_an_image(rng):
    """A volume of one plane has the surface of the 2-D image, and so its distances."""
    truth, pred = (np.zeros((1, 60, 60), bool) for _ in "ab")
    truth[0, 10:50, 10:50], pred[0, 10:50, 10:54] = True, True
    plane = surface.surface_distances(truth[0], pred[0])
    assert surface.surface_distances(truth, pred).hd95 == plane.hd95 == 4
    assert surface.surface_distances(truth, pred).average == plane.average
    assert len(surface.surface_points(np.ones((1, 1, 1), bool))) == 1
    tilted = truth[0][:, None]
    assert surface.surface_distances(tilted, pred[0][:, None]).hd95 == 4


@given(cases(), st.tuples(*[st.integers(1, 4)] * 3))
def test_blocks_give_the_whole_surface(case, size):
    mask, ignore, _ = case
    whole = Region.whole(mask.shape)
    found = []
    for block in whole.split(size):
        read = block.grow((1, 1, 1)).clip(whole)
        found.append(surface.block_surface(mask[read.slices], ignore[read.slices], read, block, mask.shape))
    expected = surface.surface_points(mask, ignore)
    joined = np.concatenate(found)
    assert np.array_equal(joined[np.lexsort(joined.T[::-1])], expected)
