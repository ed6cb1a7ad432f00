"""Stems: what is read of an image, as the body wants it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aequorea.plugs import Placement
from aequorea.volume import Region, Spacing, Triple

NEAR = 3
"""Lenslets to each side that a plane is mixed of at least: light is spread by diffraction, too."""


class PlainStem(nn.Module):
    """The ordinary stem: the body works on the image's own voxels."""

    def domain(self, size: Triple, spacing: Spacing | None) -> Placement:
        """Return the image's own grid."""
        return size, spacing

    def reads(self, region: Region, size: Triple) -> Region:
        """Return the region itself."""
        return region

    def forward(self, image: Tensor) -> Tensor:
        """Return image_BCZYX unchanged."""
        return image


class DepthStem(nn.Module):
    """Reads all planes of a stack, whose body's grid is one plane."""

    def domain(self, size: Triple, spacing: Spacing | None) -> Placement:
        """Return one plane."""
        return (1, size[1], size[2]), spacing

    def reads(self, region: Region, size: Triple) -> Region:
        """Return the region in all planes."""
        return Region((0, *region.start[1:]), (size[0], *region.stop[1:]))

    def forward(self, image: Tensor) -> Tensor:
        """Return image_BCZYX unchanged: the head makes one plane of it."""
        return image


class LensletStem(nn.Module):
    """A first volume of a light field: planes of the lenslets' grid, mixed of the views near by.

    View d = n·i + j is every n-th pixel from row i and column j. A point at some depth lies in each view at another
    place, so a plane at that depth is a sum of views, each shifted: one convolution that begins as that
    (shift and add, Levoy et al., "Light field microscopy", 2006) and learns what is better.

    Parameters
    ----------
    views
        Pixels along y and x under each lenslet, n.
    depth
        Planes.
    step
        Lenslets by which neighbouring views shift per plane, to begin with.
    """

    def __init__(self, views: int, depth: int, step: float) -> None:
        super().__init__()
        self.views, self.depth = views, depth
        far = max(NEAR, math.ceil(abs(step) * (views - 1) / 2 * (depth - 1) / 2))
        self.mix = nn.Conv2d(views**2, depth, 2 * far + 1, padding=far)
        self.reach: Triple = (0, far, far)
        with torch.no_grad():
            self.mix.weight.copy_(_shift_and_add(views, depth, step, far))
            assert self.mix.bias is not None
            self.mix.bias.zero_()

    def domain(self, size: Triple, spacing: Spacing | None) -> Placement:
        """Return the grid of the lenslets; the volume's z step is their pitch, for want of a better one."""
        n = self.views
        coarse = None if spacing is None else (spacing[1] * n, spacing[1] * n, spacing[2] * n)
        return (1, size[1] // n, size[2] // n), coarse

    def reads(self, region: Region, size: Triple) -> Region:
        """Return the pixels under the lenslets of a region, which are in one plane."""
        n = self.views
        return Region(
            (0, n * region.start[1], n * region.start[2]), (1, n * region.stop[1], n * region.stop[2])
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return volume_B1ZYX of a light field_B11YX."""
        volume: Tensor = self.mix(F.pixel_unshuffle(image[:, :1, 0], self.views))
        return volume[:, None]


def _shift_and_add(views: int, depth: int, step: float, far: int) -> Tensor:
    """Return the kernel_DVYX by which plane d is the mean of all views, each shifted by its angle times the depth."""
    angles = torch.arange(views) - (views - 1) / 2
    depths = step * (torch.arange(depth) - (depth - 1) / 2)
    places = torch.arange(-far, far + 1)
    # Of plane, view and lenslet along one axis: two lenslets near where the view shows the plane share the weight.
    share = (1 - (depths[:, None, None] * angles[:, None] - places).abs()).clamp(min=0)
    kernel = share[:, :, None, :, None] * share[:, None, :, None, :] / views**2
    return kernel.flatten(1, 2)
