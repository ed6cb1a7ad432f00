"""A network that makes a first volume of the views that one light-field image holds.

Views are brought to sixteen times the lenslets' grid, then go through a U-Net whose deepest planes are 7 x 7 for
16 x 16 lenslets. After Wang et al., "Real-time volumetric reconstruction of biological dynamics with light-field
microscopy and deep learning" (Nature Methods 18, 2021), as Ma et al. (Nature Methods 21, 2024) use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aequorea.plugs import Placement
from aequorea.volume import Region, Spacing, Triple

STEPS = 4
"""Doublings of the lenslets' grid."""


class Doubling(nn.Module):
    """A convolution whose channels become pixels, and another one.

    Parameters
    ----------
    channels
        In; half as many come out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(channels, channels, 3, padding=1)
        self.two = nn.Conv2d(channels // 4, channels // 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return planes of twice the size of x_BCYX."""
        out: Tensor = self.two(F.pixel_shuffle(self.one(x), 2))
        return out


class NormedUnit(nn.Module):
    """Convolution, normalisation and ReLU, or ReLU and normalisation.

    Parameters
    ----------
    inputs, outputs
        Channels.
    active_first
        Whether the ReLU comes before the normalisation.
    """

    def __init__(self, inputs: int, outputs: int, active_first: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = nn.BatchNorm2d(outputs)
        self.active_first = active_first

    def forward(self, x: Tensor) -> Tensor:
        """Return planes of the size of x_BCYX."""
        out: Tensor = self.conv(x)
        if self.active_first:
            return self.norm(F.relu(out))  # type: ignore[no-any-return]
        return F.relu(self.norm(out))


class LensletUNet(nn.Module):
    """The stem: lenslet image in, planes as channels out, on the image's grid.

    Frozen (no parameter trains) it stays in evaluation, so that its normalisations keep what they have measured.

    Parameters
    ----------
    views
        Pixels along y and x under each lenslet, n.
    depth
        Planes.
    start
        Channels at the lenslets' grid; halved by each doubling.
    base
        Channels at the full grid.
    pyramid
        Channels of the levels, finest first.
    """

    reach = None

    def __init__(
        self,
        views: int = 11,
        depth: int = 61,
        start: int = 128,
        base: int = 64,
        pyramid: Sequence[int] = (128, 256, 512, 512, 512),
    ) -> None:
        super().__init__()
        self.views = views
        self.spread = nn.Conv2d(views**2, start, 7, padding=3)
        self.doublings = nn.ModuleList(Doubling(start >> i) for i in range(STEPS))
        fine = start >> STEPS
        self.smooth = NormedUnit(fine, fine)
        self.widen = NormedUnit(fine, base)
        widths = [base, *pyramid]
        self.encoder = nn.ModuleList(NormedUnit(a, b) for a, b in pairwise(widths))
        # Level i gets the next coarser result beside its own input; the finest one's outputs are the planes.
        outputs = [depth, *pyramid[:-1]]
        self.decoder = nn.ModuleList(
            NormedUnit(
                widths[i] + (outputs[i + 1] if i + 1 < len(pyramid) else pyramid[-1]), outputs[i], True
            )
            for i in reversed(range(len(pyramid)))
        )

    def train(self, mode: bool = True) -> Self:
        """Begin training, unless nothing here trains."""
        return super().train(mode and any(p.requires_grad for p in self.parameters()))

    def domain(self, size: Triple, spacing: Spacing | None) -> Placement:
        """Return the grid of the pixels under whole lenslets."""
        n = self.views
        return (1, size[1] // n * n, size[2] // n * n), spacing

    def reads(self, region: Region, size: Triple) -> Region:
        """Return the region itself, in the first plane."""
        return Region((0, *region.start[1:]), (1, *region.stop[1:]))

    def forward(self, image: Tensor) -> Tensor:
        """Return planes_BD1YX of the first channel of a light field_BC1YX."""
        return self.planes(F.pixel_unshuffle(image[:, 0:1, 0], self.views))[:, :, None]

    def planes(self, views: Tensor) -> Tensor:
        """Return planes_BDYX of views_BVYX; view n·i + j is every n-th pixel from row i and column j."""
        size = [self.views * n for n in views.shape[2:]]
        x = self.spread(views)
        for doubling in self.doublings:
            x = doubling(x)
        x = self.widen(self.smooth(x))
        skips = []
        for unit in self.encoder:
            skips.append(x)
            y = unit(x)
            y = torch.cat([y[:, : x.shape[1]] + x, y[:, x.shape[1] :]], 1)
            x = F.max_pool2d(y, 3, 2) if min(y.shape[2:]) >= 3 else y
        for unit, skip in zip(self.decoder, reversed(skips)):
            x = F.interpolate(x, size=skip.shape[2:], mode="bilinear")
            x = unit(torch.cat([skip, x], 1))
        return torch.tanh(F.interpolate(x, size=size, mode="bilinear"))
