"""Stems: what is read of an image, as the body wants it."""

from __future__ import annotations

from torch import Tensor, nn

from aequorea.plugs import Placement
from aequorea.volume import Region, Spacing, Triple


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
