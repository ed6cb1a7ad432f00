import numpy as np
import pytest
import tifffile
from scipy import ndimage
from scipy.signal import fftconvolve
from skimage import restoration

from aequorea.errors import DataError
from aequorea.scores.restoration import fitted, psnr
from aequorea.signal.deconvolve import gaussian_psf, richardson_lucy, wiener


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_equal_to_skimage_away_from_borders(rng, ndim):
    truth = np.zeros((31,) * ndim)
    truth[(slice(12, 19),) * ndim] = rng.random((7,) * ndim)
    psf = gaussian_psf(1.0, ndim)
    image = np.maximum(fftconvolve(truth, psf, "same"), 0)
    expected = restoration.richardson_lucy(image, psf, num_iter=8, clip=False)
    found = richardson_lucy(image, psf, iterations=8)
    inner = (slice(9, 22),) * ndim
    assert found[inner] == pytest.approx(expected[inner], abs=2e-4 * expected.max())


def test_lopsided_psf_is_undone_where_it_was(rng):
    truth = np.zeros((24, 24))
    truth[10, 12] = 100
    psf = np.zeros((4, 6))
    psf[2, 3], psf[3, 5] = 0.5, 0.5
    image = np.roll(truth, (0, 0), (0, 1)) * 0.5 + np.roll(truth, (1, 2), (0, 1)) * 0.5
    for found in (richardson_lucy(image, psf, iterations=200), wiener(image, psf, noise=1e-3)):
        assert np.unravel_index(found.argmax(), found.shape) == (10, 12)


def test_background_is_kept_and_light_conserved(rng):
    image = ndimage.gaussian_filter(rng.random((12, 20, 20)), 2) * 1000 + 100
    found = richardson_lucy(image, gaussian_psf((1.0, 1.5, 1.5)), iterations=10, background=100)
    assert found.min() >= 100
    assert found.mean() == pytest.approx(image.mean(), rel=0.02)
    flat = np.full((5, 6, 7), 130.0)
    assert richardson_lucy(flat, gaussian_psf(1.0), background=100) == pytest.approx(flat)
    assert wiener(flat, gaussian_psf(1.0)) == pytest.approx(flat)


def test_edges_do_not_ring(rng):
    image = np.broadcast_to(np.linspace(100, 900, 40), (30, 40))
    found = richardson_lucy(image, gaussian_psf(2.0, 2), iterations=20)
    assert np.abs(found - image).max() < 40


def test_psfs_larger_than_the_image_work():
    assert richardson_lucy(np.ones((1, 3, 2)), np.ones((5, 9, 9)), iterations=2) == pytest.approx(
        np.ones((1, 3, 2))
    )


def test_wrong_psfs_are_refused():
    with pytest.raises(DataError, match="2 axes"):
        richardson_lucy(np.ones((3, 3, 3)), np.ones((3, 3)))
    with pytest.raises(DataError, match="sum above 0"):
        wiener(np.ones((3, 3)), np.zeros((3, 3)))


def test_real_bars_come_nearer_to_the_truth(real_data):
    folder = real_data / "bench_only" / "deconv_flowdec"
    truth, blurred, psf = (tifffile.imread(folder / f"bars_{n}.tif") for n in ("truth", "blurred", "psf"))
    restored = richardson_lucy(blurred, psf, iterations=30)
    scores = [
        (psnr(x, truth, fit=True, span="extremes"), np.corrcoef(x.ravel(), truth.ravel())[0, 1])
        for x in (blurred, restored)
    ]
    assert scores[0] == pytest.approx((26.4, 0.40), abs=0.06)
    assert scores[1] == pytest.approx((27.2, 0.55), abs=0.25)
    assert fitted(restored, truth).gain > 0
