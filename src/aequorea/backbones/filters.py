"""A fixed bank of filters as a backbone: nothing to train but the head.

What people paint with. Under a thousand stroke voxels a logistic regression on these responses is better than
any network that we tried; a network has to beat it first. The filters: :mod:`aequorea.signal.filters`.
"""

from __future__ import annotations

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from aequorea.errors import DataError
from aequorea.plugs import Layout
from aequorea.signal import filters
from aequorea.specs import Spec
from aequorea.volume import ORIGIN, Spacing, Triple


class FiltersSpec(Spec):
    """Recipe of :class:`Filters`.

    Attributes
    ----------
    scales
        Standard deviations in multiples of the finest voxel edge; the largest sets the reach.
    channels
        Channels of the images; each gets the whole bank.
    """

    scales: tuple[PositiveFloat, ...] = Field(default=(0.7, 1.6, 3.5, 6.0), min_length=1)
    channels: int = Field(default=1, ge=1)


class Filters(nn.Module):
    """Filter responses of finite x_BCZYX at every voxel: one level, the bank of one channel after another."""

    Spec = FiltersSpec
    ndim = 3
    trainable = False
    points: tuple[str, ...] = ()

    def __init__(self, spec: FiltersSpec) -> None:
        super().__init__()
        self.spec = spec

    @property
    def names(self) -> list[str]:
        """Name of each filter, in the order of a channel's responses."""
        return filters.names(self.spec.scales)

    def layout(self, spacing: Spacing | None) -> Layout:
        """Return channels, strides, grid and reach at a spacing."""
        plan = filters.scales(self.spec.scales, spacing)
        gz, gy, gx = (max(scale.stride[axis] for scale in plan) for axis in range(3))
        rz, ry, rx = (max(scale.reach[axis] for scale in plan) for axis in range(3))
        channels = len(self.names) * self.spec.channels
        # Gaussians fade: 0.6 of the reach leaves 2e-4 of the result, 0.3 would leave 4e-3.
        halo_z, halo_y, halo_x = (-(-round(0.6 * r) // g) * g for r, g in zip((rz, ry, rx), (gz, gy, gx)))
        return Layout((channels,), ((1, 1, 1),), (gz, gy, gx), (rz, ry, rx), (halo_z, halo_y, halo_x))

    @torch.no_grad()
    def forward(self, x: Tensor, spacing: Spacing | None, origin: Triple = ORIGIN) -> list[Tensor]:
        """Return one level_BCZYX of float32 responses; no gradient flows back.

        Raises
        ------
        DataError
            If the image has another number of channels than the spec.
        """
        if x.shape[1] != self.spec.channels:
            raise DataError(
                f"the filters were set up for {self.spec.channels} channel(s), the image has {x.shape[1]}: "
                "pick channels with --channel"
            )
        size = len(self.names)
        level = x.new_empty((x.shape[0], size * x.shape[1], *x.shape[2:]), dtype=torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            for image, responses in zip(x, level):
                for channel, out in zip(image, responses.split(size)):
                    filters.respond(channel.float().contiguous(), self.spec.scales, spacing, out)
        return [level]
