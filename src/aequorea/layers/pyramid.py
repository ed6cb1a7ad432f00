"""A light decoder: from coarse tokens and the image to a pyramid down to single voxels.

Tokens come in through linear maps; levels are upsampled trilinearly, so that neither the grid of the tokens nor that of
two voxels shows. Full resolution has one convolution of the image and no other, so that structures of one voxel survive
at a tenth of what a full level would cost.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aequorea.layers.conv import ConvUnit, Pointwise, Residual, convolve_image
from aequorea.layers.upsample import trilinear
from aequorea.volume import Triple

FINE = 16
"""Channels at full resolution, and of the level between it and the finest tokens."""


class PyramidDecoder(nn.Module):
    """Levels, finest first, from token grids and image.

    Parameters
    ----------
    inputs
        Channels of each token grid, finest first.
    width
        Channels of the levels made of them.
    roles
        Most channels that an image may have.
    between
        Whether there is a level between full resolution and the finest tokens.
    """

    def __init__(self, inputs: Sequence[int], width: int, roles: int, between: bool) -> None:
        super().__init__()
        self.channels = (*([FINE] * (2 if between else 1)), *(width for _ in inputs))
        self.lateral = nn.ModuleList(Pointwise(n, width) for n in inputs)
        self.blocks = nn.ModuleList(Residual(width) for _ in inputs[:-1])
        self.narrow = Pointwise(width, FINE)
        self.between = ConvUnit(FINE, FINE) if between else None
        # Nothing is normalised at full resolution, where that would cost more than the convolution.
        first = nn.Conv3d(1, FINE, 3)
        self.kernel, self.bias = nn.Parameter(first.weight.detach()), first.bias
        self.roles = nn.Parameter(torch.zeros(roles, FINE))

    def forward(self, image: Tensor, grids: list[Tensor], strides: Sequence[Triple]) -> list[Tensor]:
        """Return the pyramid of image_BCZYX.

        Parameters
        ----------
        image
            Of a size that all strides divide.
        grids
            Tokens, finest first, axes B C Z Y X.
        strides
            Voxels per step of each level that is returned.
        """
        levels = [self.lateral[-1](grids[-1])]
        for i in reversed(range(len(grids) - 1)):
            levels.insert(
                0, self.blocks[i](self.lateral[i](grids[i]) + trilinear(levels[0], grids[i].shape[2:]))
            )
        coarse = self.narrow(levels[0])
        if self.between is not None:
            coarse = self.between(trilinear(coarse, [n // s for n, s in zip(image.shape[2:], strides[1])]))
            levels.insert(0, coarse)
        fine = convolve_image(image, self.kernel, self.roles, self.bias)
        levels.insert(0, F.relu(fine + trilinear(coarse, image.shape[2:])))
        return levels
