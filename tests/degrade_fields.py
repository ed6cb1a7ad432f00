"""Every field of the recipes of structures, optics and degraded pairs, with a value that must change something."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from aequorea.signal.degrade import DegradeSpec, pair
from aequorea.signal.psf import PsfSpec, psf
from aequorea.signal.structures import StructureSpec, structure
from aequorea.volume import Array

SPACING = (0.2, 0.1, 0.1)
CONFOCAL, SHEET = {"kinds": ["confocal"]}, {"kinds": ["light_sheet"]}


@cache
def _truth(kind: str) -> Array:
    return structure(kind, (16, 30, 30), SPACING, 0)


def _structure(kind: str, field: str, value: Any) -> bytes:
    spec = StructureSpec.parse({} if value is None else {field: value})
    return structure(kind, (12, 32, 32), SPACING, 4, spec).tobytes()


def _psf(kind: str, field: str, value: Any) -> bytes:
    words = {"kind": kind, **({} if value is None else {field: value})}
    return psf(PsfSpec.parse(words), SPACING, (5, 7, 7)).tobytes()


def _pair(task: str, part: str, fixed: dict[str, Any], field: str, value: Any) -> bytes:
    words = {**fixed, **({} if value is None else {field: value})}
    spec = DegradeSpec.parse({part: words} if part else words)
    truth = _truth("epithelium" if task == "project" else "vesicles")
    return b"".join(a.tobytes() for a in pair(task, truth, SPACING, spec, np.random.default_rng(0)))


CHANGES: dict[str, tuple[Callable[[Any], Any], Any]] = {
    **{
        f"StructureSpec.{field}": (partial(_structure, kind, field), value)
        for kind, field, value in [
            ("filaments", "radius", (0.3, 0.4)),
            ("filaments", "persistence", (1.0, 1.2)),
            ("filaments", "filaments", (2.0, 2.0)),
            ("membranes", "cell", (1.0, 1.2)),
            ("membranes", "wall", (0.5, 0.6)),
            ("epithelium", "inside", (0.5, 0.6)),
            ("puncta", "ball", (0.4, 0.5)),
            ("puncta", "puncta", (3.0, 3.0)),
            ("vesicles", "shell", (0.3, 0.35)),
            ("vesicles", "skin", (0.3, 0.35)),
            ("vesicles", "vesicles", (0.5, 0.6)),
            ("epithelium", "relief", (0.9, 0.95)),
            ("epithelium", "swing", (2.0, 3.0)),
            ("puncta", "spread", 0.9),
            ("level_sets", "wave", (5.0, 6.0)),
            ("level_sets", "half", (0.5, 0.6)),
            ("level_sets", "full", (0.8, 0.9)),
        ]
    },
    **{
        f"PsfSpec.{field}": (partial(_psf, kind, field), value)
        for kind, field, value in [
            ("widefield", "kind", "confocal"),
            ("widefield", "na", 0.5),
            ("widefield", "wavelength", 0.6),
            ("confocal", "excitation", 0.4),
            ("widefield", "refractive_index", 1.5),
            ("confocal", "pinhole", 0.3),
            ("light_sheet", "sheet_na", 0.3),
        ]
    },
    **{
        f"{name}.{field}": (partial(_pair, task, part, fixed, field), value)
        for name, part, task, fixed, field, value in [
            ("OpticsSpec", "optics", "denoise", {}, "kinds", ["confocal"]),
            ("OpticsSpec", "optics", "denoise", {}, "na", (0.3, 0.4)),
            ("OpticsSpec", "optics", "denoise", {}, "wavelength", (0.4, 0.41)),
            ("OpticsSpec", "optics", "denoise", CONFOCAL, "shift", (1.3, 1.4)),
            ("OpticsSpec", "optics", "denoise", {}, "refractive_index", (1.5, 1.52)),
            ("OpticsSpec", "optics", "denoise", CONFOCAL, "pinhole", (0.1, 0.2)),
            ("OpticsSpec", "optics", "denoise", SHEET, "sheet_na", (0.3, 0.4)),
            ("CameraSpec", "camera", "denoise", {}, "photons", (5.0, 6.0)),
            ("CameraSpec", "camera", "denoise", {}, "gain", (9.0, 9.0)),
            ("CameraSpec", "camera", "denoise", {}, "offset", (0.0, 1.0)),
            ("CameraSpec", "camera", "denoise", {}, "read_noise", (9.0, 9.0)),
            ("MediumSpec", "medium", "denoise", {}, "glow", (0.9, 0.9)),
            ("MediumSpec", "medium", "denoise", {"glow": (0.4, 0.4)}, "glow_width", (0.3, 0.4)),
            ("MediumSpec", "medium", "destripe", {}, "attenuation", (2.0, 3.0)),
            ("MediumSpec", "medium", "destripe", {}, "stripes", (0.9, 1.0)),
            ("MediumSpec", "medium", "destripe", {}, "period", (0.3, 0.4)),
            ("ClutterSpec", "clutter", "project", {}, "share", (0.5, 0.6)),
            ("ClutterSpec", "clutter", "project", {}, "brightness", (2.0, 3.0)),
            ("ClutterSpec", "clutter", "project", {}, "radius", (0.1, 0.2)),
            ("ClutterSpec", "clutter", "project", {}, "gap", (0.0, 0.1)),
            ("DegradeSpec", "", "denoise", {}, "optics", {"na": (0.3, 0.4)}),
            ("DegradeSpec", "", "denoise", {}, "camera", {"photons": (5.0, 6.0)}),
            ("DegradeSpec", "", "denoise", {}, "medium", {"glow": (0.9, 0.9)}),
            ("DegradeSpec", "", "project", {}, "clutter", {"share": (0.5, 0.6)}),
            ("DegradeSpec", "", "super_resolve", {}, "undersampling", 3),
            ("DegradeSpec", "", "isotropic", {}, "planes", 2),
            ("DegradeSpec", "", "light_field", {}, "views", 3),
            ("DegradeSpec", "", "light_field", {}, "depth", 8),
            ("DegradeSpec", "", "light_field", {}, "disparity", (1.0, 1.1)),
        ]
    },
}
"""As in ``test_spec_fields``: what is looked at, and the value that must change it."""
