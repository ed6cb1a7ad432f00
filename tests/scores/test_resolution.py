import math

import numpy as np
import pytest
from scipy import fft

from aequorea.errors import DataError
from aequorea.scores.resolution import _faded, ring_correlation, shell_correlation, split_photons


def band_limited(rng, size, steps, cut):
    """White noise without the frequencies above ``cut`` (1/µm, one an axis): an ellipsoid of frequencies."""
    axes = np.meshgrid(
        *(fft.fftfreq(n, s) / c for n, s, c in zip(size, steps, cut)), indexing="ij", sparse=True
    )
    spectrum = fft.fftn(rng.normal(size=size))
    image = fft.ifftn(np.where(sum(a**2 for a in axes) <= 1, spectrum, 0)).real
    return image / image.std()


@pytest.mark.parametrize("cut", [0.8, 1.5, 2.5])
@pytest.mark.parametrize("size", [(128, 128), (120, 151)])
def test_rings_find_the_cut_off(rng, size, cut):
    image = band_limited(rng, size, (0.1, 0.1), (cut, cut))
    curve = ring_correlation(*(image + rng.normal(size=size) for _ in range(2)), 0.1)
    ring = curve.frequency[1] - curve.frequency[0]
    assert 1 / curve.resolution() == pytest.approx(cut, abs=2.5 * ring)
    assert curve.correlation[curve.frequency < cut - ring].min() > 0.5
    assert np.abs(curve.correlation[curve.frequency > cut + 3 * ring]).max() < 0.3


def test_shells_find_the_cut_off_of_each_direction(rng):
    size, spacing = (32, 96, 96), (0.4, 0.1, 0.1)
    image = band_limited(rng, size, spacing, (0.6, 2.0, 2.0))
    halves = [image + 0.3 * rng.normal(size=size) for _ in range(2)]
    lateral = shell_correlation(*halves, spacing, "lateral").resolution()
    axial = shell_correlation(*halves, spacing, "axial").resolution()
    assert lateral == pytest.approx(1 / 2.0, rel=0.2)
    assert axial == pytest.approx(1 / 0.6, rel=0.2)
    cube = band_limited(rng, (56, 56, 56), (0.2,) * 3, (1.2,) * 3)
    whole = shell_correlation(*(cube + 0.3 * rng.normal(size=cube.shape) for _ in range(2)), (0.2,) * 3)
    assert whole.resolution() == pytest.approx(1 / 1.2, rel=0.17)


def test_correlation_is_that_of_full_transforms(rng):
    one, two = rng.normal(size=(2, 16, 16))
    two = one + 0.5 * two
    curve = ring_correlation(one, two, 1.0)
    a, b = fft.fftn(_faded(one)), fft.fftn(_faded(two))
    fy, fx = np.meshgrid(fft.fftfreq(16), fft.fftfreq(16), indexing="ij")
    ring = np.rint(np.hypot(fy, fx) * 16)
    for number, value in enumerate(curve.correlation, 1):
        own = ring == number
        expected = (a * b.conj())[own].sum().real / np.sqrt(
            (abs(a[own]) ** 2).sum() * (abs(b[own]) ** 2).sum()
        )
        assert value == pytest.approx(expected)


def test_ends_of_the_scale(rng):
    image = rng.normal(size=(64, 64))
    assert ring_correlation(image, image, 0.2).resolution() == pytest.approx(0.4, rel=0.05)
    assert ring_correlation(image, -image, 0.2).resolution() == math.inf
    assert ring_correlation(np.zeros((9, 9)), np.zeros((9, 9)), 0.2).resolution() == math.inf


def test_photons_are_split_without_loss_and_independently(rng):
    flat = rng.poisson(20.0, size=(256, 256))
    one, two = split_photons(flat * 3.0 + 100, gain=3.0, offset=100)
    assert (one + two == flat).all()
    assert one.mean() == pytest.approx(10, rel=0.02)
    assert one.var() == pytest.approx(10, rel=0.05)
    assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 0.02


def test_one_image_of_photons_shows_its_cut_off(rng):
    image = band_limited(rng, (192, 192), (0.1, 0.1), (1.5, 1.5))
    counts = rng.poisson(np.clip(60 + 20 * image, 0, None))
    assert 1 / ring_correlation(*split_photons(counts), 0.1).resolution() == pytest.approx(1.5, abs=0.2)


def test_what_cannot_be_correlated_says_why():
    with pytest.raises(DataError, match="different shapes"):
        ring_correlation(np.zeros((9, 9)), np.zeros((9, 8)), 1.0)
    with pytest.raises(DataError, match="too small"):
        ring_correlation(np.zeros((9, 4)), np.zeros((9, 4)), 1.0)
    with pytest.raises(DataError, match="Y X"):
        ring_correlation(np.zeros((9, 9, 9)), np.zeros((9, 9, 9)), 1.0)
    with pytest.raises(DataError, match="Z Y X"):
        shell_correlation(np.zeros((9, 9)), np.zeros((9, 9)), (1.0, 1.0, 1.0))
    with pytest.raises(DataError, match="say 'all'"):
        shell_correlation(np.zeros((9, 9, 9)), np.zeros((9, 9, 9)), (1.0, 1.0, 1.0), "up")
    with pytest.raises(DataError, match="gain"):
        split_photons(np.ones((3, 3)), gain=0)
    with pytest.raises(DataError, match="no photon"):
        split_photons(np.ones((3, 3)), offset=5)
