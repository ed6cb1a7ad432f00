"""Heads: from a backbone's pyramid to dense output channels."""

from __future__ import annotations

from torch import Tensor, nn

from aequorea.layers.conv import Pointwise
from aequorea.layers.upsample import at_full_resolution
from aequorea.volume import Region, Spacing, Triple


class DenseHead(nn.Module):
    """A linear map of the finest level, one answer per voxel of the body's grid.

    Parameters
    ----------
    channels
        Channels of the pyramid's finest level.
    stride
        Voxels per step of that level (z, y, x); above 1 the answer is upsampled trilinearly.
    outputs
        Output channels.
    """

    local = True

    def __init__(self, channels: int, stride: Triple, outputs: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = Pointwise(channels, outputs)

    def forward(self, levels: list[Tensor], x: Tensor) -> Tensor:
        """Return output_BKZYX of as many voxels as x_BCZYX from the pyramid, finest level first."""
        return at_full_resolution(self.conv(levels[0]), self.stride, x)

    def output_grid(self, region: Region, spacing: Spacing | None) -> tuple[Region, Spacing | None]:
        """Return the region itself: the output lies on the body's grid."""
        return region, spacing
