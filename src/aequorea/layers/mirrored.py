"""A network that looks at everything eight times: as it is, mirrored along y and x, and with y and x exchanged.

A specimen has no preferred direction in the plane, a trained network has: the mean over directions is nearer to the
truth (Timofte et al., "Seven ways to improve example-based single image super resolution", CVPR 2016).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from aequorea.layers.network import Network
from aequorea.volume import ORIGIN, Region, Spacing, Triple


class Turn(NamedTuple):
    """Axes along which is mirrored, 3 (y) and 4 (x) of BCZYX; then y and x are exchanged, or not."""

    mirrored: list[int]
    exchanged: bool

    def of(self, x: Tensor) -> Tensor:
        """Return x_BCZYX, turned."""
        x = x.flip(self.mirrored)
        return x.transpose(3, 4) if self.exchanged else x

    def back(self, x: Tensor) -> Tensor:
        """Return a turned x_BCZYX as it was."""
        x = x.transpose(3, 4) if self.exchanged else x
        return x.flip(self.mirrored)

    def region(self, region: Region, length: Triple) -> Region:
        """Return where a region of a box from the origin, so long, lies when the box is turned."""
        ends = [(a, b) for a, b in zip(region.start, region.stop)]
        for axis in self.mirrored:
            a, b = ends[axis - 2]
            ends[axis - 2] = length[axis - 2] - b, length[axis - 2] - a
        (z, z_stop), (y, y_stop), (x, x_stop) = (ends[0], ends[2], ends[1]) if self.exchanged else ends
        return Region((z, y, x), (z_stop, y_stop, x_stop))


class Mirrored(Network):
    """The mean of what a network says of an image and of its mirror images, back in place; eight times the work.

    Where y and x differ in voxel size they are not exchanged, and it is four times the work. Before it is mirrored an
    image goes on as its border is to a multiple of the body's grid, so that tiles are cut alike in all of them.

    Parameters
    ----------
    network
        Its parts are shared.
    """

    def __init__(self, network: Network) -> None:
        super().__init__(network.stem, network.backbone, network.head)

    def forward(
        self, image: Tensor, spacing: Spacing | None, origin: Triple = ORIGIN, kept: Region | None = None
    ) -> Tensor:
        """Return output_BKZYX for image_BCZYX; see :meth:`Network.forward`."""
        size, _ = self.stem.domain(tuple(image.shape[2:]), None)
        grid = self.backbone.layout(spacing).grid
        kept = kept or Region.whole(size)
        longer = (size[0], *(-(-n // g) * g for n, g in zip(size[1:], grid[1:])))
        length: Triple = (longer[0], longer[1], longer[2])
        more = [(n - old) * (pixels // old) for n, old, pixels in zip(length, size, image.shape[2:])]
        image = F.pad(image, (0, more[2], 0, more[1], 0, 0), mode="replicate") if any(more) else image
        box = Region.at(origin, length)
        total: Tensor | None = None
        count = 0
        for turn in self._turns(spacing):
            # As if the whole volume had been mirrored at its origin: windows of tiles and whole lie alike.
            start = turn.region(box, (0, 0, 0)).start
            out = turn.back(super().forward(turn.of(image), spacing, start, turn.region(kept, length)))
            total, count = out if total is None else total + out, count + 1
        assert total is not None
        return total / count

    def _turns(self, spacing: Spacing | None) -> Iterator[Turn]:
        alike = spacing is None or abs(spacing[1] - spacing[2]) <= 1e-3 * spacing[2]
        for along_y, along_x, exchanged in product((False, True), (False, True), (False, True)):
            if alike or not exchanged:
                yield Turn([axis for axis, on in ((3, along_y), (4, along_x)) if on], exchanged)
