"""What holds for every format: any region equals the slice of the whole, in any thread; ``info`` works."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aequorea.volume import Region
from aequorea.workflows.info import info
from aequorea.workflows.open import open


def test_reads_what_was_written(made):
    volume = open(made.path, **made.options)
    assert volume.shape == made.truth.shape
    assert volume.dtype == made.truth.dtype.newbyteorder("=")
    assert volume.dtype.isnative
    np.testing.assert_array_equal(volume.read(), made.truth)
    if made.spacing is None:
        assert volume.spacing is None
    else:
        np.testing.assert_allclose(volume.spacing, made.spacing, rtol=1e-6)
    if made.channels:
        assert volume.channels == made.channels
    assert len(volume.levels) == made.levels
    assert all(1 <= chunk <= n for chunk, n in zip(volume.chunks, volume.size))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_region_is_a_slice_of_the_whole(made, data):
    volume = open(made.path, **made.options)
    bounds = [
        sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)), label=axis))
        for axis, n in zip("zyx", volume.size)
    ]
    region = Region(tuple(a for a, _ in bounds), tuple(b for _, b in bounds))
    block = volume.read(region)
    np.testing.assert_array_equal(block, made.truth[:, *region.slices])
    assert block.flags.c_contiguous
    assert block.dtype == volume.dtype
    block[...] = 0
    np.testing.assert_array_equal(volume.read(region), made.truth[:, *region.slices])


def test_threads_read_what_one_reads(made):
    volume = open(made.path, **made.options)
    blocks = list(volume.region.split([max(1, n // 2) for n in volume.size])) * 3
    with ThreadPoolExecutor(8) as pool:
        for region, block in zip(blocks, pool.map(volume.read, blocks)):
            np.testing.assert_array_equal(block, made.truth[:, *region.slices])


def test_channels_are_read_alone(made):
    volume = open(made.path, **made.options)
    last = volume.shape[0] - 1
    alone = open(made.path, **(made.options | {"channel": last}))
    assert alone.channels == volume.channels[last:]
    np.testing.assert_array_equal(alone.read(), made.truth[last:])
    turned = open(made.path, **(made.options | {"channel": ",".join(reversed(volume.channels))}))
    np.testing.assert_array_equal(turned.read(), made.truth[::-1])


def test_told_spacing_overrides(made):
    volume = open(made.path, **(made.options | {"spacing": (4.0, 2.0, 1.0)}))
    assert volume.spacing == (4.0, 2.0, 1.0)
    for level in volume.levels:
        assert level.spacing is not None
        ratio = np.divide(volume.size, level.size)
        np.testing.assert_allclose(level.spacing, ratio * volume.spacing, rtol=0.15)


def test_levels_hold_the_same_image(made):
    volume = open(made.path, **made.options)
    for number, level in enumerate(volume.levels, 1):
        assert level.shape[0] == volume.shape[0]
        assert level.read().shape == level.shape
        alone = open(made.path, **(made.options | {"level": number}))
        assert alone.spacing == level.spacing
        np.testing.assert_array_equal(alone.read(), level.read())


def test_info(made):
    found = info(made.path, **made.options)
    assert found.facts["shape"] == list(made.truth.shape)
    assert found.facts["intensity"][0]["low"] == made.truth[0].min()
    assert found.facts["intensity"][-1]["high"] == made.truth[-1].max()
    assert sum(found.facts["intensity"][0]["counts"]) == made.truth[0].size
    json.dumps(found.facts, allow_nan=False)
    for word in ("format", "shape", "dtype", "spacing", "channels", "intensity", "#"):
        assert word in found.text
    if made.spacing is None:
        assert "--spacing" in found.text
