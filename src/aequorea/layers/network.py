"""Stem, body and head as one network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from aequorea.volume import ORIGIN, Spacing, Triple

PROBE: Triple = (64, 64, 64)
"""Size of an image to ask a stem about: its spacing does not depend on it."""


class Network(nn.Module):
    """What a model computes: image_BCZYX to output_BKZYX.

    Parameters
    ----------
    stem, backbone, head
        Modules that fulfil the contracts of :mod:`aequorea.plugs`.
    """

    def __init__(self, stem: Any, backbone: Any, head: Any) -> None:
        super().__init__()
        self.stem, self.backbone, self.head = stem, backbone, head

    def body_spacing(self, spacing: Spacing | None) -> Spacing | None:
        """Return the spacing of the body's grid for images of a spacing (z, y, x in µm, or None)."""
        found: Spacing | None = self.stem.domain(PROBE, spacing)[1]
        return found

    def sight(self, spacing: Spacing | None) -> tuple[Triple | None, Triple]:
        """Return how far an output voxel sees, and how much of it is computed by default: stem, body and head together.

        In voxels (z, y, x) of the body's grid, of that spacing; ``None`` where it sees the whole image.
        """
        layout = self.backbone.layout(spacing)
        ends = [getattr(part, "reach", (0, 0, 0)) for part in (self.stem, self.head)]
        halo_z, halo_y, halo_x = (sum(n) for n in zip(layout.halo, *ends))
        if layout.reach is None:
            return None, (halo_z, halo_y, halo_x)
        z, y, x = (sum(n) for n in zip(layout.reach, *ends))
        return (z, y, x), (halo_z, halo_y, halo_x)

    def levels(
        self, image: Tensor, spacing: Spacing | None, origin: Triple = ORIGIN
    ) -> tuple[list[Tensor], Tensor]:
        """Return the body's pyramid (finest first) of image_BCZYX and what the stem made of it, x_BCZYX."""
        x: Tensor = self.stem(image)
        if x.shape[1] == x.shape[2] == 1:
            # One channel of one plane marked as channels-last comes out of a 3³ convolution in bfloat16 wrong
            # (PyTorch 2.13 on processors); .contiguous() would not see the difference.
            x = x.clone(memory_format=torch.contiguous_format)
        if self.backbone.ndim == 3:
            return self.backbone(x, spacing, origin), x
        batch, planes = x.shape[0], x.shape[2]
        flat = x.transpose(1, 2).reshape(batch * planes, x.shape[1], 1, *x.shape[3:])
        levels = self.backbone(flat, spacing, origin)
        return [t.reshape(batch, planes, t.shape[1], *t.shape[3:]).transpose(1, 2) for t in levels], x

    def forward(self, image: Tensor, spacing: Spacing | None, origin: Triple = ORIGIN) -> Tensor:
        """Return output_BKZYX for image_BCZYX.

        Spacing (z, y, x in µm, or None) is that of the body's grid; origin, where what is given begins on it.
        """
        levels, x = self.levels(image, spacing, origin)
        out: Tensor = self.head(levels, x)
        return out
