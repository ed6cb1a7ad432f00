"""A residual 3-D U-Net of finite reach, for any spacing.

Kernels are 3³ everywhere. The z stride of each level is chosen when the network runs: 1 until the voxel of that
level is within 1.5 of isotropic, 2 from then on, so that one set of weights serves every anisotropy. Full
resolution is where the voxels are, so it is kept to one convolution on each side. Nothing has spatial statistics,
so a voxel's value does not depend on the tile that it was computed in.

After Çiçek et al., "3D U-Net" (MICCAI 2016), with residual blocks (He et al. 2016) and sums in place of
concatenations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from aequorea.layers.conv import Conv, ConvUnit, Pointwise, Residual, convolve_image
from aequorea.layers.norm import BatchNorm
from aequorea.layers.upsample import add_upsampled
from aequorea.plugs import Layout
from aequorea.specs import Spec
from aequorea.volume import ORIGIN, Region, Spacing, Triple

WIDTHS = {"tiny": 16, "small": 32}
ROLES = 8
ISOTROPIC = 1.5
SLAB = 16
"""Planes of the finest level that evaluation computes at a time: that level weighs more than all others together."""
HALO = 0.3
"""Share of the reach that is computed by default: what lies farther away passes through the coarsest level alone."""


class UNetSpec(Spec):
    """Recipe of a :class:`UNet`.

    Attributes
    ----------
    size
        ``tiny`` (16 channels at full resolution) or ``small`` (32); channels double per level.
    levels
        Resolutions. Each one more doubles the reach, and with it the halo of a tile.
    """

    size: Literal["tiny", "small"] = "tiny"
    levels: int = Field(default=4, ge=2, le=6)


class UNet(nn.Module):
    """Residual U-Net: x_BCZYX of any size and number of channels to a pyramid, finest first."""

    Spec = UNetSpec
    ndim = 3
    trainable = True
    cuts = True
    points = (r"(encoder|decoder|down)\.\d+\..*conv",)

    def __init__(self, spec: UNetSpec) -> None:
        super().__init__()
        self.spec = spec
        widths = [WIDTHS[spec.size] * 2**i for i in range(spec.levels)]
        self.embed: nn.Conv3d = Conv(1, widths[0], bias=False)
        # One kernel for every channel; what a channel is, is learnt as a gain per role that starts at one.
        self.roles = nn.Parameter(torch.zeros(ROLES, widths[0]))
        self.embed_norm: nn.Module = BatchNorm(widths[0])
        self.down = nn.ModuleList(ConvUnit(a, b) for a, b in pairwise(widths))
        self.encoder = nn.ModuleList(Residual(w) for w in widths[1:])
        self.narrow = nn.ModuleList(Pointwise(b, a) for a, b in pairwise(widths))
        self.decoder = nn.ModuleList([ConvUnit(widths[0], widths[0]), *(Residual(w) for w in widths[1:-1])])
        self._widths = tuple(widths)

    def strides(self, spacing: Spacing | None) -> list[Triple]:
        """Return the stride (z, y, x) from each level to the next at a spacing (``None``: isotropic)."""
        ratio = 1.0 if spacing is None else spacing[0] / min(spacing[1:])
        steps: list[Triple] = []
        for _ in range(self.spec.levels - 1):
            step = 1 if ratio > ISOTROPIC else 2
            ratio *= step / 2
            steps.append((step, 2, 2))
        return steps

    def layout(self, spacing: Spacing | None) -> Layout:
        """Return channels, strides, grid and reach at a spacing."""
        steps = self.strides(spacing)
        strides: list[Triple] = [(1, 1, 1)]
        for step in steps:
            last = strides[-1]
            strides.append((last[0] * step[0], last[1] * step[1], last[2] * step[2]))
        grid = strides[-1]
        z, y, x = (_reach([step[axis] for step in steps], grid[axis]) for axis in range(3))
        halo_z, halo_y, halo_x = (max(g, round(HALO * r / g) * g) for r, g in zip((z, y, x), grid))
        # The finest level, two of the second one's tensors, and slabs.
        held = 1.4 + 4 / math.prod(steps[0])
        return Layout(self._widths, tuple(strides), grid, (z, y, x), (halo_z, halo_y, halo_x), held, SLAB + 4)

    def forward(
        self, x: Tensor, spacing: Spacing | None, origin: Triple = ORIGIN, kept: Region | None = None
    ) -> list[Tensor]:
        """Return the decoder's pyramid, finest level first, each cropped to ceil(size / stride).

        ``kept``: the part of x that the finest level is made of.
        """
        steps = self.strides(spacing)
        size = x.shape[2:]
        kept = kept or Region.whole(size)
        if size[0] == 1:
            steps = [(1, step[1], step[2]) for step in steps]
        strides = [(1, 1, 1)]
        for step in steps:
            strides.append(tuple(a * b for a, b in zip(strides[-1], step)))  # type: ignore[arg-type]
        pad = [-n % s for n, s in zip(size, strides[-1])]
        if any(pad):
            x = F.pad(x, (0, pad[2], 0, pad[1], 0, pad[0]))
        fine = self._embed(x) if torch.is_grad_enabled() else None
        second = self._descend(x, steps[0]) if fine is None else self.down[0](fine, steps[0])
        skips = [self.encoder[0](second)]
        del second
        for step, down, block in zip(steps[1:], self.down[1:], self.encoder[1:]):
            skips.append(block(down(skips[-1], step)))
        levels = [skips.pop()]
        for i in reversed(range(1, len(steps))):
            coarse = self.narrow[i](levels[0])
            levels.insert(0, self.decoder[i](add_upsampled(skips.pop(), coarse, steps[i])))
        coarse = self.narrow[0](levels[0])
        if fine is None:
            finest = self._ascend(x, coarse, steps[0], kept)
        else:
            finest = self.decoder[0](add_upsampled(fine, coarse, steps[0]))[(..., *kept.slices)]
        return [
            finest,
            *(
                level[..., : -(-size[0] // s[0]), : -(-size[1] // s[1]), : -(-size[2] // s[2])]
                for level, s in zip(levels, strides[1:])
            ),
        ]

    def _descend(self, x: Tensor, step: Triple) -> Tensor:
        """Return the second level's first features; full resolution exists for a few planes at a time."""
        parts = [
            self.down[0](self._embed(x[:, :, outer]), step)[:, :, _over(inner, step[0])]
            for outer, inner in _slabs(x.shape[2])
        ]
        return torch.cat(parts, 2)

    def _ascend(self, x: Tensor, coarse: Tensor, step: Triple, kept: Region) -> Tensor:
        """Return a part of the finest level from the second one, narrowed, and the image, which is embedded again."""
        # After two convolutions two voxels at a cut are not right.
        near = kept.grow((2, 2, 2)).snap(step).clip(Region.whole(x.shape[2:]))
        planes, rows, columns = (_over(part, s) for part, s in zip(near.slices, step))
        x, coarse = x[(..., *near.slices)], coarse[..., planes, rows, columns]
        out: Tensor | None = None
        for outer, inner in _slabs(x.shape[2]):
            fine = add_upsampled(self._embed(x[:, :, outer]), coarse[:, :, _over(outer, step[0])], step)
            part = self.decoder[0](fine)[:, :, inner]
            if out is None:
                shape = (*part.shape[:2], *x.shape[2:])
                out = torch.empty(
                    shape, dtype=part.dtype, device=part.device, memory_format=torch.channels_last_3d
                )
            out[:, :, outer.start + inner.start : outer.start + inner.stop] = part
        assert out is not None
        return out[(..., *kept.relative_to(near).slices)]

    def _embed(self, x: Tensor) -> Tensor:
        out = convolve_image(x, self.embed.weight.to(x.dtype), self.roles, self.embed.bias)
        return F.relu(self.embed_norm(out), inplace=True)

    def fold(self) -> None:
        """Fold the first normalisation into the first kernel; the module is for evaluation from then on."""
        if isinstance(self.embed_norm, BatchNorm):
            self.embed = nn.utils.fusion.fuse_conv_bn_eval(self.embed.eval(), self.embed_norm.eval())
            self.embed_norm = nn.Identity()


