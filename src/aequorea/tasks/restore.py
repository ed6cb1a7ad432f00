"""Images made better: denoising, super-resolution, isotropic reconstruction, projection, light fields, deblurring.

All learn an image from an image. What differs is where the output lies, which stem and head say. In training a target
is brought to the units of its image (:mod:`aequorea.workflows.pairs`), so that what comes out is in the counts of what
went in.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from aequorea.annotations import Annotation, TargetImage
from aequorea.layers.plane_window import PlaneWindow
from aequorea.layers.published import PublishedSpec, published_head, published_stem
from aequorea.layers.restoring import AddingHead, Anchor, LossName, PlanesHead, SurfaceHead, VolumeHead, loss
from aequorea.layers.stems import DepthStem, LensletStem, PlainStem
from aequorea.plugs import Layout
from aequorea.results import Output, Result
from aequorea.scores.restoration import restoration_scores
from aequorea.specs import Spec
from aequorea.volume import Array, Region, Spacing, Triple, Volume

THREADS = 2
"""Shards that are written at a time."""


class RestorationSpec(Spec):
    """What every restoration has.

    Attributes
    ----------
    loss
        ``log_l2`` (what a mean of PSNR asks for), ``fitted`` (the same, after a line of least squares between what is
        found and the target), ``l2``, ``l1``, ``charbonnier`` or ``ssim``.
    channels
        Of the target; 0: as many as the training targets show.
    published
        Sizes of a published network, whose stem and head take the place of the task's own; its body is ``swinir``.
    """

    # How bright a target is, blur and the planes that shine through each other do not let an image tell.
    loss: LossName = "fitted"
    channels: int = Field(default=0, ge=0)
    published: PublishedSpec | None = None


class Restoration:
    """What all restorations share: the target is an image, the result the layer ``restored`` in the input's counts."""

    Spec: ClassVar[type[Spec]] = RestorationSpec
    over: Literal["voxels"] = "voxels"
    annotation: Literal["image"] = "image"
    skips_constant = False
    in_counts = True
    better = "psnr"
    dense_dtype = "float32"
    anchor: ClassVar[Anchor] = "centre"

    def __init__(self, spec: Any) -> None:
        self.spec = spec

    @property
    def outputs(self) -> int:
        """Output channels."""
        return max(1, int(self.spec.channels))

    @property
    def planes(self) -> int:
        """Channels that the stem gives the body for each of the image."""
        published: PublishedSpec | None = self.spec.published
        return int(getattr(self.spec, "planes", 1)) if published is None else published.channels

    @property
    def dense_channels(self) -> tuple[str, ...]:
        """Names of the output channels."""
        return tuple(f"restored {i}" for i in range(self.outputs)) if self.outputs > 1 else ("restored",)

    def resolve(self, annotations: Sequence[Annotation]) -> Self:
        """Return the task with as many channels as the targets have."""
        shown = [a.volume.shape[0] for a in annotations if isinstance(a, TargetImage)]
        channels = self.spec.channels or max(shown, default=1)
        return type(self)(self.spec.model_copy(update={"channels": channels}))

    def facts(self, annotations: Sequence[Annotation]) -> dict[str, float]:
        """Return nothing: images have no objects."""
        return {}

    def stem(self) -> nn.Module:
        """Return the task's own stem, or that of the published network."""
        return self.own_stem() if self.spec.published is None else published_stem(self.spec.published)

    def head(self, layout: Layout) -> nn.Module:
        """Return the task's own head, or that of the published network."""
        if self.spec.published is None:
            return self.own_head(layout)
        return published_head(self.spec.published, layout.channels[0])

    def own_stem(self) -> nn.Module:
        """Return the ordinary stem."""
        return PlainStem()

    def own_head(self, layout: Layout) -> nn.Module:
        """Return a head that adds to the image, on its own grid."""
        return AddingHead(layout.channels[0], layout.strides[0], self.outputs)

    def target(self, annotation: Annotation, spacing: Spacing | None) -> Volume:
        """Return the target image as float32, NaN where it is not finite."""
        assert isinstance(annotation, TargetImage)
        image = annotation.volume

        def reader(region: Region) -> Array:
            block = image.read(region).astype(np.float32)
            block[~np.isfinite(block)] = np.nan
            return block

        return replace(image, reader=reader, dtype=np.dtype(np.float32), levels=())

    def strata(self, target: Array) -> Array:
        """Return 0 per voxel, -1 where nothing is known: all voxels are of one kind."""
        kinds: Array = np.where(np.isfinite(target).all(0), 0, -1).astype(np.int8)
        return kinds

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the loss of the recipe over voxels whose target is known."""
        return loss(self.spec.loss, output, target)

    def store(self, output: Tensor) -> Tensor:
        """Return the output as it is."""
        return output.to(torch.float32)

    def decode(self, dense: Volume, image: Volume | None, out: Output, point: dict[str, float]) -> None:
        """Write the layer ``restored``, of the type that the stored output has been given."""
        layer = out.layer(
            "restored",
            size=dense.size,
            dtype=dense.dtype,
            kind="image",
            channels=dense.channels,
            spacing=dense.spacing,
        )
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(lambda region: layer.write(region, dense.read(region)), list(layer.pending())):
                pass
        layer.finish()

    def calibrate(self, dense: Sequence[Volume], truth: Sequence[Annotation]) -> dict[str, float]:
        """Return nothing: there is no threshold."""
        return {}

    def score(self, result: Result, truth: Annotation, spacing: Spacing | None) -> dict[str, float]:
        """Return PSNR, SSIM and NRMSE of the restored image, all voxels, the range from the target."""
        assert isinstance(truth, TargetImage)
        return restoration_scores(result.layers["restored"], truth.volume, fit=True)


class DenoiseSpec(RestorationSpec):
    """Recipe of :class:`Denoise`.

    Attributes
    ----------
    planes
        Of a volume that are read at once to restore the middle one of them, an odd number. 1: the body alone decides
        what it sees; one of planes sees single planes, one of volumes sees volumes.
    smeared
        Share of the training samples whose noise is smeared over neighbouring pixels. For a model that will see other
        cameras than it learnt from, 0.5: noise that a camera bins or interpolates is else taken for structure. For the
        same camera 0 is better.
    """

    loss: LossName = "log_l2"
    planes: int = Field(default=1, ge=1, le=9)
    smeared: float = Field(default=0.0, ge=0, le=1)

    @field_validator("planes")
    @classmethod
    def _odd(cls, planes: int) -> int:
        if planes % 2 == 0:
            raise ValueError("expected an odd number: a plane and as many before as after it")
        return planes


class Denoise(Restoration):
    """Noise taken out of planes and volumes."""

    Spec = DenoiseSpec

    def own_stem(self) -> nn.Module:
        """Return the ordinary stem, or one that makes channels of neighbouring planes."""
        return PlainStem() if self.spec.planes == 1 else PlaneWindow(self.spec.planes)

    def own_head(self, layout: Layout) -> nn.Module:
        """Return a head that adds to the middle plane."""
        return AddingHead(layout.channels[0], layout.strides[0], self.outputs, planes=self.spec.planes)


class Deblur(Restoration):
    """Blur taken out, on the same grid."""


class SuperResolveSpec(RestorationSpec):
    """Recipe of :class:`SuperResolve`.

    Attributes
    ----------
    factor
        Output voxels for each along y and x: 2, 3 or 4.
    """

    factor: int = Field(default=2, ge=2, le=4)


class SuperResolve(Restoration):
    """Finer voxels in y and x."""

    Spec = SuperResolveSpec

    def own_head(self, layout: Layout) -> nn.Module:
        """Return a head whose voxels divide the image's."""
        factor: Triple = (1, self.spec.factor, self.spec.factor)
        return AddingHead(layout.channels[0], layout.strides[0], self.outputs, factor)


