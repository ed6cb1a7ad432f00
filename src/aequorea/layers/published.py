"""Stems and heads of the networks that Ma et al. (Nature Methods 21, 2024) published, one or two for each task."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from aequorea.layers.lenslet_unet import LensletUNet
from aequorea.layers.nonlocal_attention import SurfaceStem
from aequorea.layers.plane_window import PlaneWindow
from aequorea.layers.stems import PlainStem
from aequorea.layers.tail import SectionsTail, Tail
from aequorea.specs import Spec

TaskName = Literal["super_resolve", "denoise", "isotropic", "project", "light_field"]


class PublishedSpec(Spec):
    """Sizes of a published network, but for those of its body.

    Attributes
    ----------
    task
        What it does.
    middle
        Channels between the last convolutions.
    scale
        Output pixels along y and x for each (``super_resolve``).
    planes
        Read at once (``denoise``, ``project``).
    features, matched, random, groups, units
        Of the first stage of a projection, see :class:`aequorea.layers.nonlocal_attention.SurfaceStem`.
    views, depth, start, base, pyramid
        Of the first stage of a light field, see :class:`aequorea.layers.lenslet_unet.LensletUNet`.
    """

    task: TaskName = "denoise"
    middle: int = Field(default=32, ge=1)
    scale: int = Field(default=2, ge=1)
    planes: int = Field(default=5, ge=1)
    features: int = Field(default=256, ge=1)
    matched: int = Field(default=64, ge=1)
    random: int = Field(default=128, ge=1)
    groups: int = Field(default=8, ge=0)
    units: int = Field(default=8, ge=0)
    views: int = Field(default=11, ge=1)
    depth: int = Field(default=61, ge=1)
    start: int = Field(default=128, ge=32, multiple_of=32)
    base: int = Field(default=64, ge=1)
    pyramid: tuple[int, ...] = Field(default=(128, 256, 512, 512, 512), min_length=1)

    @property
    def channels(self) -> int:
        """Channels that the stem gives the body for one channel of the image."""
        if self.task == "light_field":
            return self.depth
        return self.planes if self.task == "denoise" else 1

    @property
    def normalisation(self) -> str:
        """How the published network's images are scaled.

        ``range``: least to most of each image is 0 to 1; ``percentiles``: 2nd to 99.8th of the whole stack are 0 to 1;
        ``counts``: not at all; ``highest``: 0 to 1.1 times the most is -1 to 1.
        """
        return {
            "super_resolve": "range",
            "denoise": "percentiles",
            "isotropic": "percentiles",
            "project": "counts",
            "light_field": "highest",
        }[self.task]


def published_stem(spec: PublishedSpec) -> nn.Module:
    """Return the stem."""
    if spec.task == "denoise" and spec.planes > 1:
        return PlaneWindow(spec.planes)
    if spec.task == "project":
        return SurfaceStem(spec.planes, spec.features, spec.matched, spec.random, spec.groups, spec.units)
    if spec.task == "light_field":
        return LensletUNet(spec.views, spec.depth, spec.start, spec.base, spec.pyramid)
    return PlainStem()


def published_head(spec: PublishedSpec, width: int) -> nn.Module:
    """Return the head for a body of ``width`` channels."""
    if spec.task == "isotropic":
        return SectionsTail(width, spec.middle)
    if spec.task == "light_field":
        return Tail(width, spec.depth, spec.middle, depth=True)
    scale = spec.scale if spec.task == "super_resolve" else 1
    return Tail(width, middle=spec.middle, scale=scale, residual=spec.task == "project")
