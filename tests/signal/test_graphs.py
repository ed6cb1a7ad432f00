"""Graphs of regions joined in any order, two or more at a time, say what the whole volume says."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from aequorea.signal import graphs
from aequorea.signal.basins import find_basins, merge_closed, paint
from aequorea.signal.graphs import Graph, join
from aequorea.volume import Region


def graph_of(foreground, height, region, neighbours, tau):
    """The graph of one block, and its piece of each voxel."""
    size = foreground.shape
    around = region.grow((1, 1, 1))
    seen = around.clip(Region.whole(size))
    inside, high = np.zeros(around.size, bool), np.zeros(around.size, np.uint8)
    place = seen.relative_to(around).slices
    inside[place], high[place] = foreground[seen.slices], height[seen.slices]
    found = find_basins(inside, high, spacing=None, neighbours=neighbours, start=region.start, size=size)
    basins = merge_closed(found, tau)
    return Graph.of_block(basins, high, region.start, size), basins.ids


def halves(region, cut):
    axis, at = cut
    low, high = list(region.stop), list(region.start)
    low[axis] = high[axis] = at
    return Region(region.start, tuple(low)), Region(tuple(high), region.stop)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from([6, 26]), st.sampled_from([1, 30, 90]), st.sampled_from([7, 1 << 16]))
def test_any_tree_of_cuts_gives_the_objects_of_the_whole(data, neighbours, tau, at_once):
    with patch.object(graphs, "AT_ONCE", at_once):
        check_a_tree(data, neighbours, tau)


def check_a_tree(data, neighbours, tau):
    size = tuple(data.draw(st.integers(1, 14)) for _ in range(3))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    height = ndimage.gaussian_filter(rng.random(size), data.draw(st.sampled_from([0, 1.5])))
    height = (250 * (height - height.min()) / max(np.ptp(height), 1e-9)).astype(np.uint8)
    foreground = rng.random(size) < data.draw(st.sampled_from([0.5, 0.9, 1.0]))
    peaks = np.full(size, -1, np.int64)  # of the object that each voxel belongs to

    def settle(region):
        """Join a region out of two as long as it can be cut; return its graph and who its voxels' pieces are."""
        axes = [a for a in range(3) if region.size[a] > 1]
        if not axes or data.draw(st.integers(0, 3)) == 0:
            graph, ids = graph_of(foreground, height, region, neighbours, tau)
            where = np.flatnonzero(ids.ravel())
            z, y, x = (
                a[where] + s for a, s in zip(np.unravel_index(np.arange(ids.size), ids.shape), region.start)
            )
            return graph, [(np.ravel_multi_index((z, y, x), size), ids.ravel()[where].astype(np.int64) - 1)]
        axis = data.draw(st.sampled_from(axes))
        cut = data.draw(st.integers(region.start[axis] + 1, region.stop[axis] - 1))
        made = [settle(part) for part in halves(region, (axis, cut))]
        return combine(region, made)

    def combine(region, made):
        parts = [graph for graph, _ in made]
        done = join(parts, region, size, neighbours=neighbours, tau=tau)
        first = np.cumsum([0, *(len(graph.end) for graph in parts)])
        open_voxels = []
        for offset, (_, lists) in zip(first, made):
            for voxel, piece in lists:
                into = done.into[piece + offset]
                closed = into < 0
                peaks.ravel()[voxel[closed]] = done.end[-1 - into[closed]]
                open_voxels.append((voxel[~closed], into[~closed]))
        assert done.voxels.sum() + done.graph.voxels.sum() == sum(part.voxels.sum() for part in parts)
        return done.graph, open_voxels

    whole = Region.whole(size)
    last, _ = combine(whole, [settle(whole)])
    assert len(last.end) == 0
    wanted = paint(
        find_basins(np.pad(foreground, 1), np.pad(height, 1), spacing=None, neighbours=neighbours), tau
    )
    order = np.unique(peaks[peaks >= 0])
    found = np.zeros(size, np.uint32)
    found[peaks >= 0] = np.searchsorted(order, peaks[peaks >= 0]) + 1
    np.testing.assert_array_equal(found, wanted)


def test_a_graph_is_stored_as_it_is(rng):
    foreground, height = rng.random((6, 7, 8)) < 0.8, rng.integers(0, 255, (6, 7, 8), np.uint8)
    graph, _ = graph_of(foreground, height, Region((0, 0, 0), (6, 4, 8)), 6, 40)
    again = Graph.of(graph.arrays())
    for name, value in graph.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], value)
