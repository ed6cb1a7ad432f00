"""The trivial rivals on cases with a known answer, and against brute force."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.feature import peak_local_max

from aequorea.errors import DataError
from aequorea.signal.classical import best_threshold, otsu_watershed, peak_watershed


def balls(spacing: tuple[float, float, float], centres: list[tuple[float, float, float]]) -> np.ndarray:
    """Balls of 5 µm radius in a volume of 24 µm x 40 µm x 40 µm."""
    axes = [np.arange(round(n / d)) * d for n, d in zip((24, 40, 40), spacing)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    near = [np.sqrt((z - a) ** 2 + (y - b) ** 2 + (x - c) ** 2) < 5 for a, b, c in centres]
    return np.any(near, axis=0)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.5, 0.5)])
def test_touching_balls_are_separated_whatever_the_spacing(spacing: tuple[float, float, float]) -> None:
    truth = balls(spacing, [(12, 12, 12), (12, 12, 21), (12, 30, 30)])
    labels = otsu_watershed(100 + 50 * truth, spacing, sigma_um=0.5, min_distance_um=4)
    assert labels.dtype == np.int32 and labels.max() == 3
    assert ((labels > 0) == truth).mean() > 0.97


def test_nothing_is_found_in_nothing() -> None:
    assert otsu_watershed(np.full((3, 8, 8), 7), None).max() == 0
    assert otsu_watershed(np.full((1, 1, 1), np.nan), None).shape == (1, 1, 1)


def test_a_flat_height_has_no_peak() -> None:
    found = peak_watershed(np.ones((4, 9, 9)), np.ones((4, 9, 9), bool), None)
    assert found.shape == (4, 9, 9) and found.max() == 0


@pytest.mark.parametrize("distance", [1.5, 4.0, 9.0])
def test_a_peak_near_a_higher_one_that_is_kept_is_none(rng: np.random.Generator, distance: float) -> None:
    height, spacing = rng.random((6, 24, 24)).astype(np.float32), (2.0, 1.0, 1.0)
    kept: list[np.ndarray] = []
    for peak in peak_local_max(height, labels=np.ones(height.shape, np.uint8), exclude_border=False):
        if all(np.linalg.norm((peak - other) * spacing) > distance for other in kept):
            kept.append(peak)
    found = peak_watershed(height, np.ones(height.shape, bool), spacing, min_distance_um=distance)
    assert found.max() == len(kept) > 3 and [found[tuple(peak)] for peak in kept] == [
        *range(1, len(kept) + 1)
    ]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_the_threshold_is_the_best_there_is(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 30, (n, n, n))
    truth = image + rng.normal(0, 8, image.shape) > 15
    labelled = rng.random(image.shape) < 0.7
    truth[labelled.nonzero()[0][0] if labelled.any() else 0] = True
    labelled[0] = True
    if not truth[labelled].any():
        return
    chosen = best_threshold([image], [truth], [labelled], None, sigmas_um=(0.0,))
    every = []
    for value in np.unique(image[labelled]):
        found = (image > value)[labelled]
        every.append(2 * (found & truth[labelled]).sum() / (found.sum() + truth[labelled].sum()))
    assert chosen.dice == pytest.approx(max(every))
    found = chosen.apply(image, None)[labelled]
    assert 2 * (found & truth[labelled]).sum() / (found.sum() + truth[labelled].sum()) == pytest.approx(
        chosen.dice
    )


def test_a_gaussian_is_chosen_where_there_is_noise(rng: np.random.Generator) -> None:
    truth = balls((1.0, 1.0, 1.0), [(12, 12, 12), (12, 28, 28)])
    image = truth + rng.normal(0, 1.0, truth.shape)
    chosen = best_threshold([image], [truth], [np.ones_like(truth)], (1.0, 1.0, 1.0))
    assert chosen.sigma_um > 0 and chosen.dice > 0.8


def test_without_foreground_there_is_no_threshold() -> None:
    image = np.zeros((2, 4, 4))
    with pytest.raises(DataError, match="foreground"):
        best_threshold([image], [image > 1], [image == 0], None)


def test_real_nuclei_as_well_as_the_floor_says(real_data: Path) -> None:
    folder = real_data / "open" / "organoid_lstree"
    image = tifffile.imread(folder / "budding_t301_nuclei.tif")
    truth = tifffile.imread(folder / "budding_t301_nuclei_label.tif")
    found = otsu_watershed(image, (2.0, 0.26, 0.26), sigma_um=1.0, min_distance_um=4.0)
    pairs, both = np.unique(np.stack([truth.ravel(), found.ravel()]), axis=1, return_counts=True)
    iou = both / (np.bincount(truth.ravel())[pairs[0]] + np.bincount(found.ravel())[pairs[1]] - both)
    hits = ((iou > 0.5) & (pairs > 0).all(0)).sum()
    # The floor is 0.872 with its own tuned smoothing.
    assert 2 * hits / (truth.max() + found.max()) > 0.7
