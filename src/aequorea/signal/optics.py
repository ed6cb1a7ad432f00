"""How a microscope blurs: widths of point-spread functions from its optics, and blurring in µm.

Widths are those of the Gaussian that matches the diffraction integral near its centre (Zhang, Zerubia and
Olivo-Marin, "Gaussian approximations of fluorescence microscope point-spread function models", Applied Optics
46, 2007; paraxial wide-field case). A light sheet is seen by its own lens and cut out by the sheet, so its
point-spread function is the product of both, and inverse variances add.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from aequorea.errors import DataError
from aequorea.volume import Array, Spacing


def detection_sigma(na: float, wavelength: float, refractive_index: float) -> tuple[float, float]:
    """Return the axial and lateral standard deviation (µm) of a wide-field point-spread function.

    Parameters
    ----------
    na
        Numerical aperture of the detection lens.
    wavelength
        Of the emitted light in vacuum, µm.
    refractive_index
        Of the medium.

    Raises
    ------
    DataError
        If the numerical aperture is not between 0 and the refractive index.
    """
    if not 0 < na < refractive_index:
        raise DataError(
            f"a lens of NA {na} in a medium of index {refractive_index} does not exist; give 0 < NA < index"
        )
    wavenumber = 2 * math.pi / wavelength
    axial = 2 * math.sqrt(6) * refractive_index / (wavenumber * na**2)
    lateral = math.sqrt(2) / (wavenumber * na)
    return axial, lateral


def sheet_sigma(na: float, wavelength: float) -> float:
    """Return the standard deviation (µm) of a Gaussian light sheet's intensity across its waist.

    Parameters
    ----------
    na
        Numerical aperture of the illumination.
    wavelength
        Of the illumination in vacuum, µm.
    """
    waist = wavelength / (math.pi * na)  # 1/e² half width of the intensity
    return waist / 2


def light_sheet_sigma(
    na: float, wavelength: float, refractive_index: float = 1.33, sheet_na: float = 0.06
) -> Spacing:
    """Return the standard deviations (µm; z, y, x) of a light-sheet microscope's point-spread function.

    Emission and excitation are taken to have the same wavelength.

    Parameters
    ----------
    na, wavelength, refractive_index
        As in :func:`detection_sigma`.
    sheet_na
        Numerical aperture of the illumination.
    """
    axial, lateral = detection_sigma(na, wavelength, refractive_index)
    sheet = sheet_sigma(sheet_na, wavelength)
    return 1 / math.sqrt(1 / axial**2 + 1 / sheet**2), lateral, lateral


def blur(image: Array, sigma: Spacing, spacing: Spacing) -> Array:
    """Blur an image (Z Y X) by a Gaussian whose standard deviations are in µm; returns float32.

    An axis of length 1 is left alone, and so is one along which the Gaussian is far narrower than a voxel.
    """
    widths = in_voxels(sigma, spacing, image.shape)
    return np.asarray(ndimage.gaussian_filter(np.asarray(image, np.float32), widths, truncate=3.0))


def in_voxels(sigma: Spacing, spacing: Spacing, size: Sequence[int]) -> list[float]:
    """Return widths (z, y, x) in voxels of widths in µm; 0 along an axis of length 1."""
    return [s / d if n > 1 else 0.0 for s, d, n in zip(sigma, spacing, size)]