def _slabs(planes: int) -> Iterator[tuple[slice, slice]]:
    """Yield planes to compute and, of these, the right ones: after two convolutions two at a cut are not."""
    for start in range(0, planes, SLAB):
        stop = min(planes, start + SLAB)
        low, high = max(0, start - 2), min(planes, stop + 2)
        yield slice(low, high), slice(start - low, stop - low)


def _over(planes: slice, step: int) -> slice:
    return slice(planes.start // step, planes.stop // step)


def _reach(steps: list[int], grid: int) -> int:
    """Return how far along one axis an output voxel sees, at the worst phase on the grid.

    Intervals of needed voxels are followed backwards through the network: a 3-wide convolution widens by one, a
    strided one maps j to [s j - 1, s j + 1], nearest upsampling maps i to i // s.
    """

    def encoder(level: int, low: int, high: int) -> tuple[int, int]:
        if level == 0:
            return low - 1, high + 1
        low, high = low - 2, high + 2
        step = steps[level - 1]
        return encoder(level - 1, step * low - 1, step * high + 1)

    def decoder(level: int, low: int, high: int) -> tuple[int, int]:
        if level == len(steps):
            return encoder(level, low, high)
        margin = 1 if level == 0 else 2
        low, high = low - margin, high + margin
        a, b = encoder(level, low, high)
        c, d = decoder(level + 1, low // steps[level], high // steps[level])
        return min(a, c), max(b, d)

    spans = [(phase, *decoder(0, phase, phase)) for phase in range(grid)]
    return max(max(phase - low, high - phase) for phase, low, high in spans)
