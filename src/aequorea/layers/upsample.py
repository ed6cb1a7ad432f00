"""From a coarse grid to a fine one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from aequorea.volume import Region, Spacing, Triple


def add_upsampled(fine: Tensor, coarse: Tensor, step: Triple) -> Tensor:
    """Return ``fine`` plus the nearest upsampling of ``coarse``; in the place of ``fine`` unless gradients flow."""
    if torch.is_grad_enabled():
        out: Tensor = _AddUpsampled.apply(fine, coarse, step)  # type: ignore[no-untyped-call]
        return out
    return _added(fine, coarse, step, in_place=True)


class _AddUpsampled(torch.autograd.Function):
    """With a gradient that is summed slice by slice, in a third of the time of a general sum."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, fine: Tensor, coarse: Tensor, step: Triple
    ) -> Tensor:
        ctx.step = step  # type: ignore[attr-defined]
        return _added(fine, coarse, step, in_place=False)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        total = grads[0]
        for axis, step in zip((2, 3, 4), ctx.step):  # type: ignore[attr-defined]
            if step > 1:
                parts = [total[(slice(None),) * axis + (slice(i, None, step),)] for i in range(step)]
                total = parts[0] + parts[1]
                for part in parts[2:]:
                    total = total + part
        return grads[0], total, None


def _added(fine: Tensor, coarse: Tensor, step: Triple, in_place: bool) -> Tensor:
    """Add without making a tensor of the size of ``fine``.

    Upsampled along x alone, ``coarse`` has rows that are added to those of ``fine`` at full speed.
    """
    b, c, z, y, x = coarse.shape
    channels_last = fine.is_contiguous(memory_format=torch.channels_last_3d)
    if channels_last:
        rows, blocks = coarse.permute(0, 2, 3, 4, 1), fine.permute(0, 2, 3, 4, 1)
    else:
        rows, blocks = coarse.reshape(b * c, z, y, x, 1), fine.reshape(b * c, *fine.shape[2:], 1)
    n = len(rows)
    rows = rows[:, :, :, :, None].expand(n, z, y, x, step[2], rows.shape[4]).reshape(n, z, 1, y, 1, -1)
    blocks = blocks.reshape(n, z, step[0], y, step[1], -1)
    out = blocks.add_(rows) if in_place else blocks + rows
    if channels_last:
        return out.view(b, *fine.shape[2:], c).permute(0, 4, 1, 2, 3)
    return out.view(fine.shape)


def trilinear(coarse: Tensor, size: Sequence[int]) -> Tensor:
    """Return coarse_BCZYX interpolated to a size (z, y, x)."""
    return F.interpolate(coarse, size=list(size), mode="trilinear")


def at_full_resolution(level: Tensor, stride: Triple, x: Tensor) -> Tensor:
    """Return a pyramid's finest level at every voxel of x_BCZYX."""
    if stride != (1, 1, 1):
        level = F.interpolate(level, scale_factor=[float(s) for s in stride], mode="trilinear")
    z, y, width = x.shape[2:]
    return level[..., :z, :y, :width]


def finer_grid(region: Region, spacing: Spacing | None, factor: Triple) -> tuple[Region, Spacing | None]:
    """Return a region and spacing on a grid of ``factor`` voxels for each."""
    a, b = region.start, region.stop
    fine = None
    if spacing is not None:
        fine = (spacing[0] / factor[0], spacing[1] / factor[1], spacing[2] / factor[2])
    return (
        Region(
            (a[0] * factor[0], a[1] * factor[1], a[2] * factor[2]),
            (b[0] * factor[0], b[1] * factor[1], b[2] * factor[2]),
        ),
        fine,
    )
