"""Heads and losses that give images.

A head's output is what the stem read, smoothed where that helps, plus what the network adds to it: a network that has
learnt little gives a smooth image, or its interpolation. Finer grids come of channels that are dealt to voxels (Shi et
al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network", CVPR
2016).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aequorea.layers.conv import Conv, Pointwise
from aequorea.layers.upsample import at_full_resolution, finer_grid, trilinear
from aequorea.volume import Region, Spacing, Triple

LossName = Literal["log_l2", "fitted", "l2", "l1", "charbonnier", "ssim"]
LOSSES = get_args(LossName)
Anchor = Literal["centre", "corner"]
"""Where a voxel lies on a finer grid: in the middle of those that divide it, or on the first, others being left out."""
SOFT = 1e-3
"""Of the Charbonnier loss, in units of the intensity range."""
FLOOR = 1e-5
"""Mean squared error that the logarithm does not ask to be lowered, in units of the intensity range: 50 dB."""
LEAST = 1e-4
"""Share of the target's variance that a fitted line's logarithm does not ask to be lowered: 40 dB."""
KEPT = 0.01
"""Weight of the logarithm without a line beside the fitted one: enough to keep what is restored in its units."""
TINY = 1e-12
"""Least product of variances that is divided by."""
SMOOTHINGS = (0.7, 1.0, 1.5, 2.2, 3.3, 5.0)
"""Standard deviations in voxels along y and x of the copies that an :class:`AddingHead` mixes."""
DEEP = 0.3
"""Their standard deviation along z as a share of that, of the copies that are smoothed along z too."""
SLAB = 16
"""Planes that evaluation restores at a time."""
WAYS: tuple[Literal["linear", "cubic"], ...] = ("linear", "cubic")
"""How planes between planes are interpolated: both are mixed too."""
SHARP = 5.0
"""Logit that copies that are not smoothed begin with, where a head begins with them; the others with 0."""
TRUNCATE = 2.5
"""Standard deviations at which a Gaussian ends."""
WINDOW = 7
"""Voxels along an edge of the window that a similarity is a mean over, where the image has as many."""


class AddingHead(nn.Module):
    """An image smoothed at every voxel as much as the network finds right there, and what it adds; or on a finer grid.

    Smoothed copies are mixed voxel by voxel with weights that sum to one. What has learnt little is then a smoothed
    image and not a noisy one, and what is learnt first is where to smooth how much: of few pairs that is most of what
    there is to be learnt. In the manner of kernel-predicting networks (Bako et al., "Kernel-Predicting Convolutional
    Networks for Denoising Monte Carlo Renderings", SIGGRAPH 2017) with a bank of Gaussians in place of free kernels.

    Parameters
    ----------
    channels
        Of the pyramid's finest level.
    stride
        Voxels per step of that level (z, y, x); above 1 it is upsampled trilinearly.
    outputs
        Output channels, the first of what the stem gave the body.
    factor
        Output voxels per voxel of the body's grid (z, y, x).
    anchor
        ``corner``: output voxel k·factor lies on body voxel k, as where planes were left out; ``centre``: output voxels
        divide the body's, as where pixels were binned.
    planes
        That the stem makes channels of, for each channel of the image; the middle one is restored.
    """

    def __init__(
        self,
        channels: int,
        stride: Triple,
        outputs: int,
        factor: Triple = (1, 1, 1),
        anchor: Anchor = "centre",
        planes: int = 1,
    ) -> None:
        super().__init__()
        self.stride, self.outputs, self.factor, self.anchor = stride, outputs, factor, anchor
        self.planes = planes
        deep, far = (math.ceil(TRUNCATE * share * max(SMOOTHINGS)) + 1 for share in (DEEP, 1))
        self.reach: Triple = (deep, far, far)
        self.ways = WAYS if anchor == "corner" else WAYS[:1]
        self.copies = (1 + 2 * len(SMOOTHINGS)) * len(self.ways)
        self.mix = Conv(channels, channels)
        self.last = Pointwise(channels, outputs * (math.prod(factor) + self.copies))
        _begin_small(self.last, 1e-2)
        if anchor == "corner":
            # Planes between planes are of sharp images oftener than of noisy ones: begin with what is not smoothed.
            assert self.last.bias is not None
            with torch.no_grad():
                mixed = self.last.bias[outputs * math.prod(factor) :].view(outputs, self.copies)
                mixed[:, : len(self.ways)] = SHARP

    def forward(self, levels: list[Tensor], x: Tensor) -> Tensor:
        """Return output_BKZYX; in evaluation a few planes at a time, since many channels are mixed."""
        level = at_full_resolution(levels[0], self.stride, x)
        image = x[:, self.planes // 2 :: self.planes][:, : self.outputs]
        planes = image.shape[2]
        if torch.is_grad_enabled() or planes <= SLAB:
            return self._restored(level, image)
        parts = []
        for start in range(0, planes, SLAB):
            stop = min(planes, start + SLAB)
            low, high = max(0, start - self.reach[0]), min(planes, stop + self.reach[0])
            part = self._restored(level[:, :, low:high], image[:, :, low:high])
            parts.append(part[:, :, (start - low) * self.factor[0] : (stop - low) * self.factor[0]])
        return torch.cat(parts, 2)

    def _restored(self, level: Tensor, image: Tensor) -> Tensor:
        found = self.last(F.relu(self.mix(level)))
        added, logits = found.split([self.outputs * math.prod(self.factor), self.outputs * self.copies], 1)
        # Taken apart at once: the gradient of picking one by one is as many tensors of zeros.
        weights = torch.softmax(logits.unflatten(1, (self.outputs, self.copies)), 2).unbind(2)
        bases = [torch.zeros_like(image) for _ in self.ways]
        for n, copy in enumerate(_copies(image)):
            for k, base in enumerate(bases):
                bases[k] = base + weights[n * len(self.ways) + k] * copy
        out = dealt(added, self.factor)
        for way, base in zip(self.ways, bases):
            out = out + finer(base, self.factor, self.anchor, way)
        return out

    def output_grid(self, region: Region, spacing: Spacing | None) -> tuple[Region, Spacing | None]:
        """Return the region on a grid that is finer by the factor."""
        return finer_grid(region, spacing, self.factor)


def _copies(image: Tensor) -> Iterator[Tensor]:
    """Yield the image, and for each width it smoothed within planes, and along z too."""
    yield image
    for sigma in SMOOTHINGS:
        plane = smoothed(smoothed(image, sigma, 3), sigma, 4)
        yield plane
        yield smoothed(plane, DEEP * sigma, 2)


def smoothed(x: Tensor, sigma: float, axis: int) -> Tensor:
    """Return x_BCZYX smoothed by a Gaussian along an axis; beyond the ends nothing is known, and weighs nothing."""
    n = x.shape[axis]
    far = min(math.ceil(TRUNCATE * sigma), n - 1)
    if far == 0:
        return x
    place = torch.arange(-far, far + 1, dtype=torch.float32, device=x.device)
    kernel = torch.exp(-0.5 * (place / sigma) ** 2).to(x.dtype)
    shape = [1, 1, 1, 1, 1]
    shape[axis] = 2 * far + 1
    padding = [far if i == axis else 0 for i in (2, 3, 4)]
    rows = x.flatten(0, 1)[:, None]
    weight = F.conv1d(torch.ones(1, 1, n, dtype=x.dtype, device=x.device), kernel.view(1, 1, -1), padding=far)
    line = [1, 1, 1, 1, 1]
    line[axis] = n
    out: Tensor = F.conv3d(rows, kernel.view(shape), padding=padding) / weight.view(line)
    return out.view(x.shape)


class VolumeHead(AddingHead):
    """As :class:`AddingHead`, where the stem makes a volume of a plane: the body's grid has one plane, the output all.

    Parameters
    ----------
    channels, stride, outputs, factor
        As there; the factor along z is 1.
    depth
        Planes of the volume.
    """

    def __init__(self, channels: int, stride: Triple, outputs: int, factor: Triple, depth: int) -> None:
        super().__init__(channels, stride, outputs, factor)
        self.depth = depth

    def output_grid(self, region: Region, spacing: Spacing | None) -> tuple[Region, Spacing | None]:
        """Return the region in all planes of the volume."""
        fine, spacing = finer_grid(region, spacing, self.factor)
        return Region((0, *fine.start[1:]), (self.depth, *fine.stop[1:])), spacing


class SurfaceHead(nn.Module):
    """One plane of a stack: a mean over planes, weighted by where the network sees the surface, and what it adds.

    Parameters
    ----------
    channels, stride
        Of the pyramid's finest level.
    outputs
        Output channels, the first of what the stem gave the body.
    """

    reach: Triple = (1, 1, 1)

    def __init__(self, channels: int, stride: Triple, outputs: int) -> None:
        super().__init__()
        self.stride, self.outputs = stride, outputs
        self.mix = Conv(channels, channels)
        self.last = Pointwise(channels, 1 + outputs)
        _begin_small(self.last, 1e-2)

    def forward(self, levels: list[Tensor], x: Tensor) -> Tensor:
        """Return output_BK1YX of a stack x_BCZYX of any depth."""
        found = self.last(F.relu(self.mix(at_full_resolution(levels[0], self.stride, x))))
        # Bright planes are the first guess; the network says by how much to trust them.
        share = torch.softmax(found[:, :1] + x[:, :1], 2)
        plane: Tensor = (share * (x[:, : self.outputs] + found[:, 1:])).sum(2, keepdim=True)
        return plane

    def output_grid(self, region: Region, spacing: Spacing | None) -> tuple[Region, Spacing | None]:
        """Return the region itself: the body's grid has one plane already."""
        return region, spacing


def _begin_small(last: Pointwise, spread: float) -> None:
    nn.init.normal_(last.weight, std=spread)
    assert last.bias is not None
    nn.init.zeros_(last.bias)


def dealt(x: Tensor, factor: Triple) -> Tensor:
    """Return x_BKZYX on the finer grid: each of the voxels that divide one takes K / prod(factor) of its channels."""
    if factor == (1, 1, 1):
        return x
    b, k, z, y, width = x.shape
    c, (fz, fy, fx) = k // math.prod(factor), factor
    parts = x.view(b, c, fz, fy, fx, z, y, width).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return parts.reshape(b, c, z * fz, y * fy, width * fx)


def finer(
    x: Tensor,
    factor: Triple,
    anchor: Anchor,
    way: Literal["linear", "cubic"] = "linear",
) -> Tensor:
    """Return the interpolation of x_BCZYX on the finer grid; beyond the last voxels it goes on as they are.

    Cubic (from corners alone): Keys, "Cubic convolution interpolation for digital image processing", IEEE TASSP 1981.
    """
    if factor == (1, 1, 1):
        return x
    if anchor == "centre":
        return trilinear(x, [n * f for n, f in zip(x.shape[2:], factor)])
    for axis, n in enumerate(factor, 2):
        if n == 1:
            continue
        at = torch.arange(x.shape[axis], device=x.device)
        near = [
            x.index_select(axis, (at + i).clamp(0, len(at) - 1))
            for i in (range(2) if way == "linear" else range(-1, 3))
        ]
        stack = torch.stack(near)
        planes = [torch.tensordot(x.new_tensor(_weights(i / n, way)), stack, 1) for i in range(n)]
        x = torch.stack(planes, axis + 1).flatten(axis, axis + 1)
    return x


def _weights(t: float, way: Literal["linear", "cubic"]) -> tuple[float, ...]:
    """Return what the voxels around a place weigh that lies ``t`` behind one of them: 2 of them, or 4."""
    if way == "linear":
        return 1 - t, t
    return (
        (-t + 2 * t**2 - t**3) / 2,
        (2 - 5 * t**2 + 3 * t**3) / 2,
        (t + 4 * t**2 - 3 * t**3) / 2,
        (-(t**2) + t**3) / 2,
    )


def loss(name: LossName, output: Tensor, target: Tensor) -> Tensor:
    """Return a scalar loss of output_BKZYX against target_BKZYX, over voxels whose target is known (finite).

    Parameters
    ----------
    name
        ``l2`` and ``l1``, means of squared and absolute errors; ``charbonnier``, a smooth l1; ``log_l2``, the mean over
        samples of the logarithm of l2, which is what a mean of PSNR asks for: no image counts for more because it is
        brighter; ``fitted``, the same after the line that brings each output nearest to its target, for targets whose
        units those of the image do not tell; ``ssim``, 1 minus structural similarity plus a tenth of l1.

    Raises
    ------
    ValueError
        If the name is not known: no loss stands in for another.
    """
    known = torch.isfinite(target)
    weight = known.to(output.dtype)
    count = weight.sum((1, 2, 3, 4))
    error = (output - torch.where(known, target, output.detach())) * weight

    def mean(values: Tensor) -> Tensor:
        return (values * weight).sum((1, 2, 3, 4)) / count.clamp(min=1)

    if name == "l2":
        return mean(error.square()).mean()
    if name == "l1":
        return mean(error.abs()).mean()
    if name == "charbonnier":
        return mean((error.square() + SOFT**2).sqrt() - SOFT).mean()
    if name == "log_l2":
        return (torch.log(mean(error.square()) + FLOOR) - math.log(FLOOR)).mean() / 10
    if name == "fitted":
        log = torch.log(_unexplained(output, torch.where(known, target, 0.0), mean) + LEAST) - math.log(LEAST)
        return log.mean() / 10 + KEPT * loss("log_l2", output, target)
    if name == "ssim":
        unlike = _dissimilarity(torch.where(known, output, 0.0), torch.where(known, target, 0.0))
        return unlike.mean() + 0.1 * mean(error.abs()).mean()
    raise ValueError(f"no loss is called '{name}'; known: {', '.join(LOSSES)}")


def _unexplained(output: Tensor, target: Tensor, mean: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the share of each target's variance that no line of the output explains; above 1 for a falling line."""

    def centred(x: Tensor) -> Tensor:
        return x - mean(x).view(-1, 1, 1, 1, 1)

    a, b = centred(output), centred(target)
    ab = mean(a * b)
    return 1 - ab * ab.abs() / (mean(a.square()) * mean(b.square())).clamp(min=TINY)


def _dissimilarity(output: Tensor, target: Tensor) -> Tensor:
    """Return 1 - SSIM of each sample, with a box window (Wang et al. 2004) and a range of 1."""
    window = [min(WINDOW, n) for n in output.shape[2:]]

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool3d(x, window, stride=1)

    a, b = mean(output), mean(target)
    # In the order that keeps variances from falling below zero by rounding.
    aa, bb = mean(output.square()) - a * a, mean(target.square()) - b * b
    ab = mean(output * target) - a * b
    c1, c2 = 0.01**2, 0.03**2
    similar = (2 * a * b + c1) * (2 * ab + c2) / ((a * a + b * b + c1) * (aa + bb + c2))
    return 1 - similar.mean((1, 2, 3, 4))