class IsotropicSpec(RestorationSpec):
    """Recipe of :class:`Isotropic`.

    Attributes
    ----------
    factor
        Output planes for each: how many times coarser than y and x the z step is.
    """

    loss: LossName = "log_l2"
    factor: int = Field(default=4, ge=2, le=16)


class Isotropic(Restoration):
    """Planes between the planes: plane k of the image is plane k·factor of the output."""

    Spec = IsotropicSpec
    anchor = "corner"

    def own_head(self, layout: Layout) -> nn.Module:
        """Return a head that gives planes between those of the image."""
        return PlanesHead(layout.channels[0], layout.strides[0], self.outputs, self.spec.factor)


class Project(Restoration):
    """One plane of a stack of any depth: the surface that runs through it."""

    def own_stem(self) -> nn.Module:
        """Return a stem that reads all planes."""
        return DepthStem()

    def own_head(self, layout: Layout) -> nn.Module:
        """Return a head that finds the surface."""
        return SurfaceHead(layout.channels[0], layout.strides[0], self.outputs)


class LightFieldSpec(RestorationSpec):
    """Recipe of :class:`LightField`.

    Attributes
    ----------
    views
        Pixels along y and x under each lenslet: views of the volume.
    depth
        Output planes.
    step
        Lenslets by which neighbouring views shift per plane, where training begins; negative: depth runs the other way.
    z_step
        Between output planes, µm; 0: as the files of the training targets say. Where they do not, results have that
        of a lenslet, for want of a better one.
    """

    views: int = Field(default=11, ge=2, le=40)
    depth: int = Field(default=16, ge=1)
    step: float = Field(default=0.08, ge=-1, le=1)
    z_step: float = Field(default=0.0, ge=0)


class LightField(Restoration):
    """A volume of the views that one light-field image holds, its voxels as fine as that image's pixels."""

    Spec = LightFieldSpec

    def resolve(self, annotations: Sequence[Annotation]) -> Self:
        """Return the task with the channels of the targets, and with their z step."""
        known = super().resolve(annotations)
        spacings = [a.volume.spacing for a in annotations if isinstance(a, TargetImage)]
        steps = [spacing[0] for spacing in spacings if spacing is not None]
        z_step = known.spec.z_step or (float(np.median(steps)) if steps else 0.0)
        return type(self)(known.spec.model_copy(update={"z_step": z_step}))

    def own_stem(self) -> nn.Module:
        """Return a stem that makes a first volume of the views."""
        return LensletStem(self.spec.views, self.spec.depth, self.spec.step)

    def own_head(self, layout: Layout) -> nn.Module:
        """Return a head that gives all planes."""
        spec = self.spec
        factor: Triple = (1, spec.views, spec.views)
        return VolumeHead(
            layout.channels[0], layout.strides[0], self.outputs, factor, spec.depth, spec.z_step
        )
