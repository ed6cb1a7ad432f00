"""Heads of published restoration networks: three or more convolutions of planes, to the same grid or a finer.

After Ma et al. (Nature Methods 21, 2024); pixels are made of channels as in Shi et al. (CVPR 2016).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aequorea.errors import SpecError
from aequorea.layers.upsample import finer_grid
from aequorea.volume import Region, Spacing, Triple

SLOPE = 0.01


class Tail(nn.Module):
    """Convolutions of the finest level, plane by plane.

    Parameters
    ----------
    width
        Channels of that level.
    outputs
        Of each plane.
    middle
        Channels between the convolutions.
    scale
        Output pixels along y and x for each: 3 or a power of 2.
    residual
        Whether what the stem gave the body is added.
    depth
        Whether the outputs of a plane are the planes of a volume.

    Raises
    ------
    SpecError
        For other scales.
    """

    uncropped = True

    def __init__(
        self,
        width: int,
        outputs: int = 1,
        middle: int = 32,
        scale: int = 1,
        residual: bool = False,
        depth: bool = False,
    ) -> None:
        super().__init__()
        steps = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
        if scale not in (3, 1 << len(steps)):
            raise SpecError(f"scale {scale}: use 3 or a power of 2")
        self.outputs, self.scale, self.residual, self.depth = outputs, scale, residual, depth
        self.reach: Triple = (0, 2, 2) if scale == 1 else (0, 3, 3)
        self.narrow = nn.Conv2d(width, middle, 3, padding=1)
        self.finer = nn.ModuleList(nn.Conv2d(middle, middle * step**2, 3, padding=1) for step in steps)
        self.steps = steps
        self.last = nn.Conv2d(middle, outputs, 3, padding=1)

    def forward(self, levels: list[Tensor], x: Tensor) -> Tensor:
        """Return output_BKZYX of the finest level, as large as x_BCZYX times the scale."""
        b, _, z, y, width = x.shape
        out: Tensor = self.planes(levels[0].transpose(1, 2).flatten(0, 1))[
            ..., : y * self.scale, : width * self.scale
        ]
        out = out.reshape(b, z, *out.shape[1:]).transpose(1, 2)
        if self.depth:
            out = out.transpose(1, 2)
        return x + out if self.residual else out

    def planes(self, level: Tensor) -> Tensor:
        """Return outputs_BKYX of level_BCYX, all of it."""
        x = F.leaky_relu(self.narrow(level.contiguous(memory_format=torch.channels_last)), SLOPE)
        for conv, step in zip(self.finer, self.steps):
            x = F.pixel_shuffle(conv(x), step)
        out: Tensor = self.last(x)
        return out

    def output_grid(self, region: Region, spacing: Spacing | None) -> tuple[Region, Spacing | None]:
        """Return the region on a grid that is finer by the scale, or as deep as the outputs."""
        fine, spacing = finer_grid(region, spacing, (1, self.scale, self.scale))
        if self.depth:
            fine = Region((0, *fine.start[1:]), (self.outputs, *fine.stop[1:]))
        return fine, spacing


class SectionsTail(nn.Module):
    """One volume of two levels, of planes across x and of planes across y: the root of the product of both.

    What is below 0 counts as 0, after Weigert et al., "Isotropic reconstruction of 3D fluorescence microscopy images
    using convolutional neural networks" (MICCAI 2017).

    Parameters
    ----------
    width
        Channels of each level.
    middle
        As of :class:`Tail`.
    """

    uncropped = True

    def __init__(self, width: int, middle: int = 32) -> None:
        super().__init__()
        self.tail = Tail(width, middle=middle)
        self.reach: Triple = (2, 2, 2)

    def forward(self, levels: list[Tensor], x: Tensor) -> Tensor:
        """Return output_B1ZYX of the size of x_BCZYX."""
        first, second = self.passes(levels, x)
        return (first.clamp(min=0) * second.clamp(min=0)).sqrt()

    def passes(self, levels: list[Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what planes across x and planes across y gave, each B1ZYX."""
        b, _, z, y, width = x.shape
        # Columns of planes across x are z from its end, so what was padded there lies before plane 0.
        across_x = self.tail.planes(levels[0].permute(0, 4, 1, 3, 2).flip(4).flatten(0, 1))
        across_y = self.tail.planes(levels[1].permute(0, 3, 1, 4, 2).flatten(0, 1))
        first = across_x.view(b, width, *across_x.shape[1:])[..., :y, :z].flip(4).permute(0, 2, 4, 3, 1)
        second = across_y.view(b, y, *across_y.shape[1:])[..., :width, :z].permute(0, 2, 4, 1, 3)
        return first, second

    def output_grid(self, region: Region, spacing: Spacing | None) -> tuple[Region, Spacing | None]:
        """Return the region itself."""
        return region, spacing
