"""Laws of the steps of the forward models: light kept, closed forms, photon statistics, ray optics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng
from scipy import ndimage

from aequorea.errors import DataError
from aequorea.signal import forward
from aequorea.signal.light_field import interleaved, lenslet_image, slope, views
from aequorea.signal.psf import PsfSpec, psf

sizes = st.tuples(st.integers(1, 9), st.integers(1, 20), st.integers(1, 20))
voxels = st.tuples(st.floats(0.1, 1), st.floats(0.1, 0.5), st.floats(0.1, 0.5))


@settings(max_examples=40)
@given(sizes, st.tuples(*[st.integers(0, 4)] * 3), voxels, st.integers(0, 999))
def test_a_lens_keeps_the_light_whatever_the_size(
    size: tuple[int, int, int], half: tuple[int, int, int], spacing: tuple[float, float, float], seed: int
) -> None:
    volume = default_rng(seed).random(size, np.float32)
    kernel = psf(PsfSpec(), spacing, tuple(2 * h + 1 for h in half))
    seen = forward.convolved(volume, kernel)
    assert seen.shape == size and seen.dtype == np.float32
    assert seen.sum() == pytest.approx(volume.sum(), rel=1e-4)


@settings(max_examples=20)
@given(sizes, st.tuples(*[st.integers(1, 4)] * 3), st.integers(0, 999))
def test_a_lens_is_a_convolution(size: tuple[int, int, int], ends: tuple[int, int, int], seed: int) -> None:
    rng = default_rng(seed)
    volume, kernel = rng.random(size), rng.random(ends)
    slow = ndimage.convolve(volume, kernel, mode="reflect")
    assert np.allclose(forward.convolved(volume, kernel), slow, atol=1e-4)


@pytest.mark.parametrize("ends", [(1, 1, 1), (3, 4, 5), (2, 2, 2)])
def test_a_point_becomes_the_kernel_around_it(ends: tuple[int, int, int]) -> None:
    kernel = default_rng(0).random(ends)
    point = np.zeros((11, 11, 11))
    point[5, 5, 5] = 1
    seen = forward.convolved(point, kernel)
    where = tuple(slice(5 - n // 2, 5 - n // 2 + n) for n in ends)
    assert np.allclose(seen[where], kernel, atol=1e-5)
    assert seen.sum() == pytest.approx(kernel.sum(), rel=1e-4)


@settings(max_examples=25)
@given(sizes, voxels, st.floats(0, 1), st.floats(0.1, 3))
def test_glow_adds_its_share_of_the_light(
    size: tuple[int, int, int], spacing: tuple[float, float, float], share: float, width: float
) -> None:
    volume = default_rng(0).random(size, np.float32)
    out = forward.glowing(volume, share, width, spacing)
    assert out.sum() == pytest.approx((1 + share) * volume.sum(), rel=1e-3)
    assert out is not volume and (out >= volume - 1e-6).all()


@settings(max_examples=25)
@given(sizes, voxels, st.floats(1, 50))
def test_light_fades_exponentially(
    size: tuple[int, int, int], spacing: tuple[float, float, float], depth: float
) -> None:
    out = forward.faded(np.ones(size), depth, spacing)
    assert np.allclose(out[0], np.exp(-0.5 * spacing[0] / depth))
    assert np.allclose(out[1:] / out[:-1], np.exp(-spacing[0] / depth), rtol=1e-5)


@settings(max_examples=25)
@given(sizes, voxels, st.floats(0, 1), st.integers(0, 999))
def test_stripes_run_along_x_and_are_as_deep_as_they_say(
    size: tuple[int, int, int], spacing: tuple[float, float, float], strength: float, seed: int
) -> None:
    out = forward.striped(np.ones(size), strength, 2.0, spacing, default_rng(seed))
    assert out.max() <= 1 and out.min() >= 1 - strength - 1e-6
    # Along the sheet light can only be lost.
    steps = np.diff(out, axis=2)
    assert (steps <= 1e-6).all() or (steps >= -1e-6).all()


def test_the_darkest_shadow_takes_its_share() -> None:
    out = forward.striped(np.ones((8, 200, 64)), 0.6, 2.0, (0.5, 0.1, 0.1), default_rng(0))
    assert out.min() == pytest.approx(0.4, abs=0.01) and out.max() > 0.95
    across, along = np.abs(np.diff(out, axis=1)).mean(), np.abs(np.diff(out, axis=2)).mean()
    assert across > 3 * along


@settings(max_examples=25)
@given(st.tuples(st.integers(1, 5), st.integers(4, 20), st.integers(4, 20)), st.integers(1, 4))
def test_binning_is_the_mean_of_blocks(size: tuple[int, int, int], factor: int) -> None:
    volume = default_rng(0).random(size, np.float32)
    out = forward.binned(volume, factor)
    assert out.shape == (size[0], size[1] // factor, size[2] // factor)
    assert out[0, 0, 0] == pytest.approx(volume[0, :factor, :factor].mean(), rel=1e-5)
    cut = volume[:, : out.shape[1] * factor, : out.shape[2] * factor]
    assert out.mean() == pytest.approx(cut.mean(), rel=1e-4)


@given(st.integers(2, 8), st.integers(1, 5), st.integers(0, 7))
def test_kept_planes_lie_in_the_middle_of_what_they_stand_for(factor: int, count: int, more: int) -> None:
    nz = factor * count + more % factor
    ramp = np.arange(nz, dtype=float)[:, None, None] + np.zeros((1, 2, 3))
    out = forward.thinned(ramp, factor)
    assert np.array_equal(out[:, 0, 0], np.arange(count) * factor)


def test_too_little_to_sample_is_refused() -> None:
    with pytest.raises(DataError, match="give 4 or more"):
        forward.binned(np.ones((1, 3, 8)), 4)
    with pytest.raises(DataError, match="give 4 or more"):
        forward.thinned(np.ones((3, 8, 8)), 4)


@settings(max_examples=20)
@given(st.floats(2, 200), st.floats(0.5, 6), st.floats(0, 200), st.floats(0, 4), st.floats(0.05, 1))
def test_counts_have_the_mean_and_variance_of_photons(
    photons: float, gain: float, offset: float, read: float, light: float
) -> None:
    even = np.full((10, 100, 100), light)
    counts = forward.exposed(even, photons, gain, offset, read, default_rng(0)).astype(float)
    arriving = photons * light
    mean, variance = gain * arriving + offset, gain**2 * (arriving + read**2)
    assert np.allclose(forward.expected(even, photons, gain, offset), mean, rtol=1e-5)
    assert counts.mean() == pytest.approx(mean, abs=5 * np.sqrt(variance / counts.size))
    assert counts.var() == pytest.approx(variance, rel=0.05)


def test_blobs_keep_their_distance_from_the_surface() -> None:
    z = np.arange(40)[:, None, None]
    height = 18 + 4 * np.sin(np.arange(64) / 15)[:, None] + np.zeros((64, 64))
    sheet = (np.abs(z + 0.5 - height) < 1).astype(np.float32)
    assert np.abs(forward.surface_of(sheet, (0.2, 0.1, 0.1)) / 0.2 - height).max() < 0.7
    blobs = forward.clutter(sheet, 0.2, 0.4, 1.0, (0.2, 0.1, 0.1), default_rng(0))
    assert blobs.max() > 0.9 and blobs.min() == 0
    assert not blobs[np.abs((z + 0.5 - height) * 0.2) < 0.8].any()


@settings(max_examples=40)
@given(
    st.integers(2, 6),
    st.integers(0, 8),
    st.floats(0, 0.6),
    st.integers(20, 40),
    st.integers(20, 40),
)
def test_a_point_lies_in_each_view_where_ray_optics_puts_it(
    n: int, z: int, disparity: float, y: int, x: int
) -> None:
    side = 60 // n * n
    volume = np.zeros((9, side, side), np.float32)
    volume[z, y, x] = 1
    seen = views(lenslet_image(volume, n, disparity), n)
    assert np.allclose(seen.sum((1, 2)), 1 / n**2, rtol=1e-4)  # a lenslet is the mean of its pixels
    for d, view in enumerate(seen):
        i, j = divmod(d, n)
        found = np.array(ndimage.center_of_mass(view))
        wanted = np.array([y + slope(i, n) * (z - 4) * disparity, x + slope(j, n) * (z - 4) * disparity])
        # Lenslet p covers pixels n p to n p + n - 1.
        assert np.abs(found * n + (n - 1) / 2 - wanted).max() <= n / 2 + 1e-3


def test_centres_of_broad_objects_move_exactly() -> None:
    y = np.arange(90)
    blob = np.exp(-((y[:, None] - 44.0) ** 2 + (y - 46.0) ** 2) / 2 / 8**2)
    volume = np.zeros((7, 90, 90))
    volume[6] = blob
    for d, view in enumerate(views(lenslet_image(volume, 3, 0.7), 3)):
        i, j = divmod(d, 3)
        at = np.array(ndimage.center_of_mass(view)) * 3 + 1
        assert np.allclose(at, [44 + (i - 1) * 3 * 0.7, 46 + (j - 1) * 3 * 0.7], atol=0.02)


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6))
def test_views_and_lenslet_images_hold_the_same(n: int, height: int, width: int) -> None:
    image = np.arange(n * n * height * width).reshape(n * height, n * width)
    apart = views(image, n)
    assert apart.shape == (n * n, height, width)
    assert np.array_equal(interleaved(apart), image)
    for d in range(n * n):
        i, j = divmod(d, n)
        assert np.array_equal(apart[d], image[i::n, j::n])


def test_even_light_gives_even_views_and_the_sum_over_z() -> None:
    image = lenslet_image(np.full((5, 14, 23), 0.5), 3, 0.9)
    assert image.shape == (12, 21) and np.allclose(image, 2.5, rtol=1e-5)


def test_what_is_no_light_field_is_refused() -> None:
    with pytest.raises(DataError, match="give 5 pixels"):
        lenslet_image(np.ones((3, 4, 9)), 5, 0.1)
    with pytest.raises(DataError, match="multiples of 5"):
        views(np.ones((10, 9)), 5)
    with pytest.raises(DataError, match="give n × n"):
        interleaved(np.ones((5, 2, 2)))
