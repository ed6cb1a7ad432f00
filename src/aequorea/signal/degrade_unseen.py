"""A microscope to be tested on: its kind, aperture, exposure and read noise lie outside the training ranges."""

from __future__ import annotations

from aequorea.signal.degrade import CameraSpec, ClutterSpec, DegradeSpec, MediumSpec, OpticsSpec

UNSEEN = DegradeSpec(
    optics=OpticsSpec(
        kinds=("confocal",),
        na=(0.45, 0.6),
        wavelength=(0.65, 0.69),
        refractive_index=(1.45, 1.52),
        pinhole=(1.5, 2.0),
    ),
    camera=CameraSpec(photons=(4.0, 7.0), gain=(5.0, 8.0), offset=(200.0, 300.0), read_noise=(3.0, 4.0)),
    medium=MediumSpec(
        glow=(0.5, 0.7),
        glow_width=(4.5, 6.0),
        attenuation=(8.0, 12.0),
        stripes=(0.75, 0.9),
        period=(4.5, 6.0),
    ),
    clutter=ClutterSpec(share=(0.12, 0.16), brightness=(1.3, 1.6), radius=(0.9, 1.2), gap=(0.4, 0.55)),
)
"""Shares no value with the default recipe except the size of the grids and the steepness of a light field."""
