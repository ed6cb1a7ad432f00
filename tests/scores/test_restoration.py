import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.ndimage import gaussian_filter
from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

import denoise_pairs
from aequorea.errors import DataError
from aequorea.scores import restoration, similarity
from aequorea.scores.restoration import Moments, nrmse, percentiles, psnr, restoration_scores
from aequorea.volume import from_array

SHAPES = array_shapes(min_dims=2, max_dims=3, max_side=6)
KINDS = st.sampled_from([np.uint8, np.uint16, np.float32, np.float64])


@st.composite
def image_pairs(draw):
    shape, dtype = draw(SHAPES), draw(KINDS)
    whole = np.dtype(dtype).kind == "u"
    values = st.integers(0, 255) if whole else st.floats(-100, 100, width=32)
    return draw(arrays(dtype, shape, elements=values)), draw(arrays(dtype, shape, elements=values))


def close(value):
    return pytest.approx(value, rel=1e-9, abs=1e-9)


@given(image_pairs())
def test_equal_to_skimage(pair):
    found, truth = (image.astype(np.float64) for image in pair)
    scores = restoration_scores(*(from_array(image) for image in pair), span="extremes")
    data_range = np.ptp(truth)
    assert scores["range"] == close(data_range)
    assert scores["voxels"] == truth.size
    if data_range > 0 and (found != truth).any():
        assert scores["psnr"] == close(peak_signal_noise_ratio(truth, found, data_range=data_range))
        assert scores["nrmse"] == close(normalized_root_mse(truth, found, normalization="min-max"))
    if np.ptp(truth) > 1e-6 and np.ptp(found) > 1e-6:
        assert scores["correlation"] == pytest.approx(
            np.corrcoef(found.ravel(), truth.ravel())[0, 1], abs=1e-6
        )


@given(image_pairs())
def test_laws_of_every_image(pair):
    found, truth = pair
    same = restoration_scores(from_array(truth), from_array(truth))
    assert same["psnr"] == math.inf
    assert same["nrmse"] == 0 or same["range"] == 0
    plain, fitted = (restoration_scores(*map(from_array, pair), fit=fit) for fit in (False, True))
    if plain["range"] > 0:
        assert fitted["nrmse"] <= plain["nrmse"] + 1e-6
        assert plain["psnr"] == close(psnr(found, truth))
        assert fitted["nrmse"] == close(nrmse(found, truth, fit=True))
        if plain["nrmse"] > 0:
            assert plain["psnr"] == pytest.approx(-20 * math.log10(plain["nrmse"]))
    else:
        assert math.isnan(plain["nrmse"])
    x, t = (image.ravel().astype(np.float64) for image in pair)
    if np.ptp(x) > 1:
        assert (fitted["gain"], fitted["offset"]) == pytest.approx(
            tuple(np.polyfit(x, t, 1)), rel=1e-5, abs=1e-5
        )


@given(arrays(np.float64, st.integers(1, 300), elements=st.floats(-1e6, 1e6)), st.integers(1, 50))
def test_percentiles_are_exact(values, cut):
    def blocks():
        yield from ((part, part) for part in np.array_split(values, cut))

    found = percentiles(blocks, (0, 0.1, 37.2, 99.9, 100), values.size)
    assert found == pytest.approx(
        np.percentile(values, (0, 0.1, 37.2, 99.9, 100)).tolist(), rel=1e-12, abs=1e-12
    )


@given(arrays(np.float64, (2, 60), elements=st.floats(-1e3, 1e3)), st.integers(0, 60))
def test_moments_add_up(pair, cut):
    x, t = pair
    sums, whole = Moments.of(x[:cut], t[:cut]) + Moments.of(x[cut:], t[cut:]), Moments.of(x, t)
    for name in ("n", "x", "t", "xx", "xt", "tt", "low", "high"):
        assert getattr(sums, name) == pytest.approx(getattr(whole, name), rel=1e-9, abs=1e-6)


@settings(max_examples=10)
@given(st.integers(11, 40), st.integers(11, 40), st.integers(0, 2**32 - 1), st.booleans())
def test_ssim_equals_skimage(height, width, seed, whole):
    rng = np.random.default_rng(seed)
    truth = gaussian_filter(rng.normal(size=(height, width)), 2) * 300 + 100
    found = truth + rng.normal(size=truth.shape) * 20
    if whole:
        truth, found = (np.clip(image, 0, 255).astype(np.uint8) for image in (truth, found))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 150}
    assert similarity.ssim(found, truth, 150) == pytest.approx(
        structural_similarity(truth.astype(float), found.astype(float), **options), abs=1e-9
    )


def test_ssim_of_volumes_equals_skimage(rng):
    truth = gaussian_filter(rng.normal(size=(14, 20, 17)), 1) * 1000 + 5000
    found = truth + rng.normal(size=truth.shape) * 100
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 900}
    assert similarity.ssim(found, truth, 900) == pytest.approx(structural_similarity(truth, found, **options))


