"""Shifted-window transformer over planes, for restoration.

A convolution, groups of window blocks with a convolution each, another convolution, all at full resolution. Windows are
anchored at the plane's origin and normalisation is over channels, so the reach is finite. What a plane lacks to whole
windows is mirrored beyond its far borders.

After Liang et al., "SwinIR: Image Restoration Using Swin Transformer" (ICCV Workshops 2021), in the size that Ma et
al., "Pretraining a foundation model for generalizable fluorescence microscopy-based image restoration" (Nature Methods
21, 2024) trained for five tasks.
"""

from __future__ import annotations

from itertools import islice
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from aequorea.layers.swin import WindowGroup, Windows, reach, whole_windows
from aequorea.plugs import Layout
from aequorea.specs import Spec
from aequorea.volume import ORIGIN, Spacing, Triple

HALO = 0.6
"""Share of the reach that is computed by default: what comes from farther away changes the output by 2e-5 at most."""
ALL = 1 << 20
"""More voxels than an axis has."""


class SwinIRSpec(Spec):
    """Recipe of a :class:`SwinIR`.

    Attributes
    ----------
    channels
        Of what the stem gives: of the image, times the planes that are read at once.
    width
        Channels of the body.
    depths
        Blocks of each group.
    heads
        Of the attention; they divide the width.
    window
        Pixels along an edge of a window.
    mlp_ratio
        Channels of the feed-forward parts, in those of the body.
    skip
        Whether the first convolution's output is added to the last one's.
    shift
        Whether every other block's windows are shifted by half of one. Published bodies that were built for images no
        larger than a window have none.
    sections
        Whether volumes are seen as planes across x and as planes across y, in place of planes across z: two levels.
    stochastic_depth
        Share of a training step's planes for which the last block's parts are left out; of earlier blocks less, from 0
        evenly. Published networks were trained with 0.1.
    """

    channels: int = Field(default=1, ge=1)
    width: int = Field(default=90, ge=1)
    depths: tuple[int, ...] = Field(default=(6, 6, 6), min_length=1)
    heads: int = Field(default=6, ge=1)
    window: int = Field(default=8, ge=2)
    mlp_ratio: float = Field(default=2.0, gt=0)
    skip: bool = True
    shift: bool = True
    sections: bool = False
    stochastic_depth: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        return self


class SwinIR(nn.Module):
    """Window transformer: planes_BC1YX of any size to features at full resolution."""

    Spec = SwinIRSpec
    trainable = True
    points = (r"groups\.\d+\.blocks\.\d+\.(qkv|proj|up|down)",)

    def __init__(self, spec: SwinIRSpec) -> None:
        super().__init__()
        self.spec = spec
        self.ndim = 3 if spec.sections else 2
        width, hidden = spec.width, round(spec.mlp_ratio * spec.width)
        self.first = nn.Conv2d(spec.channels, width, 3, padding=1)
        self.embed_norm = nn.LayerNorm(width)
        shares = iter(torch.linspace(0, spec.stochastic_depth, sum(spec.depths)).tolist())
        self.groups = nn.ModuleList(
            WindowGroup(width, spec.heads, spec.window, hidden, spec.shift, list(islice(shares, depth)))
            for depth in spec.depths
        )
        self.norm = nn.LayerNorm(width)
        self.last = nn.Conv2d(width, width, 3, padding=1)

    def layout(self, spacing: Spacing | None) -> Layout:
        """Return channels, strides, grid and reach at a spacing."""
        window = self.spec.window
        far = reach(self.spec.depths, window, self.spec.shift)
        near = max(1, round(HALO * far / window)) * window
        if self.spec.sections:
            # Windows across y begin at the last plane, so all planes are computed at once.
            return Layout(
                (self.spec.width,) * 2,
                ((1, 1, 1),) * 2,
                (1, window, window),
                (ALL, far, far),
                (ALL, near, near),
                held=7,
            )
        return Layout(
            (self.spec.width,), ((1, 1, 1),), (1, window, window), (0, far, far), (0, near, near), held=5.5
        )

    def forward(self, x: Tensor, spacing: Spacing | None, origin: Triple = ORIGIN) -> list[Tensor]:
        """Return one level at full resolution, or one for planes across x and one for planes across y."""
        z, y, width = x.shape[2:]
        levels = self.uncropped(x, spacing, origin)
        if not self.spec.sections:
            return [level[..., :y, :width] for level in levels]
        return [levels[0][:, :, -z:, :y], levels[1][:, :, :z, :, :width]]

    def uncropped(self, x: Tensor, spacing: Spacing | None, origin: Triple = ORIGIN) -> list[Tensor]:
        """Return the levels with what lies in whole windows beyond the far borders.

        Of planes across x the columns are z from its end: what is beyond lies before plane 0.
        """
        if not self.spec.sections:
            return [self._planes(x[:, :, 0])[:, :, None]]
        b, c, z, y, width = x.shape
        across_x = x.permute(0, 4, 1, 3, 2).flip(4).reshape(b * width, c, y, z)
        across_y = x.permute(0, 3, 1, 4, 2).reshape(b * y, c, width, z)
        first, second = self._planes(across_x), self._planes(across_y)
        return [
            first.view(b, width, *first.shape[1:]).flip(4).permute(0, 2, 4, 3, 1),
            second.view(b, y, *second.shape[1:]).permute(0, 2, 4, 1, 3),
        ]

    def _planes(self, x: Tensor) -> Tensor:
        """Return features_BCYX of planes_BCYX, in whole windows."""
        x = whole_windows(x, self.spec.window)
        windows = Windows(len(x), (x.shape[2], x.shape[3]), self.spec.window, x.device)
        first = self.first(x)
        tokens = self.embed_norm(windows.tokens(first))
        for group in self.groups:
            tokens = group(tokens, windows)
        last: Tensor = self.last(windows.image(self.norm(tokens)))
        return last + first if self.spec.skip else last
