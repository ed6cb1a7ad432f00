"""A microscope to be tested on: its kind, aperture, exposure and read noise lie outside the training ranges."""

from __future__ import annotations

from aequorea.signal.degrade import CameraSpec, ClutterSpec, DegradeSpec, MediumSpec, OpticsSpec

UNSEEN = DegradeSpec(
    optics=OpticsSpec(
        kinds=("confocal",),
        na=(1.15, 1.3),
        wavelength=(0.65, 0.69),
        refractive_index=(1.45, 1.52),
        shift=(1.12, 1.2),
        pinhole=(1.5, 2.0),
    ),
    camera=CameraSpec(photons=(10.0, 18.0), gain=(5.0, 8.0), offset=(200.0, 300.0), read_noise=(2.6, 3.5)),
    medium=MediumSpec(
        glow=(0.45, 0.6),
        glow_width=(4.5, 6.0),
        attenuation=(8.0, 12.0),
        stripes=(0.75, 0.9),
        period=(4.5, 6.0),
    ),
    clutter=ClutterSpec(share=(0.12, 0.16), brightness=(1.3, 1.6), radius=(0.9, 1.2), gap=(0.4, 0.55)),
)
"""Shares no value with the default recipe except a light sheet's aperture (it has no sheet), the size of the grids
and the disparity of a light field, which belong to the task."""