def test_ms_ssim_equals_torchmetrics(rng, monkeypatch):
    truth = gaussian_filter(rng.normal(size=(2, 181, 190)), (0, 3, 3)) * 10
    found = truth + rng.normal(size=truth.shape) * 0.2
    images = [torch.from_numpy(image)[:, None] for image in (found, truth)]
    # Of the coarsest scale, torchmetrics also counts windows that reach over the border, of mirrored pixels.
    reference = multiscale_structural_similarity_index_measure(*images, data_range=3.0)
    assert similarity.ms_ssim(found, truth, 3.0) == pytest.approx(float(reference), abs=1e-3)
    finer = (*similarity.SCALES[:-1], 0.0)
    monkeypatch.setattr(similarity, "SCALES", finer)
    reference = multiscale_structural_similarity_index_measure(*images, data_range=3.0, betas=finer)
    assert similarity.ms_ssim(found, truth, 3.0) == pytest.approx(float(reference), abs=1e-6)


def test_slabs_and_blocks_give_what_the_whole_gives(rng, monkeypatch):
    truth = gaussian_filter(rng.normal(size=(41, 30, 26)), 1).astype(np.float32) * 500
    found = from_array(truth + rng.normal(size=truth.shape).astype(np.float32) * 30)
    mask = np.ones(truth.shape, np.uint8)
    mask[20:24, :9, 5:9] = 0
    truth[30, 20:, 20:] = np.nan
    whole = restoration_scores(found, from_array(truth), fit=True, counts=from_array(mask))
    monkeypatch.setattr(similarity, "VOXELS_AT_ONCE", 1)
    monkeypatch.setattr(restoration, "BLOCK", (3, 7, 11))
    monkeypatch.setattr(restoration, "KEPT_VOXELS", 0)
    parts = restoration_scores(found, from_array(truth), fit=True, counts=from_array(mask))
    assert set(whole) == {
        "psnr",
        "nrmse",
        "correlation",
        "ssim",
        "ssim_3d",
        "range",
        "gain",
        "offset",
        "voxels",
    }
    assert parts == pytest.approx(whole, rel=1e-10)


def test_only_what_counts_counts(rng):
    truth = gaussian_filter(rng.normal(size=(1, 40, 40)), (0, 2, 2))
    found = truth + rng.normal(size=truth.shape) * 0.05
    mask = np.ones(truth.shape, bool)
    mask[:, 25:] = False
    spoiled = np.where(mask, found, 1e6)
    unknown = np.where(mask, truth, np.nan)
    reference = restoration_scores(from_array(found[:, :25]), from_array(truth[:, :25]))
    masked = restoration_scores(from_array(spoiled), from_array(truth), counts=from_array(mask))
    assert masked == pytest.approx(reference)
    assert restoration_scores(from_array(spoiled), from_array(unknown)) == pytest.approx(reference)


def test_range_of_few_bright_voxels_is_not_zero():
    truth = np.zeros((1, 64, 64))
    truth[0, 3, 4] = 50
    assert restoration_scores(from_array(truth * 0.5), from_array(truth))["range"] == 50


def test_channels_are_scored_apart(rng):
    truth = rng.normal(size=(2, 1, 12, 12))
    found = truth + np.array([0.1, 0.2]).reshape(2, 1, 1, 1) * rng.normal(size=truth.shape)
    both = restoration_scores(from_array(found, channels=["a", "b"]), from_array(truth, channels=["a", "b"]))
    one = restoration_scores(from_array(found[1]), from_array(truth[1]))
    assert both["psnr.b"] == one["psnr"] and both["ssim.b"] == one["ssim"]
    assert both["psnr"] == pytest.approx((both["psnr.a"] + both["psnr.b"]) / 2)


def test_what_cannot_be_scored_says_why():
    image = np.ones((1, 4, 4))
    with pytest.raises(DataError, match="cannot be compared"):
        restoration_scores(from_array(image), from_array(image[:, :3]))
    with pytest.raises(DataError, match="does not fit"):
        restoration_scores(from_array(image), from_array(image), counts=from_array(image[:, :3]))
    with pytest.raises(DataError, match="NaN or infinite"):
        restoration_scores(from_array(image * np.nan), from_array(image))
    with pytest.raises(DataError, match="no voxel"):
        restoration_scores(from_array(image), from_array(image * np.nan))
    with pytest.raises(DataError, match="different shapes"):
        psnr(image, image[:, :2])
    with pytest.raises(DataError, match="say 'percentiles'"):
        psnr(image * 2, image, span="best")
    with pytest.raises(DataError, match="176"):
        similarity.ms_ssim(image, image, 1.0)
    with pytest.raises(DataError, match="11"):
        similarity.ssim(image, image, 1.0)


def test_published_figures_of_real_pairs(real_data):
    for row in denoise_pairs.rows(real_data):
        noisy, clean = denoise_pairs.pair(real_data, row)
        smooth = gaussian_filter(noisy, float(row["gauss_sigma_px"]))
        assert psnr(noisy, clean, fit=True) == pytest.approx(float(row["psnr_noisy_db"]), abs=0.02)
        assert psnr(smooth, clean, fit=True) == pytest.approx(float(row["psnr_best_gauss_db"]), abs=0.02)
        assert restoration.intensity_range(clean) == pytest.approx(float(row["data_range"]), abs=0.06)
