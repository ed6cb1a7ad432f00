"""Laws of the pairs: pure, on the grids they say, on one scale of counts, and finite whatever goes in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng
from scipy.ndimage import gaussian_filter

from aequorea.errors import DataError, SpecError
from aequorea.signal.degrade import TASKS, CameraSpec, DegradeSpec, MediumSpec, OpticsSpec, grids, pair
from aequorea.signal.degrade_unseen import UNSEEN
from aequorea.signal.structures import structure

SPACING = (0.2, 0.1, 0.1)
CLEAR = MediumSpec(glow=(0.0, 0.0), attenuation=(1e9, 1e9), stripes=(0.0, 0.0))
CAMERA = CameraSpec(photons=(1e6, 1e6), gain=(2.0, 2.0), offset=(100.0, 100.0), read_noise=(0.0, 0.0))
SMALL = DegradeSpec(planes=2, views=3, depth=2, camera=CAMERA, medium=CLEAR)

tasks = st.sampled_from(sorted(TASKS))
recipes = st.sampled_from(
    [
        DegradeSpec(planes=2, views=3, depth=2),
        UNSEEN.model_copy(update={"planes": 2, "views": 3, "depth": 2}),
    ]
)


@settings(max_examples=60)
@given(
    tasks,
    recipes,
    st.tuples(st.integers(2, 9), st.integers(3, 24), st.integers(3, 24)),
    st.tuples(st.floats(0.1, 2), st.floats(0.05, 0.5), st.floats(0.05, 0.5)),
    st.integers(0, 2**32),
)
def test_pairs_are_pure_finite_and_on_the_grids_they_say(
    task: str,
    spec: DegradeSpec,
    size: tuple[int, int, int],
    spacing: tuple[float, float, float],
    seed: int,
) -> None:
    truth = default_rng(seed).random(size, np.float32)
    before = truth.copy()
    one, two = (pair(task, truth, spacing, spec, default_rng(seed)) for _ in range(2))
    assert np.array_equal(truth, before)
    for array, again, grid in zip(one, two, grids(task, size, spacing, spec)):
        assert array.shape == grid.size and array.dtype == np.float32
        assert np.isfinite(array).all()
        assert np.array_equal(array, again)
    # Both grids cover the same field, but for what is cut off.
    given_, wanted = grids(task, size, spacing, spec)
    for a in range(3):
        assert given_.size[a] * given_.spacing[a] == pytest.approx(wanted.size[a] * wanted.spacing[a])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_even_truths_give_even_pairs(task: str, value: float) -> None:
    truth = np.full((8, 12, 15), value, np.float32)
    noisy, target = pair(task, truth, SPACING, SMALL, default_rng(0))
    assert np.isfinite(noisy).all() and np.isfinite(target).all()
    if value == 0:
        assert (noisy == 100).all() and (target == 100).all()
    elif task != "project":
        assert np.allclose(target, target.mean(), rtol=1e-3)
        assert np.allclose(noisy, noisy.mean(), rtol=0.02)


@pytest.mark.parametrize(
    "task", ["denoise", "deblur", "destripe", "super_resolve", "isotropic", "light_field"]
)
def test_both_sides_hold_the_same_light(task: str) -> None:
    truth = structure("vesicles", (16, 60, 60), SPACING, 1)
    spec = SMALL.model_copy(update={"depth": 16, "views": 5})
    noisy, target = (array - 100 for array in pair(task, truth, SPACING, spec, default_rng(0)))
    if task == "light_field":  # one image holds the light of all planes
        assert noisy.mean() == pytest.approx(target.mean() * 16, rel=0.1)
    elif task == "isotropic":  # what falls between the planes that are kept is not seen
        assert noisy.mean() == pytest.approx(target.mean(), rel=0.05)
    else:
        assert noisy.mean() == pytest.approx(target.mean(), rel=1e-3)


def test_noise_is_right_on_average() -> None:
    truth = structure("membranes", (8, 48, 48), SPACING, 2)
    spec = DegradeSpec()
    noisy, target = pair("denoise", truth, SPACING, spec, default_rng(3))
    error = noisy - target
    assert abs(error.mean()) < 5 * error.std() / error.size**0.5
    # Brighter voxels are noisier, as photons are.
    bright = target > np.median(target)
    assert error[bright].std() > 1.02 * error[~bright].std()


def test_the_brightest_voxel_gets_the_photons_asked_for() -> None:
    truth = structure("puncta", (16, 48, 48), SPACING, 2)
    spec = DegradeSpec(camera=CameraSpec(photons=(50.0, 50.0), gain=(3.0, 3.0), offset=(10.0, 10.0)))
    _, target = pair("denoise", truth, SPACING, spec, default_rng(0))
    assert target.max() == pytest.approx(3 * 50 + 10, rel=1e-4)


def test_the_target_of_a_projection_is_the_surface_without_what_lies_off_it() -> None:
    truth = structure("epithelium", (32, 64, 64), SPACING, 4)
    given_, target = pair("project", truth, SPACING, SMALL, default_rng(1))
    assert target.shape == (1, 64, 64)
    surface = gaussian_filter(truth.max(0), 2)
    # Bright where the surface's walls are, and unlike the brightest voxels of the stack.
    assert np.corrcoef(surface.ravel(), target[0].ravel())[0, 1] > 0.85
    off = given_.max(0) - target[0]
    assert off.max() > 0.1 * (target.max() - 100)
    assert off.min() > -0.02 * (target.max() - 100)


def test_an_isotropic_target_is_as_sharp_along_z_as_across() -> None:
    truth = np.zeros((33, 33, 33), np.float32)
    truth[16, 16, 16] = 1
    _, target = pair("isotropic", truth, (0.1, 0.1, 0.1), SMALL, default_rng(0))
    light = target - target.min()
    along, across = light[:, 16, 16], light[16, 16, : len(light)]
    assert np.allclose(along, across, atol=1e-3 * light.max())


def test_the_unseen_microscope_lies_outside_the_default() -> None:
    default = DegradeSpec()
    assert not set(UNSEEN.optics.kinds) & set(default.optics.kinds)
    for part, kept in (
        ("optics", {"kinds", "sheet_na"}),
        ("camera", set()),
        ("medium", set()),
        ("clutter", set()),
    ):
        for name, span in getattr(default, part):
            if name not in kept:
                other = getattr(getattr(UNSEEN, part), name)
                assert other[0] > span[1] or other[1] < span[0], f"{part}.{name}"


def test_recipes_read_back_from_yaml() -> None:
    for spec in (DegradeSpec(), UNSEEN):
        assert DegradeSpec.parse(spec.plain()) == spec


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"camera": {"photons": (0, 3)}}, "positive"),
        ({"camera": {"read_noise": (3, 2)}}, "smaller first"),
        ({"optics": {"na": (1.0, 1.4)}}, "below the refractive index"),
        ({"optics": {"kinds": ()}}, "kinds"),
        ({"medium": {"stripes": (0.1, 1.2)}}, "at most 1"),
        ({"clutter": {"share": (0.1, 1.0)}}, "below 1"),
        ({"planes": 9}, "planes"),
        ({"undersampling": 5}, "undersampling"),
        ({"foton": 1}, "unknown word"),
    ],
)
def test_wrong_recipes_are_refused(words: dict[str, object], match: str) -> None:
    with pytest.raises(SpecError, match=match):
        DegradeSpec.parse(words)


def test_wrong_truths_and_tasks_are_refused() -> None:
    spec, rng = DegradeSpec(), default_rng(0)
    good = np.ones((4, 8, 8))
    with pytest.raises(DataError, match="'deblur'"):
        pair("deblurr", good, SPACING, spec, rng)
    with pytest.raises(DataError, match="'deblur'"):
        grids("deblurr", (4, 8, 8), SPACING, spec)
    with pytest.raises(DataError, match="Z Y X"):
        pair("denoise", good[0], SPACING, spec, rng)
    with pytest.raises(DataError, match="subtract"):
        pair("denoise", -good, SPACING, spec, rng)
    with pytest.raises(DataError, match="subtract"):
        pair("denoise", good * np.nan, SPACING, spec, rng)
    with pytest.raises(DataError, match="smaller depth"):
        pair("light_field", good, SPACING, spec, rng)
    with pytest.raises(DataError, match="give 9 or more"):
        pair("light_field", good, SPACING, DegradeSpec(views=9, depth=2), rng)


@pytest.mark.parametrize("task", ["denoise", "deblur", "destripe", "project"])
def test_a_single_voxel_is_no_error(task: str) -> None:
    given_, target = pair(task, np.ones((1, 1, 1)), (5.0, 5.0, 5.0), DegradeSpec(), default_rng(0))
    assert given_.shape == target.shape == (1, 1, 1) and np.isfinite(given_).all()


def test_a_plane_is_seen_in_focus_by_every_kind_of_microscope() -> None:
    truth = structure("membranes", (1, 40, 40), SPACING, 0)
    for kind in ("widefield", "confocal", "light_sheet"):
        spec = SMALL.model_copy(update={"optics": OpticsSpec(kinds=(kind,))})
        noisy, _ = pair("super_resolve", truth, SPACING, spec, default_rng(0))
        assert noisy.shape == (1, 20, 20)
