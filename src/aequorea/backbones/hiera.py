"""A 3-D hierarchical vision transformer that computes only what it is shown.

The image is cut into units of 4 x 4 x 4 tokens. The first two stages attend inside units, the last one inside windows
of 64 voxels, a token for each unit; from stage to stage 2³ tokens become one. Windows lie on a grid anchored at the
volume's origin, and nothing has spatial statistics, so that the reach is finite and a voxel has one value whatever
the tiling. Hidden units (or eighths of units) are dropped before anything is computed, which is what makes
pretraining by masked reconstruction cheap. A light decoder brings tokens and image to single voxels.

One set of weights serves every anisotropy: the first kernel is resampled along z to the stride that makes a token
about as long in z as in y and x (as in FlexiViT, Beyer et al., CVPR 2023).

After Ryali et al., "Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles" (ICML 2023), with an
overlapping first kernel and a convolutional decoder.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aequorea.layers.attention import Block
from aequorea.layers.conv import role_kernels
from aequorea.layers.pyramid import PyramidDecoder
from aequorea.plugs import Layout
from aequorea.specs import Spec
from aequorea.volume import ORIGIN, Spacing, Triple

SIZES = {
    "tiny": ((64, 128, 192), (1, 1, 3), 32),
    "small": ((96, 192, 384), (2, 2, 5), 32),
    "base": ((128, 256, 512), (2, 3, 9), 48),
}
"""Channels and blocks of each stage, and channels of the decoder."""
TOKENS = 4
"""Tokens along each axis of a unit."""
WINDOW = 64
"""Voxels along y and x of a window."""
ROLES = 8
FILLINGS = 3
"""Rounds in which hidden cells of the coarsest grid take the mean of those around them."""


class HieraSpec(Spec):
    """Recipe of a :class:`Hiera`.

    Attributes
    ----------
    size
        ``tiny`` (3 M parameters), ``small`` (10 M) or ``base`` (32 M).
    patch
        Voxels along y and x of a token. 2 sees finer structures and costs about four times as much.
    """

    size: Literal["tiny", "small", "base"] = "tiny"
    patch: Literal[4, 2] = 4


class Hiera(nn.Module):
    """Hierarchical transformer and decoder: columnsBCZYX of any size to a pyramid, finest first."""

    Spec = HieraSpec
    ndim = 3
    trainable = True
    points = (r"stages\.\d+\.\d+\.(qkv|out|up|down)",)

    def __init__(self, spec: HieraSpec) -> None:
        super().__init__()
        self.spec = spec
        widths, depths, width = SIZES[spec.size]
        patch = spec.patch
        first = nn.Conv3d(1, widths[0], 2 * patch)
        self.embed = nn.Parameter(first.weight.detach())
        self.roles = nn.Parameter(torch.zeros(ROLES, widths[0]))
        self.bias = nn.Parameter(torch.zeros(widths[0]))
        self.in_unit = nn.Parameter(0.02 * torch.randn(TOKENS, TOKENS, TOKENS, widths[0]))
        units = WINDOW // (TOKENS * patch)
        self.in_window = nn.Parameter(0.02 * torch.randn(units, units, units, widths[2]))
        before = (widths[0], *widths)
        self.stages = nn.ModuleList(
            nn.ModuleList(Block(before[i] if n == 0 else widths[i], widths[i]) for n in range(depths[i]))
            for i in range(3)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(w) for w in widths)
        self.decoder = PyramidDecoder(widths, width, ROLES, between=patch > 2)

    def z_patch(self, spacing: Spacing | None) -> int:
        """Return the voxels along z of a token at a spacing: 4, 2 or 1, at most as many as along y and x."""
        ratio = 1.0 if spacing is None else spacing[0] / min(spacing[1:])
        options = [n for n in (4, 2, 1) if n <= self.spec.patch]
        return min(options, key=lambda n: abs(math.log(n * ratio / self.spec.patch)))

    def mask_unit(self, voxels: int, spacing: Spacing | None) -> Triple:
        """Return the voxels (z, y, x) of what can be hidden as one: of about ``voxels`` along y and x.

        A unit or an eighth of one.
        """
        patch = self.spec.patch
        tokens = min((2, 4), key=lambda n: abs(n * patch - voxels))
        return tokens * self.z_patch(spacing), tokens * patch, tokens * patch

    def layout(self, spacing: Spacing | None) -> Layout:
        """Return channels, strides, grid and reach at a spacing."""
        z, patch = self.z_patch(spacing), self.spec.patch
        strides = self._strides(z, TOKENS)
        grid = (TOKENS * z, TOKENS * patch, TOKENS * patch)
        units = len(self.in_window)
        reach_z, reach_y, reach_x = (
            _reach([s[axis] for s in strides], grid[axis], units) for axis in range(3)
        )
        # What comes from farther away came through windows that are cut: little of it is seen at this distance.
        return Layout(self.decoder.channels, strides, grid, (reach_z, reach_y, reach_x), grid, held=4.5)

    def _strides(self, z: int, deep: int) -> tuple[Triple, ...]:
        """Return strides of the levels for tokens of ``z`` voxels along z and units ``deep`` tokens deep."""
        patch = self.spec.patch
        step = 2 if deep > 1 else 1
        tokens = [(z * step**i, patch * 2**i, patch * 2**i) for i in range(3)]
        between: list[Triple] = [(max(1, z // 2), patch // 2, patch // 2)] if patch > 2 else []
        return ((1, 1, 1), *between, *tokens)

    def forward(
        self, x: Tensor, spacing: Spacing | None, origin: Triple = ORIGIN, hidden: Tensor | None = None
    ) -> list[Tensor]:
        """Return the decoder's pyramid, finest level first, each cropped to ceil(size / stride).

        Parameters
        ----------
        x
            Images, axes B C Z Y X.
        spacing
            Of their voxels, µm (z, y, x).
        origin
            Where they begin on the volume's grid. In training windows lie at random places instead.
        hidden
            Which mask units are not looked at: bool, axes B Z Y X, of :meth:`mask_unit` voxels each. Of every unit all
            eighths are hidden or the same number, and in every image of the batch the same number of units. What ``x``
            holds there is seen by the decoder, and by kernels at the borders of what is visible: a fill.
        """
        size = x.shape[2:]
        z = self.z_patch(spacing)
        flat = size[0] == 1
        deep = 1 if flat else TOKENS
        if flat:
            z = 1
        voxels = (z, self.spec.patch, self.spec.patch)
        unit = (deep * z, TOKENS * self.spec.patch, TOKENS * self.spec.patch)
        pad = [-n % u for n, u in zip(size, unit)]
        if any(pad):
            x = F.pad(x, (0, pad[2], 0, pad[1], 0, pad[0]))
        tokens = self._embedded(x, z).movedim(1, -1)
        count = [-(-n // v) for n, v in zip(size, voxels)]
        units = (x.shape[2] // unit[0], x.shape[3] // unit[1], x.shape[4] // unit[2])
        if self.training:
            phase = torch.randint(len(self.in_window), (3,)).tolist()
            phase[0] *= not flat
        else:
            phase = [a // u % len(self.in_window) for a, u in zip(origin, unit)]
        groups = _Groups(x.shape[0], units, deep)
        seen = None
        if any(c != n * t for c, n, t in zip(count, units, (deep, TOKENS, TOKENS))):
            edge = [torch.arange(n, device=x.device) < c for n, c in zip(tokens.shape[1:4], count)]
            seen = groups.gather((edge[0][:, None, None] & edge[1][:, None] & edge[2])[None, ..., None])[
                ..., 0
            ]
            seen = seen.repeat(x.shape[0], 1)
        pyramid = self._encode(tokens, groups, phase, seen, hidden)
        strides = self._strides(z, deep)
        levels = self.decoder(x, pyramid, strides)
        return [
            level[..., : -(-size[0] // s[0]), : -(-size[1] // s[1]), : -(-size[2] // s[2])]
            for level, s in zip(levels, strides)
        ]

    def _embedded(self, x: Tensor, z: int) -> Tensor:
        """Return one token per patch, axes B C Z Y X; kernels overlap by half a patch on each side."""
        patch = self.spec.patch
        kernel: Tensor = self.embed
        long = z + 2 * ((z + 1) // 2)
        if long != kernel.shape[2]:
            kernel = F.interpolate(kernel, size=(long, *kernel.shape[3:]), mode="area") * (
                kernel.shape[2] / long
            )
        weight = role_kernels(kernel.to(x.dtype), self.roles, x.shape[1])
        out = F.conv3d(
            x,
            weight,
            self.bias.to(x.dtype),
            stride=(z, patch, patch),
            padding=((z + 1) // 2, patch // 2, patch // 2),
        )
        return out

    def _encode(
        self,
        tokens: Tensor,
        groups: _Groups,
        phase: list[int],
        seen: Tensor | None,
        hidden: Tensor | None,
    ) -> list[Tensor]:
        """Return the token grids of the three stages, finest first, axes B C Z Y X; hidden cells are 0."""
        position = self.in_unit[: groups.deep].to(tokens.dtype)
        planes, rows, columns = groups.units
        split = tokens.reshape(groups.batch, planes, groups.deep, rows, TOKENS, columns, TOKENS, -1)
        tokens = (split + position[:, None, :, None]).reshape(tokens.shape)
        x = groups.gather(tokens)
        kept = None
        if hidden is not None:
            kept = groups.kept(hidden)
            x = groups.visible(x, kept)
            if seen is not None:
                seen = groups.visible(seen[..., None], kept)[..., 0]
        grids = []
        inside = groups.length // groups.parts
        stages = [list(stage.children()) for stage in self.stages]
        for stage, blocks in enumerate(stages[:2]):
            for number, block in enumerate(blocks):
                x = block(x, inside if stage == 1 and number == 0 else 1, seen)
                if stage == 1 and number == 0 and seen is not None:
                    seen = seen.reshape(len(seen), -1, inside).any(-1)
            grids.append(groups.scatter(self.norms[stage](x), kept, stage))
        first, *others = stages[2]
        x = first(x, x.shape[1], seen)[:, 0]
        mine = None if seen is None else seen.any(-1)
        place = self.in_window.to(x.dtype)
        if kept is None:
            x = _in_windows(x, mine, groups, phase, place, others)
        else:
            x = _among_visible(x, groups, kept, phase, place, others)
        coarse = groups.scatter(self.norms[2](x)[:, None], kept, 2)
        if kept is not None:
            coarse = _filled(coarse, groups.scatter(torch.ones_like(x[:, None, :1]), kept, 2))
        return [*grids, coarse]


class _Kept(NamedTuple):
    """What is visible: for each visible unit its number (N, 1) and that of its visible eighths (N, K)."""

    units: Tensor
    parts: Tensor


class _Groups:
    """How tokens are grouped by unit: (batch, unit) first, then the eighths of a unit, then tokens of an eighth."""

    def __init__(self, batch: int, units: tuple[int, int, int], deep: int) -> None:
        self.batch, self.units, self.deep = batch, units, deep
        self.fold = (2 if deep > 1 else 1, 2, 2)
        self.inner = (deep // self.fold[0], TOKENS // 2, TOKENS // 2)
        self.parts = math.prod(self.fold)
        self.length = self.parts * math.prod(self.inner)

    def gather(self, grid: Tensor) -> Tensor:
        """Return groups (batch and unit, token, channel) of a grid of axes B Z Y X C."""
        b, channels = grid.shape[0], grid.shape[-1]
        split = [v for axis in range(3) for v in (self.units[axis], self.fold[axis], self.inner[axis])]
        return (
            grid.reshape(b, *split, channels)
            .permute(0, 1, 4, 7, 2, 5, 8, 3, 6, 9, 10)
            .reshape(b * math.prod(self.units), self.length, channels)
        )

    def kept(self, hidden: Tensor) -> _Kept:
        """Return what is visible of hidden mask units (bool, axes B Z Y X): units, or eighths of them."""
        cells = [n // u for n, u in zip(hidden.shape[1:], self.units)]
        if cells == [1, 1, 1]:
            units = torch.nonzero(~hidden.flatten())
            return _Kept(units, torch.arange(self.parts, device=hidden.device).expand(len(units), -1))
        split = [v for axis in range(3) for v in (self.units[axis], self.fold[axis])]
        shown = ~hidden.reshape(len(hidden), *split).permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, self.parts)
        units = torch.nonzero(shown.any(1))
        parts = torch.nonzero(shown)[:, 1].reshape(len(units), -1)
        return _Kept(units, parts)

    def visible(self, x: Tensor, kept: _Kept) -> Tensor:
        """Return visible groups of tokens (group, token, channel)."""
        parts = x.reshape(len(x), self.parts, -1, x.shape[-1])
        return parts[kept.units, kept.parts].flatten(1, 2)

    def scatter(self, x: Tensor, kept: _Kept | None, stage: int) -> Tensor:
        """Return the grid (axes B C Z Y X) of tokens (group, token, channel) of a stage; 0 where hidden."""
        channels = x.shape[-1]
        inner = self.inner if stage == 0 else (1, 1, 1)
        fold = self.fold if stage < 2 else (1, 1, 1)
        if kept is not None:
            full = x.new_zeros(
                (self.batch * math.prod(self.units), math.prod(fold), math.prod(inner), channels)
            )
            parts = kept.parts if stage < 2 else torch.zeros_like(kept.units)
            full[kept.units, parts] = x.reshape(len(x), parts.shape[1], -1, channels)
            x = full
        grid = x.reshape(self.batch, *self.units, *fold, *inner, channels)
        grid = grid.permute(0, 1, 4, 7, 2, 5, 8, 3, 6, 9, 10)
        size = [u * f * i for u, f, i in zip(self.units, fold, inner)]
        return grid.reshape(self.batch, *size, channels).permute(0, 4, 1, 2, 3)


def _in_windows(
    x: Tensor, seen: Tensor | None, groups: _Groups, phase: list[int], place: Tensor, blocks: list[nn.Module]
) -> Tensor:
    """Run blocks on all units (N, C), window by window; a window that is cut attends to what is there."""
    width = len(place)
    low = phase
    grid = x.reshape(groups.batch, *groups.units, -1)
    shown = (
        seen.reshape(groups.batch, *groups.units)
        if seen is not None
        else grid.new_ones(grid.shape[:4]).bool()
    )
    high = [-(a + n) % width for a, n in zip(low, groups.units)]
    margins = [v for a, b in zip(reversed(low), reversed(high)) for v in (a, b)]
    grid = F.pad(grid, (0, 0, *margins))
    shown = F.pad(shown, margins)
    counts = [n // width for n in grid.shape[1:4]]
    split = [v for n in counts for v in (n, width)]

    def windows(t: Tensor) -> Tensor:
        t = t.reshape(groups.batch, *split, -1).permute(0, 1, 3, 5, 2, 4, 6, 7)
        return t.reshape(-1, width**3, t.shape[-1])

    y = windows(grid) + place.reshape(1, width**3, -1)
    allowed = windows(shown)[..., 0]
    mask = None if bool(allowed.all()) else allowed
    for block in blocks:
        y = block(y, 1, mask)
    y = y.reshape(groups.batch, *counts, width, width, width, -1).permute(0, 1, 4, 2, 5, 3, 6, 7)
    y = y.reshape(groups.batch, *(n * width for n in counts), -1)
    cut = [slice(a, a + n) for a, n in zip(low, groups.units)]
    return y[:, cut[0], cut[1], cut[2]].reshape(len(x), -1)


def _among_visible(
    x: Tensor, groups: _Groups, kept: _Kept, phase: list[int], place: Tensor, blocks: list[nn.Module]
) -> Tensor:
    """Run blocks on the visible units (N, C), as many of each image; those of one window see each other."""
    width = len(place)
    number = kept.units[:, 0] % math.prod(groups.units)
    z, rest = number // (groups.units[1] * groups.units[2]), number % (groups.units[1] * groups.units[2])
    at = [a + p for a, p in zip((z, rest // groups.units[2], rest % groups.units[2]), phase)]
    window = torch.stack([a // width for a in at], 1).reshape(groups.batch, -1, 3)
    same = (window[:, :, None] == window[:, None]).all(-1)
    y = (x + place[at[0] % width, at[1] % width, at[2] % width]).reshape(groups.batch, -1, x.shape[-1])
    for block in blocks:
        y = block(y, 1, same)
    return y.reshape(len(x), -1)


def _filled(grid: Tensor, known: Tensor) -> Tensor:
    """Return a grid_BCZYX whose unknown cells are means of the known ones around them, round by round."""
    for _ in range(FILLINGS):
        near = 27 * F.avg_pool3d(F.pad(known, (1,) * 6), 3, 1)
        mean = 27 * F.avg_pool3d(F.pad(grid * known, (1,) * 6), 3, 1) / near.clamp(min=1)
        grid = torch.where(known > 0, grid, mean)
        known = (near > 0.5).to(known.dtype)
    return grid


def _reach(strides: list[int], unit: int, units: int) -> int:
    """Return how far along one axis an output voxel sees, at the worst phase on the grid of windows.

    Intervals of needed cells are followed backwards: a convolution widens by one, a residual block by two; trilinear
    upsampling by f maps i to the two cells around (i + .5) / f - .5; tokens need their window and half a patch around.
    """

    def coarser(low: int, high: int, factor: int) -> tuple[int, int]:
        return (
            math.floor((low + 0.5) / factor - 0.5) if factor > 1 else low,
            math.ceil((high + 0.5) / factor - 0.5) if factor > 1 else high,
        )

    period, finest = unit * units, len(strides) - 3
    furthest = 0
    for voxel in range(period):
        low = high = voxel
        for i in range(1, len(strides)):
            low, high = coarser(low, high, strides[i] // strides[i - 1])
            if i < len(strides) - 1:
                margin = 1 if i < finest else 2
                low, high = low - margin, high + margin
        start = low * strides[-1] // period * period
        stop = (high * strides[-1] // period + 1) * period
        margin = (strides[finest] + 1) // 2
        furthest = max(furthest, voxel - start + margin, stop - 1 + margin - voxel)
    return furthest
