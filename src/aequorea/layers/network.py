"""Stem, body and head as one network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from aequorea.volume import ORIGIN, Region, Spacing, Triple

PROBE: Triple = (64, 64, 64)
"""Size of an image to ask a stem about: its spacing does not depend on it."""


class Network(nn.Module):
    """What a model computes: image_BCZYX to output_BKZYX.

    Parameters
    ----------
    stem, backbone, head
        Modules that fulfil the contracts of :mod:`aequorea.plugs`.
    """

    def __init__(self, stem: Any, backbone: Any, head: Any) -> None:
        super().__init__()
        self.stem, self.backbone, self.head = stem, backbone, head

    def body_spacing(self, spacing: Spacing | None) -> Spacing | None:
        """Return the spacing of the body's grid for images of a spacing (z, y, x in µm, or None)."""
        found: Spacing | None = self.stem.domain(PROBE, spacing)[1]
        return found

    def sight(self, spacing: Spacing | None) -> tuple[Triple | None, Triple]:
        """Return how far an output voxel sees, and how much of it is computed by default: stem, body and head together.

        In voxels (z, y, x) of the body's grid, of that spacing; ``None`` where it sees the whole image.
        """
        layout = self.backbone.layout(spacing)
        ends = [getattr(part, "reach", (0, 0, 0)) for part in (self.stem, self.head)]
        known = [end for end in ends if end is not None]
        halo_z, halo_y, halo_x = (sum(n) for n in zip(layout.halo, *known))
        if layout.reach is None or len(known) < len(ends):
            return None, (halo_z, halo_y, halo_x)
        z, y, x = (sum(n) for n in zip(layout.reach, *known))
        return (z, y, x), (halo_z, halo_y, halo_x)

    def levels(
        self, image: Tensor, spacing: Spacing | None, origin: Triple = ORIGIN, kept: Region | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Return the body's pyramid (finest first) of image_BCZYX and what the stem made of it, x_BCZYX.

        ``kept``: the part to which the finest level is cut, and x; what of it lies outside does not count.
        """
        x: Tensor = self.stem(image)
        if x.shape[1] == x.shape[2] == 1:
            # One channel of one plane marked as channels-last comes out of a 3³ convolution in bfloat16 wrong
            # (PyTorch 2.13 on processors); .contiguous() would not see the difference.
            x = x.clone(memory_format=torch.contiguous_format)
        body = self.backbone
        if getattr(self.head, "uncropped", False) and hasattr(body, "uncropped"):
            body = body.uncropped
        if kept is None:
            return self._all_levels(body, x, spacing, origin), x
        kept = kept.clip(Region.whole(x.shape[2:]))
        cut = (..., *kept.slices)
        if getattr(body, "cuts", False):
            return body(x, spacing, origin, kept), x[cut]
        finest, *coarse = self._all_levels(body, x, spacing, origin)
        return [finest[cut], *coarse], x[cut]

    def _all_levels(self, body: Any, x: Tensor, spacing: Spacing | None, origin: Triple) -> list[Tensor]:
        if self.backbone.ndim == 3:
            found: list[Tensor] = body(x, spacing, origin)
            return found
        batch, planes = x.shape[0], x.shape[2]
        flat = x.transpose(1, 2).reshape(batch * planes, x.shape[1], 1, *x.shape[3:])
        levels = body(flat, spacing, origin)
        return [t.reshape(batch, planes, t.shape[1], *t.shape[3:]).transpose(1, 2) for t in levels]

    def forward(
        self, image: Tensor, spacing: Spacing | None, origin: Triple = ORIGIN, kept: Region | None = None
    ) -> Tensor:
        """Return output_BKZYX for image_BCZYX.

        Parameters
        ----------
        image
            What the stem reads.
        spacing
            Of the body's grid (z, y, x in µm, or None).
        origin
            Where what is given begins on the body's grid.
        kept
            The part of it that is wanted, from ``origin``: the output covers its ``output_grid`` alone. The rest is
            context for coarse levels. The finest one, which costs most, is then made for this part alone where the head
            asks for no more (``local`` in :class:`aequorea.plugs.Head`).
        """
        near = None
        local = getattr(self.head, "local", False)
        if kept is not None and local and self.backbone.layout(spacing).strides[0] == (1, 1, 1):
            grown = kept.grow(getattr(self.head, "reach", ORIGIN))
            near = grown.clip(Region(ORIGIN, grown.stop))
        levels, x = self.levels(image, spacing, origin, near)
        out: Tensor = self.head(levels, x)
        if kept is None:
            return out
        wanted, there = (
            self.head.output_grid(part, None)[0] for part in (kept, near or Region(ORIGIN, kept.stop))
        )
        return out[(..., *wanted.relative_to(there).slices)]
