"""Resampling where it is read: any region equals the same region of the whole; means are kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aequorea.signal.resample import matched_size, placed, resampled
from aequorea.volume import Region, from_array

SIZES = st.tuples(st.integers(1, 12), st.integers(1, 20), st.integers(1, 20))


@settings(max_examples=60, deadline=None)
@given(own=SIZES, size=SIZES, how=st.sampled_from(["mean", "nearest"]), data=st.data())
def test_any_region_equals_the_whole(own, size, how, data) -> None:
    """To the last bit: objects found block by block rest on it."""
    volume = from_array(np.random.default_rng(0).integers(0, 60000, own).astype(np.uint16))
    view = resampled(volume, size, how)
    whole = view.read()
    assert whole.shape == (1, *size) and whole.dtype == np.uint16
    start = [data.draw(st.integers(0, n - 1)) for n in size]
    region = Region.at(start, [data.draw(st.integers(1, n)) for n in size]).clip(Region.whole(size))
    assert np.array_equal(view.read(region), whole[(slice(None), *region.slices)])
    real = resampled(replace(volume, dtype=np.dtype(np.float32)), size, how)
    assert np.array_equal(real.read(region), real.read()[(slice(None), *region.slices)])


@settings(max_examples=30, deadline=None)
@given(own=st.tuples(*[st.integers(2, 6)] * 3), factor=st.integers(2, 4))
def test_whole_factors_are_block_means_and_linear_interpolation(own, factor) -> None:
    """Against an oracle: mean pooling down, trilinear interpolation (half-pixel centres) up."""
    image = np.random.default_rng(1).standard_normal([n * factor for n in own], np.float32)
    down = resampled(from_array(image), own).read()
    tensor = torch.from_numpy(image)[None, None]
    np.testing.assert_allclose(down, torch.nn.functional.avg_pool3d(tensor, factor)[0], atol=1e-5)
    small = tensor[..., : own[0], : own[1], : own[2]]
    size = tuple(n * factor for n in own)
    up = resampled(from_array(small[0, 0].numpy()), size).read()
    oracle = torch.nn.functional.interpolate(small, size=size, mode="trilinear", align_corners=False)
    np.testing.assert_allclose(up, oracle[0], atol=1e-5)


def test_spacing_follows_and_z_is_never_made_up() -> None:
    """The extent in µm stays; finer y and x are matched, coarser z is left alone."""
    volume = from_array(np.zeros((10, 100, 100)), (4.0, 0.5, 0.5))
    assert matched_size(volume, (1.0, 1.0, 1.0)) == (10, 50, 50)
    assert matched_size(volume, (4.0, 0.4, 0.4)) == (10, 100, 100)
    view = resampled(volume, (10, 50, 50))
    assert view.spacing == (4.0, 1.0, 1.0)
    assert matched_size(from_array(np.zeros((40, 9, 9)), (0.5, 1.0, 1.0)), (2.0, 1.0, 1.0)) == (10, 9, 9)


def test_a_part_is_placed_in_the_whole() -> None:
    """Zero outside, the part inside."""
    part = from_array(np.ones((2, 3, 4), np.uint8))
    whole = placed(part, Region.at((1, 1, 1), (2, 3, 4)), (5, 6, 7)).read()
    assert whole.sum() == 24 and whole[0, 1:3, 1:4, 1:5].all()
