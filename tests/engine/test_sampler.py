"""Samples are pure in (seed, index), hold labels, and image and target stay together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aequorea.engine.sampler import Pair, Sampler, turned
from aequorea.engine.tiles import Tiling
from aequorea.errors import DataError
from aequorea.volume import from_array
from networks import unet


def strata(target: np.ndarray) -> np.ndarray:
    return np.nan_to_num(target[0], nan=-1).astype(np.int8)


def strata_of_any(target: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(target[0]), 0, -1).astype(np.int8)


def pair(size: tuple[int, int, int], seed: int, labelled: float = 0.02) -> Pair:
    rng = np.random.default_rng(seed)
    target = np.where(rng.random(size) < labelled, (rng.random(size) < 0.1).astype(np.float32), np.nan)
    target[0, 0, 0], target[-1, -1, -1] = 0, 1
    # The image holds the target's value where that is known, so that the two can be compared after any turning.
    image = np.where(np.isnan(target), 7, target).astype(np.float32)
    tiling = Tiling.of(unet(levels=2), size, None)
    return Pair(from_array(image), from_array(target.astype(np.float32)[None]), tiling)


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(2, 20), st.integers(5, 40), st.integers(5, 40)),
    patch=st.tuples(st.integers(1, 24), st.integers(4, 32), st.integers(4, 32)),
    seed=st.integers(0, 2**31),
)
def test_every_sample_is_labelled_and_pure(
    size: tuple[int, int, int], patch: tuple[int, int, int], seed: int
) -> None:
    """Any sizes: the shapes are those asked for, some voxel is labelled, and the same index gives the same bits."""
    sampler = Sampler([pair(size, 1)], strata, patch, seed)
    for index in (0, 5):
        sample = sampler(index)
        assert sample["image"].shape == (1, *patch) and sample["target"].shape == (1, *patch)
        assert np.isfinite(sample["target"]).any()
        again = Sampler([pair(size, 1)], strata, patch, seed)(index)
        np.testing.assert_array_equal(sample["image"], again["image"])
        np.testing.assert_array_equal(sample["target"], again["target"])


def test_image_and_target_turn_together() -> None:
    """Where the target is labelled, the image (up to contrast and noise) shows the same pattern."""
    sampler = Sampler([pair((12, 24, 24), 3, labelled=0.5)], strata, (8, 16, 16), 0)
    for index in range(20):
        sample = sampler(index)
        known = np.isfinite(sample["target"][0])
        unknown_mean = sample["image"][0][~known].mean()
        assert unknown_mean > sample["image"][0][known].mean() + 1


def test_strata_are_seen_evenly() -> None:
    """One voxel in ten thousand of a class still stands at the centre of every second sample."""
    target = np.zeros((1, 16, 64, 64), np.float32)
    target[0, 8, 32, 32] = 1
    image = from_array(np.zeros((16, 64, 64), np.float32))
    tiling = Tiling.of(unet(levels=2), (16, 64, 64), None)
    sampler = Sampler([Pair(image, from_array(target), tiling)], strata, (8, 16, 16), 0)
    held = [bool((sampler(i)["target"] == 1).any()) for i in range(60)]
    assert 20 <= sum(held) <= 45


def test_noise_is_smeared_in_a_share_of_the_samples_and_stays_as_strong() -> None:
    rng = np.random.default_rng(0)
    target = np.cumsum(rng.normal(0, 0.02, (4, 64, 64)), 2).astype(np.float32)
    target[0] = np.nan
    image = np.nan_to_num(target) + rng.normal(0, 0.1, target.shape).astype(np.float32)
    tiling = Tiling.of(unet(levels=2), target.shape, None)
    one = Pair(from_array(image), from_array(target[None]), tiling)
    drawn = {}
    for share in (0.0, 0.5):
        sampler = Sampler([one], strata_of_any, (4, 64, 64), 0, 0.0, smeared=share)
        drawn[share] = [sampler(n) for n in range(40)]
    alike = []
    for plain, smeared in zip(*drawn.values()):
        np.testing.assert_array_equal(plain["target"], smeared["target"])
        known = np.isfinite(smeared["target"][:, :, 0, 0])
        np.testing.assert_array_equal(plain["image"][~known], smeared["image"][~known])
        noise = (smeared["image"] - smeared["target"])[known]
        assert 0.08 < noise.std() < 0.12
        alike.append(np.corrcoef(noise[..., 1:].ravel(), noise[..., :-1].ravel())[0, 1])
    assert 10 < np.sum(np.array(alike) > 0.1) < 30 and max(alike) > 0.5 and abs(np.median(alike)) < 0.5


@given(n=st.integers(1, 5), factor=st.integers(1, 4), seed=st.integers(0, 99))
def test_in_a_mirror_planes_that_were_kept_stay_with_their_own(n: int, factor: int, seed: int) -> None:
    target = np.broadcast_to(np.arange(n * factor, dtype=np.float32)[:, None, None], (1, n * factor, 4, 4))
    image, found = turned(target[:, ::factor], target, np.random.default_rng(seed), "corner")
    np.testing.assert_array_equal(found[:, ::factor], image)
    planes, last = found[0, :, 0, 0], (n - 1) * factor
    if planes[0] == 0:
        np.testing.assert_array_equal(planes, np.arange(n * factor))
    else:
        np.testing.assert_array_equal(planes[: last + 1], np.arange(last, -1, -1))
        assert np.isnan(planes[last + 1 :]).all()


def test_no_label_is_an_error() -> None:
    """A dataset without any labelled voxel is refused in one line."""
    empty = from_array(np.full((1, 8, 8, 8), np.nan, np.float32))
    tiling = Tiling.of(unet(levels=2), (8, 8, 8), None)
    with pytest.raises(DataError, match="no voxel is labelled"):
        Sampler([Pair(from_array(np.zeros((8, 8, 8))), empty, tiling)], strata, (4, 4, 4), 0)
