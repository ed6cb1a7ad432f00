"""Percentiles against NumPy; blocks, odd types and scaling."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aequorea.signal.intensity import HIGH_PERCENT, LOW_PERCENT, Intensity, measure, normalise
from aequorea.volume import Volume, from_array

TYPES = ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "i8", "u8", "f2", "f4", "f8"]


def expected(array: np.ndarray) -> tuple[float, float, float, float, int]:
    with np.errstate(over="ignore"):
        values = array.astype(np.float32) if array.dtype.itemsize > 2 else array
    values = values.astype(np.float64).ravel()
    values = values[np.isfinite(values) & (np.abs(values) > 1e-40)]
    if not len(values):
        return 0.0, 0.0, 0.0, 0.0, 0
    low, high = np.percentile(values, [LOW_PERCENT, HIGH_PERCENT])
    return float(low), float(high), float(values.min()), float(values.max()), len(values)


def check(array: np.ndarray, volume: Volume | None = None) -> Intensity:
    found = measure(volume or from_array(array), progress=False)
    for channel, of in zip(array.reshape(-1, *array.shape[-3:]), found.channels):
        got = (of.low, of.high, of.minimum, of.maximum, of.voxels)
        np.testing.assert_allclose(got, expected(channel), rtol=1e-9)
        assert of.voxels + of.left_out == channel.size
        assert sum(of.bars) == (of.voxels if of.high > of.low else 0)
    return found


@settings(deadline=None, max_examples=100)
@given(st.data(), st.sampled_from(TYPES))
def test_equals_numpy_percentiles(data: st.DataObject, dtype: str) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=4, max_dims=4, max_side=5))
    elements = hnp.from_dtype(np.dtype(dtype)) if data.draw(st.booleans()) else st.integers(0, 1)
    check(data.draw(hnp.arrays(dtype, shape, elements=elements)))


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "u2", "i2", "f2"])
def test_many_voxels_with_outliers_and_gaps(rng: np.random.Generator, dtype: str) -> None:
    array = rng.normal(30, 9, (2, 40, 60, 70))
    array[1] *= -20
    array[:, :10] = 0
    array[0, 20, 3, 3] = 3e4
    if dtype[0] == "f":
        array[0, 11, 4] = np.nan
        array[1, 12, 5] = np.inf
        array[1, 12, 6] = -np.inf
    check(array.astype(dtype))


@settings(deadline=None, max_examples=10)
@given(st.tuples(*[st.integers(1, 9)] * 3), st.sampled_from(["u2", "f4"]), st.integers(0, 99))
def test_blocks_do_not_matter(chunks: tuple[int, int, int], dtype: str, seed: int) -> None:
    array = np.random.default_rng(seed).gamma(2, 50, (1, 7, 13, 11)).astype(dtype)
    volume = from_array(array)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aequorea.signal.intensity.BLOCK_VOXELS", 1)
        blocks = measure(replace(volume, chunks=chunks), progress=False)
    assert blocks == measure(volume, progress=False)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((1, 3, 4, 5), "u2"),
        np.full((1, 3, 4, 5), np.nan, "f4"),
        np.full((1, 3, 4, 5), 7, "u1"),
        np.full((1, 3, 4, 5), -0.25, "f8"),
        np.full((1, 1, 1, 1), 9, "i4"),
        np.ones((1, 3, 4, 5), bool),
    ],
)
def test_nothing_to_scale_by_gives_zeros(array: np.ndarray) -> None:
    scaled = normalise(array, check(array))
    assert scaled.dtype == np.float32
    assert scaled.shape == array.shape
    assert not scaled.any()


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(TYPES))
def test_normalise_is_the_formula(data: st.DataObject, dtype: str) -> None:
    array = data.draw(hnp.arrays(dtype, (2, 2, 3, 4), elements=hnp.from_dtype(np.dtype(dtype))))
    intensity = measure(from_array(array), progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scaled = normalise(array, intensity)
    for channel, got, of in zip(array.astype(np.float64), scaled, intensity.channels):
        if not of.high > of.low:
            assert not got.any()
            continue
        with np.errstate(all="ignore"):
            want = np.clip((channel - of.low) / (of.high - of.low), -1, 8)
        want[~np.isfinite(channel)] = 0
        # float32 keeps 24 bits of a voxel: what is left of them after taking away an offset
        close = 1e-5 + 2e-7 * max(abs(of.low), abs(of.high)) / (of.high - of.low)
        np.testing.assert_allclose(got, want, atol=close)


def test_channels_must_agree() -> None:
    intensity = measure(from_array(np.ones((2, 1, 2, 2))), progress=False)
    with pytest.raises(ValueError, match="3 channels"):
        normalise(np.ones((3, 1, 2, 2)), intensity)


def test_survives_json(rng: np.random.Generator) -> None:
    found = measure(from_array(rng.normal(size=(2, 3, 4, 5)).astype("f4")), progress=False)
    assert Intensity.parse(json.loads(json.dumps(found.plain()))) == found
