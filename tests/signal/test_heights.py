"""Height maps against closed forms, and their round trip through the decoder."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from aequorea.scores.matching import match
from aequorea.signal.basins import label_objects
from aequorea.signal.heights import cap_of, heat, height_map, object_sizes, pieces

REAL = {
    "nuclei": (
        "organoid_lstree/budding_t301_nuclei",
        "organoid_lstree/budding_t305_nuclei",
        "stardist_demo/nuclei_crop",
    ),
    "cells": ("organoid_lstree/budding_t301_membrane", "plant_membrane/plant_patch_cells"),
}
SPACING = {"organoid_lstree": (2.0, 0.26, 0.26)}


def two_boxes():
    labels = np.zeros((7, 9, 20), np.uint16)
    labels[1:6, 2:7, 2:9], labels[1:6, 2:7, 9:18] = 5, 9
    return labels


def round_trip(labels, spacing, kind="mix"):
    volumes, depths = object_sizes(labels, spacing)
    height = height_map(labels, spacing, cap=cap_of(depths), kind=kind)
    smallest = round(0.05 * float(np.median(volumes)) / float(np.prod(spacing or 1)))
    stored = np.rint(200 * height).clip(0, 255).astype(np.uint8)
    return label_objects(labels > 0, stored, spacing=spacing, tau=50, min_voxels=smallest)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9999), st.sampled_from([None, (2.0, 0.5, 0.7)]))
def test_distance_is_to_the_nearest_voxel_of_something_else(seed, spacing):
    rng = np.random.default_rng(seed)
    labels = ndimage.zoom(rng.integers(0, 4, (3, 4, 4)), (2, 4, 4), order=0)
    height = height_map(labels, spacing, cap=1.5, kind="capped")
    steps = np.array(spacing or (1, 1, 1))
    where = np.argwhere(labels >= 0)
    for at in rng.choice(where, 12):
        if labels[tuple(at)] == 0:
            assert height[tuple(at)] == 0
            continue
        others = where[labels.ravel() != labels[tuple(at)]]
        distance = np.sqrt((((others - at) * steps) ** 2).sum(1)).min(initial=np.inf)
        assert height[tuple(at)] == pytest.approx(min(distance / 1.5, 1), abs=1e-6)


def test_the_border_of_the_volume_is_no_border():
    labels = np.ones((1, 30, 30), np.uint8)
    labels[:, :, 20:] = 0
    height = height_map(labels, None, cap=100.0, kind="capped")
    np.testing.assert_allclose(height[0, 0, :20], np.arange(20, 0, -1) / 100, atol=1e-6)
    assert (height_map(np.ones((3, 3, 3), int), None, cap=5.0) == 1).all()


def test_heat_solves_its_equation():
    mask = np.zeros((7, 13, 11), bool)
    mask[1:6, 1:12, 1:10] = ndimage.gaussian_filter(np.random.default_rng(0).random((5, 11, 9)), 1) > 0.45
    mask, _ = ndimage.label(mask)
    mask = mask == 1
    spacing = (2.0, 0.5, 0.5)
    found = heat(mask, spacing)
    warmth = np.expm1(found * np.log1p(1000)) / 1000
    weights = (0.5 / np.array(spacing)) ** 2
    flow = np.zeros(mask.shape)
    for axis, weight in enumerate(weights):
        for by in (1, -1):
            flow += weight * (warmth - np.roll(warmth, by, axis))
    flow[~mask] = 0
    source = np.unravel_index(flow.argmax(), flow.shape)
    assert found[source] == 1 and (found[~mask] == 0).all()
    flow[source] = 0
    assert np.abs(flow).max() < 1e-4


def test_heat_has_one_peak_in_a_bent_object():
    bow = np.zeros((1, 40, 40), bool)
    angle = np.linspace(0, np.pi * 1.4, 400)
    bow[0, (20 + 14 * np.sin(angle)).astype(int), (20 + 14 * np.cos(angle)).astype(int)] = True
    bow = ndimage.binary_dilation(bow, np.ones((1, 3, 3)))
    stored = np.rint(heat(bow, None) * 200).astype(np.uint8)
    assert label_objects(bow, stored, spacing=None, tau=2).max() == 1


@pytest.mark.parametrize(("kind", "least"), [("mix", 0.9), ("capped", 0.7)])  # flat edges go to either side
def test_touching_boxes_come_apart_at_their_border(kind, least):
    labels = two_boxes()
    found = round_trip(labels, (1.0, 1.0, 1.0), kind)
    np.testing.assert_array_equal(found > 0, labels > 0)
    pair = match(labels, found, threshold=least)
    assert (pair.tp, pair.fp, pair.fn) == (2, 0, 0)


def test_noise_below_the_rounding_changes_no_object(rng):
    labels = ndimage.zoom(rng.integers(0, 9, (3, 5, 5)), 6, order=0)
    height = height_map(labels, None, cap=2.5)
    objects = []
    for noise in (0.0, 1e-6):
        stored = (
            np.rint(200 * (height + rng.uniform(-noise, noise, height.shape))).clip(0, 255).astype(np.uint8)
        )
        objects.append(label_objects(labels > 0, stored, spacing=None, tau=50))
    assert objects[0].max() == objects[1].max() and match(*objects, threshold=0.75).ap >= 0.99


def test_sizes_and_pieces():
    labels = two_boxes()
    labels[0, 0, 0] = 5  # a slip of the brush
    volumes, depths = object_sizes(labels, (2.0, 1.0, 1.0))
    assert sorted(volumes) == [2 * 176, 2 * 225]
    assert sorted(depths) == [3.0, 3.0]
    assert len(list(pieces(labels, None))) == 3
    slip = height_map(labels, None, cap=2.0)[0, 0, 0]
    assert slip == pytest.approx(0.35)  # distance only, no heat of its own
    assert cap_of(np.array([1.0, 2.0, 3.0, 4.0, 5.0, np.inf])) == 2.0 and cap_of(np.array([])) == 1.0


@pytest.mark.parametrize(("kind", "bar"), [("nuclei", 0.98), ("cells", 0.88)])
def test_round_trip_of_real_labels(real_data, kind, bar):
    scores = []
    for name in REAL[kind]:
        labels = tifffile.imread(real_data / "open" / f"{name}_label.tif")[:40, :128, :128]
        spacing = SPACING.get(name.split("/")[0])
        scores.append(match(labels, round_trip(labels, spacing)).f1)
    assert np.mean(scores) >= bar


def test_round_trip_of_real_labels_in_2d(real_data):
    files = sorted((real_data / "open" / "dsb2018_fluo" / "labels").glob("*.tif"))[::4]
    scores = [match(a, round_trip(a, None)).f1 for a in (tifffile.imread(f)[None] for f in files)]
    assert len(scores) >= 3 and np.mean(scores) >= 0.98
