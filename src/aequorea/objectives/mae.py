"""Masked reconstruction: hide most of a patch and ask for it.

The answer is a residual to the Gaussian fill of the hidden voxels (:mod:`aequorea.signal.fill`), so that training
begins at the score of a strong rival and whatever it learns is more than smoothing. A body that can
(:class:`aequorea.backbones.hiera.Hiera`) does not compute what is hidden; any other gets the fill in its place.

K. He et al., "Masked Autoencoders Are Scalable Vision Learners" (CVPR 2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from aequorea.signal.fill import choose_widths, fill
from aequorea.signal.optics import blur, light_sheet_sigma
from aequorea.specs import Spec
from aequorea.volume import ORIGIN, Array, Spacing, Triple

TRIED = 6
"""Patches of a volume on which the widths of its fill are chosen."""
GAIN = 0.1
"""Of the head: what it says at first is little beside the fill."""
STEADY = 1e-4
"""Added to the variance of the visible voxels: patches without signal are not blown up."""
MEAN, SPREAD = 0.15, 0.15
"""Of the voxels of a normalised volume, usually: what a body is shown has about these, as what it will be used on."""
NA, WAVELENGTH = (0.1, 0.6), (0.45, 0.7)
"""Numerical apertures and wavelengths (µm) of the microscopes that are imitated."""
PHOTONS = (20.0, 500.0)
"""At the intensity 1, of their noise."""


class MAESpec(Spec):
    """Recipe of :class:`MAE`.

    Attributes
    ----------
    unit
        Voxels along y and x of what is hidden as one; along z as many as are as long.
    hidden
        Share of the units that is hidden.
    optics
        Share of the patches that are seen through another microscope: blurred and noisy before they are masked.
    """

    unit: Literal[8, 16] = 8
    hidden: float = Field(default=0.65, ge=0.5, le=0.9)
    optics: float = Field(default=0.1, ge=0, le=1)


class MAE(nn.Module):
    """Masked reconstruction on any body; owns the linear map that gives voxels back."""

    Spec = MAESpec

    def __init__(self, spec: MAESpec) -> None:
        super().__init__()
        self.spec = spec
        self.head = nn.LazyLinear(1)

    def survey(
        self, patch: Callable[[Any], Array], backbone: nn.Module, spacing: Spacing | None, rng: Any
    ) -> dict[str, Any]:
        """Return what :meth:`prepare` needs to know of a volume: its mask units and the widths of its fill.

        Parameters
        ----------
        patch
            Gives a normalised patch_CZYX of the volume, drawn with a generator.
        backbone
            Whose grid the units must fit.
        spacing
            Of the volume, µm (z, y, x).
        rng
            Draws patches and masks.
        """
        first = patch(rng)
        size = (first.shape[1], first.shape[2], first.shape[3])
        unit, group = self._units(backbone, spacing, size)
        facts = {"unit": unit, "group": group, "spacing": spacing}
        samples = []
        for _ in range(TRIED):
            image = patch(rng)[0]
            samples.append((image, spread(self._mask(image.shape, facts, rng), unit, image.shape)))
        return {**facts, "widths": choose_widths(samples)}

    def prepare(self, patch: Array | None, rng: Any, facts: dict[str, Any] | None = None) -> dict[str, Array]:
        """Return target (1 Z Y X), image (with the fill in the holes) and what is hidden (units and voxels, Z Y X).

        One channel of the patch, at random, in standard deviations of its visible voxels from their mean: dim patches
        teach as much as bright ones. The facts are those of :meth:`survey`; with ``unchanged`` among them the patch
        is not seen through another microscope.

        The body is shown this at the brightness and contrast of a usual volume (:data:`MEAN`). Shown it as it is, it
        learnt as well and transferred badly: under strokes Dice .63 in the mean of three volumes, where the same body
        reached .71 on images moved to what it had been shown.
        """
        assert patch is not None and facts is not None, "masked reconstruction needs volumes"
        target = np.array(patch[int(rng.integers(len(patch)))], np.float32)
        if rng.random() < self.spec.optics and not facts.get("unchanged"):
            target = _through_optics(target, facts["spacing"], rng)
        hidden = self._mask(target.shape, facts, rng)
        voxels = spread(hidden, facts["unit"], target.shape)
        seen = target[~voxels]
        target = (target - seen.mean()) / np.sqrt(seen.var() + STEADY)
        return {
            "target": target[None],
            "image": fill(target, voxels, facts["widths"])[None],
            "hidden": hidden,
            "voxels": voxels[None],
        }

    def forward(
        self, backbone: nn.Module, batch: dict[str, Tensor], spacing: Spacing | None
    ) -> dict[str, Tensor]:
        """Return the mean squared error over hidden voxels."""
        error = (self._answer(backbone, batch, spacing) - batch["target"]).square() * batch["voxels"]
        each = error.sum((1, 2, 3, 4)) / batch["voxels"].sum((1, 2, 3, 4)).clamp(min=1)
        return {"hidden": each.clamp(max=4.0).mean()}

    def residuals(
        self, backbone: nn.Module, batch: dict[str, Tensor], spacing: Spacing | None
    ) -> dict[str, Tensor]:
        """Return sums (B,) of squared errors over hidden voxels of the answer, the fill and the visible mean."""
        target, voxels = batch["target"], batch["voxels"]
        seen = ~voxels
        mean = (target * seen).sum((2, 3, 4), keepdim=True) / seen.sum((2, 3, 4), keepdim=True)
        answers = {
            "network": self._answer(backbone, batch, spacing),
            "Gaussian fill": batch["image"],
            "visible mean": mean,
        }
        return {
            name: ((answer.float() - target).square() * voxels).sum((1, 2, 3, 4))
            for name, answer in answers.items()
        }

    def pictures(
        self, backbone: nn.Module, batch: dict[str, Tensor], spacing: Spacing | None
    ) -> dict[str, Tensor]:
        """Return what was recorded, what was shown of it, and both answers; axes B 1 Z Y X."""
        target = batch["target"]
        return {
            "recorded": target,
            "shown": torch.where(batch["voxels"], target.min(), target),
            "Gaussian fill": batch["image"],
            "network": self._answer(backbone, batch, spacing),
        }

    def after_step(self, step: int) -> None:
        """Do nothing."""

    def _answer(self, backbone: nn.Module, batch: dict[str, Tensor], spacing: Spacing | None) -> Tensor:
        image = batch["image"]
        shown = MEAN + SPREAD * image
        if hasattr(backbone, "mask_unit"):
            levels = backbone(shown, spacing, ORIGIN, batch["hidden"])
        else:
            levels = backbone(shown, spacing)
        size = image.shape[2:]
        residual: Tensor = self.head(levels[0].movedim(1, -1)).movedim(-1, 1)
        return image + GAIN * residual[..., : size[0], : size[1], : size[2]].float()

    def _units(self, backbone: nn.Module, spacing: Spacing | None, size: Triple) -> tuple[Triple, Triple]:
        """Return the voxels of a mask unit, and how many units (z, y, x) make one of the body's own."""
        own = getattr(backbone, "mask_unit", None)
        if own is None:
            ratio = 1.0 if spacing is None else spacing[0] / min(spacing[1:])
            depth = 2 ** max(0, round(math.log2(self.spec.unit / ratio)))
            unit = (1 if size[0] == 1 else min(depth, self.spec.unit), self.spec.unit, self.spec.unit)
            return unit, (1, 1, 1)
        unit = own(self.spec.unit, spacing)
        grid = backbone.layout(spacing).grid  # type: ignore[operator]
        if size[0] == 1:
            unit, grid = (1, *unit[1:]), (1, *grid[1:])
        z, y, x = (g // u for g, u in zip(grid, unit))
        return unit, (z, y, x)

    def _mask(self, size: Any, facts: dict[str, Any], rng: Any) -> NDArray[np.bool_]:
        """Return hidden units: of all the same number in every patch, or of each of the body's units."""
        counts = [-(-n // u) for n, u in zip(size, facts["unit"])]
        group = facts["group"]
        inside = math.prod(group)
        if inside == 1:
            total = math.prod(counts)
            hidden = rng.permutation(total) < min(total - 1, round(self.spec.hidden * total))
            return np.asarray(hidden.reshape(counts))
        outer = [-(-c // g) for c, g in zip(counts, group)]
        shown = max(1, math.floor(inside * (1 - self.spec.hidden) + 0.5))
        order = rng.random((math.prod(outer), inside)).argsort(1)
        hidden = (order >= shown).reshape(*outer, *group).transpose(0, 3, 1, 4, 2, 5)
        return np.ascontiguousarray(hidden.reshape([o * g for o, g in zip(outer, group)]))


def spread(hidden: NDArray[np.bool_], unit: Triple, size: Any) -> NDArray[np.bool_]:
    """Return the hidden voxels (Z Y X) of hidden units."""
    for axis, n in enumerate(unit):
        hidden = hidden.repeat(n, axis)
    return np.ascontiguousarray(hidden[: size[0], : size[1], : size[2]])


def _through_optics(image: Array, spacing: Spacing | None, rng: Any) -> Array:
    """Return a patch (Z Y X) as another light-sheet microscope would have seen it."""
    if spacing is not None:
        sigma = light_sheet_sigma(float(rng.uniform(*NA)), float(rng.uniform(*WAVELENGTH)))
        image = blur(image, sigma, spacing)
    photons = float(np.exp(rng.uniform(*np.log(PHOTONS))))
    noise = rng.standard_normal(image.shape, np.float32) * np.sqrt(np.maximum(image, 0) / photons)
    return np.asarray(image + noise, np.float32)
