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
SHARP = 5.0
"""Logit that copies that are not smoothed begin with in a :class:`PlanesHead`; the others with 0."""
FARTHEST = 8
"""Voxels along y and x that a structure is followed from plane to plane."""
SWIFT = 16.0
"""Times that ways are learnt faster than what is added: they are in voxels, it is in units of the intensity range."""
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
        Output voxels per voxel of the body's grid (z, y, x), which they divide, as where pixels were binned.
    planes
        That the stem makes channels of, for each channel of the image; the middle one is restored.
    """

    local = True
    ways = 1
    """Mixtures that are made of the copies, each brought to the finer grid in another way."""

    def __init__(
        self,
        channels: int,
        stride: Triple,
        outputs: int,
        factor: Triple = (1, 1, 1),
        planes: int = 1,
    ) -> None:
        super().__init__()
        self.stride, self.outputs, self.factor, self.planes = stride, outputs, factor, planes
        deep, far = (math.ceil(TRUNCATE * share * max(SMOOTHINGS)) + 1 for share in (DEEP, 1))
        self.reach: Triple = (deep, far, far)
        self.copies = (1 + 2 * len(SMOOTHINGS)) * self.ways
        self.mix = Conv(channels, channels)
        self.last = Pointwise(channels, outputs * (math.prod(factor) + self.copies))
        _begin_small(self.last, 1e-2)

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
        features = F.relu(self.mix(level))
        found = self.last(features)
        added, logits = found.split([self.outputs * math.prod(self.factor), self.outputs * self.copies], 1)
        # Taken apart at once: the gradient of picking one by one is as many tensors of zeros.
        weights = torch.softmax(logits.unflatten(1, (self.outputs, self.copies)), 2).unbind(2)
        mixtures = [torch.zeros_like(image) for _ in range(self.ways)]
        for n, copy in enumerate(_copies(image)):
            for k, mixture in enumerate(mixtures):
                mixtures[k] = mixture + weights[n * self.ways + k] * copy
        return dealt(added, self.factor) + self.finer(mixtures, features)

    def finer(self, mixtures: list[Tensor], features: Tensor) -> Tensor:
        """Return the sum of the mixtures_BKZYX on the finer grid; features_BCZYX are those that all else is made of."""
        if self.factor == (1, 1, 1):
            return mixtures[0]
        return trilinear(mixtures[0], [n * f for n, f in zip(mixtures[0].shape[2:], self.factor)])

    def output_grid(self, region: Region, spacing: Spacing | None) -> tuple[Region, Spacing | None]:
        """Return the region on a grid that is finer by the factor."""
        return finer_grid(region, spacing, self.factor)


class PlanesHead(AddingHead):
    """As :class:`AddingHead`, for planes between planes that were left out: plane k is plane k·factor of the output.

    Mixtures of copies are interpolated linearly, cubically, and along the ways that structures take from plane to
    plane: at each place between two planes the network says from where in either what lies there has come. What runs
    aslant is there twice, faintly, in a mean of two planes, and once in a mean of two that are moved. After Jiang et
    al., "Super SloMo: High Quality Estimation of Multiple Intermediate Frames for Video Interpolation" (CVPR 2018),
    with ways that are learnt of the interpolated planes alone.

    Parameters
    ----------
    channels, stride, outputs
        As there.
    factor
        Output planes per plane.
    """

    ways = 3

    def __init__(self, channels: int, stride: Triple, outputs: int, factor: int) -> None:
        super().__init__(channels, stride, outputs, (factor, 1, 1))
        self.between = factor
        deep, far, _ = self.reach
        self.reach = (deep + 1, far + FARTHEST, far + FARTHEST)
        self.moves = Pointwise(channels, 4 * (factor - 1))
        _begin_small(self.moves, 1e-2)
        assert self.last.bias is not None
        with torch.no_grad():
            # Planes between planes are of sharp images oftener than of noisy ones: begin with what is not smoothed.
            mixed = self.last.bias[outputs * factor :].view(outputs, self.copies)
            mixed[:, : self.ways] = SHARP

    def finer(self, mixtures: list[Tensor], features: Tensor) -> Tensor:
        """Return the sum of the three mixtures, each interpolated in its own way."""
        linear, cubic, aslant = mixtures
        n = self.factor[0]
        moves = FARTHEST * torch.tanh(self.moves(features) * (SWIFT / FARTHEST))
        # What a cubic adds to a line is small enough to stay where it is.
        still = between(linear - aslant, n, "linear") + between(cubic + aslant, n, "cubic")
        return still + between_moved(aslant, n, moves)


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
    z_step
        Between them, µm; 0: not known, and that of the body's grid stands in for it.
    """

    local = False

    def __init__(
        self, channels: int, stride: Triple, outputs: int, factor: Triple, depth: int, z_step: float = 0.0
    ) -> None:
        super().__init__(channels, stride, outputs, factor)
        self.depth, self.z_step = depth, z_step

    def output_grid(self, region: Region, spacing: Spacing | None) -> tuple[Region, Spacing | None]:
        """Return the region in all planes of the volume."""
        fine, spacing = finer_grid(region, spacing, self.factor)
        if spacing is not None and self.z_step:
            spacing = (self.z_step, *spacing[1:])
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


