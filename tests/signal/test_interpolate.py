import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from aequorea.errors import DataError
from aequorea.signal.interpolate import enlarged, interpolated, isotropic
from aequorea.signal.resample import resampled
from aequorea.volume import from_array


@given(*(st.integers(1, 7) for _ in range(3)), st.integers(1, 4), st.sampled_from([1, 3]))
def test_sizes_and_constants(z, y, x, factor, order):
    image = np.full((z, y, x), 7.5)
    assert isotropic(image, factor=factor, order=order) == pytest.approx(
        np.full((z * factor, y, x), 7.5), rel=1e-5
    )
    assert enlarged(image, factor=factor, order=order).shape == (z, y * factor, x * factor)


def test_linear_is_that_of_lazy_resampling(rng):
    image = rng.random((5, 6, 7)).astype(np.float32)
    found = interpolated(image, (15, 6, 7))
    assert found == pytest.approx(resampled(from_array(image), (15, 6, 7)).read()[0], abs=1e-6)


def test_ramps_and_waves_stay_where_they_are():
    place = np.arange(48) / 3
    ramp = np.broadcast_to(np.arange(16.0)[:, None, None], (16, 2, 2))
    assert isotropic(ramp, factor=3)[3:-3, 0, 0] == pytest.approx(place[3:-3], rel=1e-5)
    assert np.array_equal(isotropic(ramp, (0.6, 0.2, 0.2))[::3], ramp)
    wave = np.sin(2 * np.pi * ramp / 8)
    linear, cubic = (isotropic(wave, factor=3, order=order)[6:-6, 0, 0] for order in (1, 3))
    truth = np.sin(2 * np.pi * place / 8)[6:-6]
    assert np.abs(cubic - truth).max() < np.abs(linear - truth).max() / 4


def test_unknown_spacing_is_asked_for():
    with pytest.raises(DataError, match="give spacing"):
        isotropic(np.ones((2, 2, 2)))


def test_single_planes_are_repeated():
    assert interpolated(np.arange(4.0).reshape(1, 2, 2), (3, 2, 2), order=3)[2].tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize("order", [1, 3])
def test_equal_to_splines_of_scipy(rng, order):
    image = rng.random((5, 12, 9))
    expected = ndimage.zoom(image, (3, 1, 2), order=order, mode="nearest", grid_mode=True)
    assert interpolated(image, (15, 12, 18), order=order) == pytest.approx(expected, abs=1e-5)
