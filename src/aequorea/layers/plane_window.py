"""A stem that reads neighbouring planes as channels: a volume is restored plane by plane, each with those around it.

After Ma et al. (Nature Methods 21, 2024).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aequorea.plugs import Placement
from aequorea.volume import Region, Spacing, Triple


class PlaneWindow(nn.Module):
    """Each plane with as many before and after it; those that the stack lacks are copies of the plane itself.

    Parameters
    ----------
    planes
        Of a window: an odd number.
    """

    def __init__(self, planes: int = 5) -> None:
        super().__init__()
        self.around = planes // 2

    def domain(self, size: Triple, spacing: Spacing | None) -> Placement:
        """Return the image's own grid."""
        return size, spacing

    def reads(self, region: Region, size: Triple) -> Region:
        """Return the region with the planes around it, also where the image has none."""
        return region.grow((self.around, 0, 0))

    def forward(self, image: Tensor) -> Tensor:
        """Return windows_BCZYX: of the channels of image_BCZYX, each with its planes one after another."""
        windows = image.unfold(2, 2 * self.around + 1, 1).movedim(-1, 2)
        middle = windows[:, :, self.around : self.around + 1]
        return torch.where(torch.isnan(windows), middle, windows).flatten(1, 2)
