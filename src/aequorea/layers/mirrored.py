"""A network that looks at everything several times: as it is, mirrored, and with y and x exchanged.

A specimen has no preferred direction in the plane, a trained network has: the mean over directions is nearer to the
truth (Timofte et al., "Seven ways to improve example-based single image super resolution", CVPR 2016).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from aequorea.layers.network import Network
from aequorea.volume import ORIGIN, Region, Spacing, Triple


class Turn(NamedTuple):
    """Axes along which is mirrored, 2 to 4 of BCZYX; then y and x are exchanged, or not."""

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

    @property
    def upside_down(self) -> bool:
        """Whether it is mirrored along z."""
        return 2 in self.mirrored

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

    Where y and x differ in voxel size they are not exchanged, and it is half the work. Where a head makes planes
    between planes (``between``), for which above and below are alike, they are mirrored along z too, and it is twice
    the work. Before it is mirrored an image goes on as its border is to a multiple of the body's grid, so that tiles
    are cut alike in all of them.

    Parameters
    ----------
    network
        Its parts are shared.
    """

    def __init__(self, network: Network) -> None:
        super().__init__(network.stem, network.backbone, network.head)

    def sight(self, spacing: Spacing | None) -> tuple[Triple | None, Triple]:
        """Return how far an output voxel sees, as :meth:`Network.sight`; upside down, planes belong to the next one."""
        reach, halo = super().sight(spacing)
        more = int(getattr(self.head, "between", 1) > 1)
        return None if reach is None else (reach[0] + more, *reach[1:]), (halo[0] + more, *halo[1:])

    def forward(
        self, image: Tensor, spacing: Spacing | None, origin: Triple = ORIGIN, kept: Region | None = None
    ) -> Tensor:
        """Return output_BKZYX for image_BCZYX; see :meth:`Network.forward`."""
        size, _ = self.stem.domain(tuple(image.shape[2:]), None)
        grid = self.backbone.layout(spacing).grid
        kept = kept or Region.whole(size)
        between: int = getattr(self.head, "between", 1)
        z, y, x = (-(-n // g) * g for n, g in zip(size, grid))
        length: Triple = (z if between > 1 else size[0], y, x)
        more = [(n - old) * (pixels // old) for n, old, pixels in zip(length, size, image.shape[2:])]
        image = F.pad(image, (0, more[2], 0, more[1], 0, more[0]), mode="replicate") if any(more) else image
        box = Region.at(origin, length)
        total, count = None, None
        for turn in self._turns(spacing, between):
            part, early = kept, 0
            if turn.upside_down:
                # The planes after a plane come before it then: one more plane, and those before the first are cut.
                part = Region(kept.start, (min(kept.stop[0] + 1, length[0]), *kept.stop[1:]))
                early = between - 1
            # As if the whole volume had been mirrored at its origin: windows of tiles and whole lie alike.
            start = turn.region(box, ORIGIN).start
            out = turn.back(super().forward(turn.of(image), spacing, start, turn.region(part, length)))
            if total is None or count is None:
                total, count = torch.zeros_like(out), out.new_zeros(out.shape[2], 1, 1)
            out = out[:, :, early:][:, :, : total.shape[2]]
            total[:, :, : out.shape[2]] += out
            count[: out.shape[2]] += 1
        assert total is not None and count is not None
        return total / count

    def _turns(self, spacing: Spacing | None, between: int) -> Iterator[Turn]:
        alike = spacing is None or abs(spacing[1] - spacing[2]) <= 1e-3 * spacing[2]
        for *along, exchanged in product((False, True), repeat=4):
            if (alike or not exchanged) and (between > 1 or not along[0]):
                yield Turn([axis for axis, on in enumerate(along, 2) if on], exchanged)
