"""Measures of objects against scikit-image's."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.measure import regionprops

from aequorea.signal.measure import add_up, gather, measure_block, object_table
from aequorea.volume import Region


@pytest.fixture
def labels(rng):
    return rng.integers(0, 9, (6, 20, 17)).astype(np.uint32)


def measured(labels, image, probability, block):
    regions = list(Region.whole(labels.shape).split(block))
    parts = [
        measure_block(
            labels[r.slices], r.start, labels.shape, probability[r.slices], image[(slice(None), *r.slices)]
        )
        for r in regions
    ]
    half = len(parts) // 2
    sums = add_up([gather(parts[:half]), gather(parts[half:])], int(labels.max()))
    return object_table(sums, (2.0, 0.5, 0.25), ("a", "b"))


@pytest.mark.parametrize("block", [(6, 20, 17), (4, 7, 5)])
def test_equals_scikit_image(labels, rng, block):
    image = rng.integers(0, 60000, (2, *labels.shape)).astype(np.uint16)
    probability = rng.integers(0, 256, labels.shape).astype(np.uint8)
    table = measured(labels, image, probability, block)
    for row, found in enumerate(regionprops(labels.astype(int), np.moveaxis(image, 0, -1))):
        assert table["id"][row] == found.label and table["voxels"][row] == found.area
        np.testing.assert_allclose([table[c][row] for c in "zyx"], found.centroid)
        np.testing.assert_allclose(table["y_um"][row], found.centroid[1] * 0.5)
        np.testing.assert_allclose(table["volume_um3"][row], found.area * 0.25)
        np.testing.assert_allclose(
            [table["mean_intensity_a"][row], table["mean_intensity_b"][row]], found.mean_intensity
        )
        inside = labels == found.label
        np.testing.assert_allclose(table["confidence"][row], probability[inside].mean() / 255)
    assert table["touches_border"].all()


def test_border_is_that_of_the_volume_and_not_of_a_flat_axis():
    labels = np.zeros((1, 9, 9), np.uint32)
    labels[0, 3:5, 3:5], labels[0, 8, 4] = 1, 2
    table = measured(labels, np.zeros((2, 1, 9, 9)), np.zeros((1, 9, 9), np.uint8), (1, 4, 4))
    assert table["touches_border"].tolist() == [False, True]


def test_voxels_that_are_not_finite_are_left_out():
    labels = np.array([[[1, 1, 2]]], np.uint32)
    image = np.array([[[[np.nan, 4.0, np.inf]]], [[[1.0, 2.0, 3.0]]]])
    table = measured(labels, image, np.zeros((1, 1, 3), np.uint8), (1, 1, 3))
    assert table["mean_intensity_a"][0] == 4 and np.isnan(table["mean_intensity_a"][1])


def test_no_objects_and_no_spacing():
    labels = np.zeros((2, 3, 4), np.uint32)
    sums = add_up([gather([])], 0)
    table = object_table(sums, None, ("only",))
    assert list(table) == ["id", "z", "y", "x", "voxels", "mean_intensity", "touches_border", "confidence"]
    assert all(len(column) == 0 for column in table.values())
    assert len(measure_block(labels, (0, 0, 0), labels.shape, labels.astype(np.uint8))["id"]) == 0
