"""Basins and their merging, against a slow oracle that follows the definitions voxel by voxel."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from aequorea.errors import DataError
from aequorea.signal.basins import find_basins, label_objects, offsets, paint, step_weights


def oracle(foreground, height, spacing, neighbours, tau, min_voxels=1):
    """The definitions, with dictionaries and whole numbers."""
    size = foreground.shape
    steps = [tuple(s) for s in offsets(neighbours)]
    weight = {s: int(w) for s, w in zip(steps, step_weights(spacing, neighbours))}
    inside = [v for v in product(*map(range, size)) if foreground[v]]
    known = set(inside)
    h = {v: int(height[v]) for v in inside}
    place = {v: n for n, v in enumerate(product(*map(range, size)))}

    def around(v):
        for s in steps:
            u = (v[0] + s[0], v[1] + s[1], v[2] + s[2])
            if u in known:
                yield s, u

    def above(u, v):
        return (h[u], -place[u]) > (h[v], -place[v])

    peak = {}
    for v in inside:
        at = v
        while True:
            best = None
            for s, u in around(at):
                if above(u, at) and (best is None or (h[u] - h[at]) * weight[s] > best[0]):
                    best = ((h[u] - h[at]) * weight[s], u)
            if best is None:
                break
            at = best[1]
        peak[v] = at
    edges = []
    for v in inside:
        for k, s in enumerate(steps[len(steps) // 2 :]):
            u = (v[0] + s[0], v[1] + s[1], v[2] + s[2])
            if u in known and peak[u] != peak[v]:
                edges.append((-min(h[u], h[v]), place[v], k, peak[v], peak[u]))
    parent = {p: p for p in peak.values()}

    def find(p):
        while parent[p] != p:
            p = parent[p]
        return p

    for saddle, _, _, a, b in sorted(edges):
        a, b = find(a), find(b)
        if a == b:
            continue
        low, high = (a, b) if above(b, a) else (b, a)
        assert h[low] + saddle >= 0  # persistence is never negative
        if h[low] + saddle < tau:
            parent[low] = high
    counts: dict = {}
    for v in inside:
        counts[find(peak[v])] = counts.get(find(peak[v]), 0) + 1
    number = {
        p: n
        for n, p in enumerate(sorted((p for p, c in counts.items() if c >= min_voxels), key=place.get), 1)
    }
    out = np.zeros(size, np.uint32)
    for v in inside:
        out[v] = number.get(find(peak[v]), 0)
    return out


@st.composite
def maps(draw, most=7):
    size = tuple(draw(st.integers(1, most)) for _ in range(3))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    kind = draw(st.sampled_from(["noise", "levels", "constant", "smooth", "extremes"]))
    height = {
        "noise": lambda: rng.integers(0, 256, size),
        "levels": lambda: rng.integers(0, 5, size) * 50,
        "constant": lambda: np.full(size, 77),
        "smooth": lambda: ndimage.gaussian_filter(rng.random(size), 1.5) * 255,
        "extremes": lambda: rng.integers(0, 2, size) * 255,
    }[kind]()
    foreground = rng.random(size) < draw(st.sampled_from([0.1, 0.3, 0.6, 0.9, 1.0]))
    spacing = draw(st.sampled_from([None, (1.0, 1.0, 1.0), (3.0, 1.0, 1.0), (2.0, 0.26, 0.31)]))
    return foreground, height.astype(np.uint8), spacing


@settings(max_examples=150, deadline=None)
@given(maps(), st.sampled_from([6, 26]), st.sampled_from([1, 10, 50, 120, 256]), st.integers(1, 4))
def test_equals_the_definitions(case, neighbours, tau, min_voxels):
    foreground, height, spacing = case
    found = label_objects(
        foreground, height, spacing=spacing, neighbours=neighbours, tau=tau, min_voxels=min_voxels
    )
    np.testing.assert_array_equal(found, oracle(foreground, height, spacing, neighbours, tau, min_voxels))


@settings(max_examples=40, deadline=None)
@given(maps(most=20), st.sampled_from([6, 26]), st.sampled_from(["constant", "tau above the range"]))
def test_no_hills_means_connected_components(case, neighbours, why):
    foreground, height, spacing = case
    if why == "constant":
        height, tau = np.full_like(height, 9), 1
    else:
        tau = 256
    found = label_objects(foreground, height, spacing=spacing, neighbours=neighbours, tau=tau)
    structure = np.ones((3, 3, 3)) if neighbours == 26 else None
    wanted, count = ndimage.label(foreground, structure)
    assert found.max(initial=0) == count
    assert len(np.unique(np.stack([found, wanted]).reshape(2, -1), axis=1).T) == len(np.unique(wanted))


@settings(max_examples=40, deadline=None)
@given(maps(most=14), st.sampled_from([6, 26]))
def test_more_persistence_never_gives_more_objects(case, neighbours):
    foreground, height, spacing = case
    basins = find_basins(np.pad(foreground, 1), np.pad(height, 1), spacing=spacing, neighbours=neighbours)
    counts = [int(paint(basins, tau).max(initial=0)) for tau in range(1, 258, 16)]
    assert counts == sorted(counts, reverse=True)


def test_every_voxel_of_the_foreground_is_labelled_and_nothing_else(rng):
    foreground, height = rng.random((9, 30, 40)) < 0.5, rng.integers(0, 256, (9, 30, 40)).astype(np.uint8)
    before = foreground.copy(), height.copy()
    np.testing.assert_array_equal(label_objects(foreground, height, spacing=None, tau=30) > 0, foreground)
    assert np.array_equal(before[0], foreground) and np.array_equal(before[1], height)


def test_persistence_is_strict_at_the_saddle():
    height = np.array([[[100, 60, 90]]], np.uint8)  # the lower peak stands 30 above the saddle
    everywhere = np.ones(height.shape, bool)
    for tau, count in ((30, 2), (31, 1)):
        assert label_objects(everywhere, height, spacing=None, tau=tau).max() == count


def test_slope_is_per_micrometre():
    height = np.zeros((3, 3, 3), np.uint8)
    height[1, 1, 1], height[0, 1, 1], height[1, 1, 0] = 10, 40, 30
    foreground = height > 0
    near_z = label_objects(foreground, height, spacing=(1, 1, 1), tau=1)
    far_z = label_objects(foreground, height, spacing=(2, 1, 1), tau=1)
    assert near_z[1, 1, 1] == near_z[0, 1, 1] and far_z[1, 1, 1] == far_z[1, 1, 0]


def test_weights_are_the_inverse_distances():
    for neighbours in (6, 26):
        weight = step_weights((2.0, 0.5, 0.5), neighbours)
        x, z = weight[neighbours // 2], weight[-1] if neighbours == 6 else weight[neighbours // 2 + 8]
        assert abs(Fraction(int(z), int(x)) - Fraction(1, 4)) < Fraction(1, 10_000)


def test_small_objects_go_after_merging():
    height = np.array([[[9, 5, 200, 5, 9, 0, 50]]], np.uint8)
    foreground = height > 0
    assert label_objects(foreground, height, spacing=None, tau=250, min_voxels=2).tolist() == [
        [[1, 1, 1, 1, 1, 0, 0]]
    ]


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 9, 9), (4, 1, 7)])
def test_empty_and_full(size):
    flat = np.zeros(size, np.uint8)
    assert label_objects(flat > 0, flat, spacing=None, tau=50).max() == 0
    assert (label_objects(flat == 0, flat, spacing=None, tau=50) == 1).all()


def test_words_that_make_no_sense_are_refused():
    ones = np.ones((2, 2, 2), np.uint8)
    with pytest.raises(DataError, match="at least one count"):
        label_objects(ones > 0, ones, spacing=None, tau=0)
    with pytest.raises(DataError, match="6 or 26"):
        label_objects(ones > 0, ones, spacing=None, tau=1, neighbours=18)
    with pytest.raises(DataError, match="uint8"):
        label_objects(ones > 0, ones.astype(np.float32), spacing=None, tau=1)
