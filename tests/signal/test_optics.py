"""Widths of point-spread functions against the diffraction integral; blurring in µm."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special

from aequorea.errors import DataError
from aequorea.signal.optics import blur, detection_sigma, light_sheet_sigma, sheet_sigma


def diffraction(na: float, wavelength: float, index: float, r: float, z: float) -> float:
    """Intensity of the paraxial (Born and Wolf) point-spread function by quadrature."""
    k = 2 * np.pi / wavelength

    def field(part):  # type: ignore[no-untyped-def]
        def inner(rho: float) -> float:
            phase = k * z * na**2 * rho**2 / (2 * index)
            return float(special.j0(k * na * r * rho) * part(phase) * rho)

        return integrate.quad(inner, 0, 1, limit=200)[0]

    return float(field(np.cos) ** 2 + field(np.sin) ** 2)


@pytest.mark.parametrize(("na", "index"), [(0.3, 1.0), (0.5, 1.33), (0.8, 1.33)])
def test_widths_match_the_diffraction_integral_where_it_is_bright(na: float, index: float) -> None:
    axial, lateral = detection_sigma(na, 0.52, index)
    peak = diffraction(na, 0.52, index, 0, 0)
    for share in (0.3, 0.8):
        gauss = np.exp(-(share**2) / 2)
        assert diffraction(na, 0.52, index, share * lateral, 0) / peak == pytest.approx(gauss, abs=0.02)
        assert diffraction(na, 0.52, index, 0, share * axial) / peak == pytest.approx(gauss, abs=0.02)


def test_the_sheet_falls_to_1_over_e2_at_its_waist() -> None:
    waist = 0.5 / (np.pi * 0.05)
    assert np.exp(-(waist**2) / (2 * sheet_sigma(0.05, 0.5) ** 2)) == pytest.approx(np.exp(-2))


@given(st.floats(0.1, 1.2), st.floats(0.4, 0.8), st.floats(0.02, 0.2))
def test_a_light_sheet_is_sharper_than_either_of_its_parts(
    na: float, wavelength: float, sheet: float
) -> None:
    axial, y, x = light_sheet_sigma(na, wavelength, sheet_na=sheet)
    assert axial < min(detection_sigma(na, wavelength, 1.33)[0], sheet_sigma(sheet, wavelength))
    assert y == x == detection_sigma(na, wavelength, 1.33)[1]


@pytest.mark.parametrize("na", [0.0, 1.4])
def test_lenses_that_do_not_exist_are_refused(na: float) -> None:
    with pytest.raises(DataError, match="0 < NA < index"):
        detection_sigma(na, 0.5, 1.33)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 9), st.integers(12, 24), st.floats(0.3, 4.0))
def test_blur_keeps_the_light_and_is_as_wide_as_it_says(nz: int, n: int, ratio: float) -> None:
    point = np.zeros((2 * nz + 1, 2 * n + 1, 2 * n + 1), np.float32)
    point[nz, n, n] = 1
    sigma = 0.8
    out = blur(point, (0.01, sigma, sigma), (ratio, 0.4, 0.4))
    assert out.dtype == np.float32
    assert out.sum() == pytest.approx(1, abs=1e-4)
    x = (np.arange(2 * n + 1) - n) * 0.4
    assert np.sqrt((out.sum((0, 1)) * x**2).sum()) == pytest.approx(sigma, rel=0.03)
    assert (out[nz] == out.sum(0)).all()


def test_a_plane_is_blurred_within_itself() -> None:
    plane = np.ones((1, 8, 8))
    assert np.allclose(blur(plane, (5.0, 1.0, 1.0), (1.0, 1.0, 1.0)), 1)
