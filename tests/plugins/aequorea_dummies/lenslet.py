"""Light field: one plane of n x n pixels per lenslet becomes a volume."""

import torch.nn.functional as F
from torch import nn

from aequorea.volume import Region

from .restoring import Restoring

N, DEPTH = 4, 3


class Views(nn.Module):
    """The body's grid is the lenslets'; the views are averaged in rows of the lenslet."""

    def domain(self, size, spacing):
        coarse = None if spacing is None else (spacing[0], spacing[1] * N, spacing[2] * N)
        return (1, size[1] // N, size[2] // N), coarse

    def reads(self, region, size):
        return Region((0, *(N * a for a in region.start[1:])), (1, *(N * b for b in region.stop[1:])))

    def forward(self, image):
        return F.avg_pool3d(image, (1, N, N))


class Planes(nn.Module):
    """One channel per plane becomes the z axis."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, DEPTH, 1)

    def forward(self, levels, x):
        return self.conv(levels[0]).transpose(1, 2)

    def output_grid(self, region, spacing):
        return Region((0, *region.start[1:]), (DEPTH, *region.stop[1:])), spacing


class Lenslet(Restoring):
    """The registered task."""

    def stem(self):
        return Views()

    def head(self, layout):
        return Planes(layout.channels[0])