def between(x: Tensor, n: int, way: Literal["linear", "cubic"]) -> Tensor:
    """Return x_BCZYX with n planes for each, the first of which it is; beyond the last one it goes on as it is.

    Cubic: Keys, "Cubic convolution interpolation for digital image processing", IEEE TASSP 1981.
    """
    at = torch.arange(x.shape[2], device=x.device)
    near = range(2) if way == "linear" else range(-1, 3)
    stack = torch.stack([x.index_select(2, (at + i).clamp(0, len(at) - 1)) for i in near])
    planes = [torch.tensordot(x.new_tensor(_weights(i / n, way)), stack, 1) for i in range(n)]
    return torch.stack(planes, 3).flatten(2, 3)


def between_moved(x: Tensor, n: int, moves: Tensor) -> Tensor:
    """Return x_BCZYX with n planes for each: the two planes around a place, moved towards it, in linear shares.

    Parameters
    ----------
    x
        Planes.
    n
        Output planes for each; plane k·n is plane k.
    moves
        Axes B 4·(n-1) Z Y X: for each output plane after the first, in voxels, how far along y and x what lies there
        is from where it is in the plane before, were the other a whole step away; and likewise in the plane after.
    """
    after = torch.cat([x[:, :, 1:], x[:, :, -1:]], 2)
    planes = [x]
    for i, way in enumerate(moves.chunk(n - 1, 1), 1):
        t, (back, ahead) = i / n, way.chunk(2, 1)
        planes.append((1 - t) * moved(x, t * back) + t * moved(after, (1 - t) * ahead))
    return torch.stack(planes, 3).flatten(2, 3)


def moved(x: Tensor, by: Tensor) -> Tensor:
    """Return x_BCZYX taken, at every voxel, from so far along y and x (by_B2ZYX), linearly; the border goes on."""
    z, y, width = x.shape[2:]
    rows = torch.arange(y, dtype=torch.float32, device=x.device)[:, None]
    columns = torch.arange(width, dtype=torch.float32, device=x.device)
    places = []
    for n, start, part in ((width, columns, by[:, 1]), (y, rows, by[:, 0])):
        places.append((start + part.float()) * (2 / max(1, n - 1)) - 1)
    flat = x.transpose(1, 2).flatten(0, 1).float()
    at = torch.stack(places, -1).flatten(0, 1)
    found = F.grid_sample(flat, at, padding_mode="border", align_corners=True)
    return found.to(x.dtype).view(-1, z, x.shape[1], y, width).transpose(1, 2)


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
