"""Point-spread functions against closed forms, a published library and measured beads."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, optimize, special

from aequorea.errors import DataError, SpecError
from aequorea.signal.psf import PsfSpec, debye, extent, intensity, measured, psf

KINDS = ("widefield", "confocal", "light_sheet")
optics = st.builds(
    PsfSpec,
    kind=st.sampled_from(KINDS),
    na=st.floats(0.2, 1.25),
    wavelength=st.floats(0.45, 0.7),
    pinhole=st.floats(0, 2),
    sheet_na=st.floats(0.03, 0.2),
)
voxels = st.tuples(st.floats(0.1, 2), st.floats(0.05, 0.6), st.floats(0.05, 0.6))


@pytest.mark.parametrize(("na", "index"), [(0.1, 1.0), (0.3, 1.33)])
def test_in_focus_it_is_the_airy_pattern(na: float, index: float) -> None:
    r = np.linspace(0, 3 * 0.61 * 0.5 / na, 200)
    v = 2 * np.pi * na / 0.5 * r[1:]
    found = debye(na, 0.5, index, np.zeros(1), r)[:, 0]
    assert found[0] == pytest.approx(1)
    assert np.allclose(found[1:], (2 * special.j1(v) / v) ** 2, atol=0.005)
    first = optimize.minimize_scalar(
        lambda at: debye(na, 0.5, index, np.zeros(1), np.array([at]))[0, 0],
        bounds=(0.4 * 0.5 / na, 0.8 * 0.5 / na),
        method="bounded",
    )
    assert first.x == pytest.approx(0.61 * 0.5 / na, rel=0.01) and first.fun < 1e-5


@pytest.mark.parametrize(("na", "index"), [(0.1, 1.0), (0.3, 1.33)])
def test_its_axial_zero_is_that_of_born_and_wolf(na: float, index: float) -> None:
    zero = 2 * index * 0.5 / na**2
    z = np.linspace(0, 1.8 * zero, 300)
    found = debye(na, 0.5, index, z, np.zeros(1))[0]
    assert np.allclose(found, np.sinc(z / zero) ** 2, atol=0.03)
    assert z[found[z < 1.2 * zero].argmin()] == pytest.approx(zero, rel=0.03)


def test_a_wide_lens_is_less_deep_than_the_paraxial_formula_says() -> None:
    spec = PsfSpec(na=1.2, refractive_index=1.33)
    z = np.linspace(0.5 * spec.depth, 1.5 * spec.depth, 500)
    darkest = z[debye(1.2, 0.52, 1.33, z, np.zeros(1))[0].argmin()]
    assert darkest == pytest.approx(spec.depth, rel=0.05)
    assert spec.depth < 2 * 1.33 * 0.52 / 1.2**2


@pytest.mark.parametrize("na", [0.1, 0.2, 0.5, 0.8])
@pytest.mark.parametrize("kind", ["excitation", "emission"])
def test_it_is_that_of_the_published_library_but_for_polarisation(na: float, kind: str) -> None:
    library = pytest.importorskip("psf")
    n, index = 65, 1.0 if na < 0.5 else 1.33
    if kind == "excitation":  # an aperture filled evenly
        words = {"ex_wavelen": 520.0, "underfilling": 1e-9}
        which = library.ISOTROPIC | library.EXCITATION
    else:
        words = {"em_wavelen": 520.0, "magnification": 100.0}
        which = library.ISOTROPIC | library.EMISSION
    oracle = library.PSF(
        which, shape=(n, n), dims=(12.0, 5.0), num_aperture=na, refr_index=index, **words
    ).data
    ours = debye(na, 0.52, index, np.linspace(0, 12, n), np.linspace(0, 5, n)).T
    # What a scalar theory leaves out grows with the square of the sine of the aperture's angle.
    assert np.abs(oracle - ours).max() < 0.003 + 0.25 * (na / index) ** 2


@pytest.mark.parametrize("na", [0.2, 0.5])
def test_a_confocal_one_is_that_of_the_published_library(na: float) -> None:
    library = pytest.importorskip("psf")
    n, index = 129, 1.33
    oracle = library.PSF(
        library.ISOTROPIC | library.CONFOCAL,
        shape=(n, n),
        dims=(12.0, 5.0),
        ex_wavelen=488.0,
        em_wavelen=520.0,
        num_aperture=na,
        refr_index=index,
        magnification=100.0,
        underfilling=1e-9,
        pinhole_radius=0.61 * 0.52 / na,
    ).data
    spec = PsfSpec(kind="confocal", na=na, refractive_index=index, pinhole=1.0)
    ours = intensity(spec, np.linspace(0, 12, n), np.linspace(0, 5, n)).T
    assert np.abs(oracle / oracle[0, 0] - ours).max() < 0.01 + 0.15 * (na / index) ** 2


def test_a_confocal_one_with_a_point_for_a_pinhole_is_a_product() -> None:
    spec = PsfSpec(kind="confocal", pinhole=0)
    z, r = np.linspace(0, 3, 20), np.linspace(0, 2, 30)
    lit, seen = (debye(spec.na, w, spec.refractive_index, z, r) for w in (spec.excitation, spec.wavelength))
    assert np.allclose(intensity(spec, z, r), lit * seen)
    small = intensity(spec.model_copy(update={"pinhole": 0.02}), z, r)
    assert np.allclose(small, lit * seen, atol=0.002)


def test_a_wide_pinhole_lets_all_light_through() -> None:
    spec = PsfSpec(kind="confocal", pinhole=12.0)
    z, r = np.linspace(0, 1, 4), np.linspace(0, 1, 10)
    lit = debye(spec.na, spec.excitation, spec.refractive_index, z, r)
    assert np.allclose(intensity(spec, z, r), lit, atol=0.03)


def test_a_light_sheet_cuts_its_profile_out_of_what_the_lens_sees() -> None:
    spec = PsfSpec(kind="light_sheet")
    z, r = np.linspace(0, 5, 20), np.linspace(0, 2, 30)
    seen = intensity(spec.model_copy(update={"kind": "widefield"}), z, r)
    assert np.allclose(intensity(spec, z, r), seen * np.exp(-2 * z**2 / spec.waist**2))
    assert spec.waist == pytest.approx(0.488 / (math.pi * 0.06))


@settings(max_examples=40)
@given(optics, voxels, st.tuples(*[st.integers(1, 9)] * 3) | st.none())
def test_it_is_symmetric_of_sum_1_and_brightest_in_the_middle(
    spec: PsfSpec, spacing: tuple[float, float, float], size: tuple[int, int, int] | None
) -> None:
    kernel = psf(spec, spacing, size)
    assert kernel.shape == (size or extent(spec, spacing))
    assert np.isfinite(kernel).all() and kernel.min() >= 0
    assert kernel.sum() == pytest.approx(1)
    assert kernel[tuple(n // 2 for n in kernel.shape)] == pytest.approx(kernel.max(), rel=1e-6)
    odd = kernel[tuple(slice(1 - n % 2, None) for n in kernel.shape)]
    for axis in range(3):
        assert np.array_equal(odd, np.flip(odd, axis))


@pytest.mark.parametrize("kind", KINDS)
def test_coarse_voxels_are_sums_of_fine_ones(kind: str) -> None:
    spec = PsfSpec(kind=kind, na=0.9, sheet_na=0.1)
    fine = psf(spec, (0.1, 0.05, 0.05), (27, 63, 63)).reshape(9, 3, 9, 7, 9, 7).sum((1, 3, 5))
    coarse = psf(spec, (0.3, 0.35, 0.35), (9, 9, 9))
    assert np.abs(fine - coarse).max() < 1e-3 * coarse.max()


def test_every_plane_of_a_wide_field_holds_the_same_light() -> None:
    kernel = psf(PsfSpec(na=0.5), (1.0, 0.4, 0.4), (7, 151, 151))
    light = kernel.sum((1, 2))
    assert np.allclose(light, light[3], rtol=0.02)


def test_it_is_fast_and_its_default_size_holds_the_bright_part() -> None:
    spec = PsfSpec(na=0.7)
    size = extent(spec, (0.3, 0.1, 0.1))
    assert all(n % 2 == 1 for n in size)
    wide = psf(spec, (0.3, 0.1, 0.1), (size[0], size[1] + 60, size[2] + 60))
    assert wide[:, 30:-30, 30:-30].sum() > 0.93


@pytest.mark.parametrize(("size", "spacing"), [((0, 3, 3), (1.0, 1.0, 1.0)), ((3, 3, 3), (0.0, 1.0, 1.0))])
def test_no_voxels_are_refused(size: tuple[int, int, int], spacing: tuple[float, float, float]) -> None:
    with pytest.raises(DataError, match="positive"):
        psf(PsfSpec(), spacing, size)


def test_a_lens_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SpecError, match="below the refractive index"):
        PsfSpec.parse({"na": 1.4})


@settings(max_examples=25)
@given(
    st.tuples(*[st.floats(-1.2, 1.2)] * 3),
    st.floats(0, 200),
    st.sampled_from([1.0, 0.5, 1.5, 2.0]),
)
def test_a_measured_bead_becomes_a_centred_kernel(
    off: tuple[float, float, float], background: float, ratio: float
) -> None:
    z, y, x = (np.arange(n) - n // 2 - o for n, o in zip((21, 31, 31), off))
    sigma = (3.0, 2.0, 2.0)
    bead = np.exp(-(z[:, None, None] ** 2) / 18 - y[:, None] ** 2 / 8 - x**2 / 8) * 1000 + background
    spacing, onto = (0.3, 0.1, 0.1), (0.3 * ratio, 0.1 * ratio, 0.1 * ratio)
    kernel = measured(bead, spacing, onto, background=background)
    assert kernel.sum() == pytest.approx(1) and kernel.min() >= 0
    middle = tuple(n // 2 for n in kernel.shape)
    assert np.allclose(ndimage.center_of_mass(kernel), middle, atol=0.1)
    # As wide as the bead in µm, and as interpolation and larger voxels make it.
    at = (np.arange(kernel.shape[2]) - middle[2]) * onto[2]
    width = math.sqrt((kernel.sum((0, 1)) * at**2).sum())
    assert width == pytest.approx(sigma[2] * spacing[2], rel=0.12)


def test_noise_around_a_measured_bead_is_taken_off() -> None:
    rng = np.random.default_rng(0)
    bead = 1e6 * psf(PsfSpec(), (0.3, 0.1, 0.1), (21, 31, 31))
    noisy = rng.poisson(bead + 100) + rng.normal(0, 3, bead.shape)
    kernel = measured(noisy, (0.3, 0.1, 0.1))
    assert kernel.shape == bead.shape
    assert np.corrcoef(kernel.ravel(), bead.ravel())[0, 1] > 0.98


@pytest.mark.parametrize(
    "bead", [np.zeros((3, 3, 3)), np.full((4, 4, 4), 7.0), np.zeros((3, 3)), np.full((2, 2, 2), np.nan)]
)
def test_what_holds_no_bead_is_refused(bead: np.ndarray) -> None:
    with pytest.raises(DataError):
        measured(bead, (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("name", "peak"), [("psf_lattice", (30, 24, 24)), ("deconv_redlionfish", (30, 15, 15))]
)
def test_real_measured_beads(real_data: Path, name: str, peak: tuple[int, int, int]) -> None:
    bead = tifffile.imread(real_data / "open" / name / "psf_measured.tif")
    kernel = measured(bead, (0.1, 0.1, 0.1))
    middle = tuple(n // 2 for n in kernel.shape)
    assert kernel.sum() == pytest.approx(1) and kernel.min() == 0
    assert np.abs(np.subtract(np.unravel_index(kernel.argmax(), kernel.shape), middle)).max() <= 1
    assert bead[peak] == bead.max()
    # The background is gone: little is left in the corners, much in the middle.
    core = kernel[tuple(slice(m - 8, m + 9) for m in middle)].sum()
    assert core > 5 * 17**3 / kernel.size * 0.5
    coarse = measured(bead, (0.1, 0.1, 0.1), (0.2, 0.2, 0.2))
    assert coarse.shape[0] == 31 and coarse.sum() == pytest.approx(1)
