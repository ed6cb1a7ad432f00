"""A fixed bank of multi-scale filters: what is bright, an edge, a blob, a tube or a sheet, at four sizes.

Scales are lengths in µm, so that an anisotropic volume is filtered alike along all axes: along an axis of
coarse voxels a small scale smooths less, or not at all. Coarse scales are computed on every second or fourth
voxel (counted from the first one of the array) and interpolated back.

Every filter has finite reach: kernels are cut at :data:`TRUNCATE` standard deviations. Beyond the borders the
image continues with its border voxels.

Sources: T. Lindeberg, Scale-Space Theory in Computer Vision (1994), for the powers of the scale that make
responses comparable; J. Weickert, Anisotropic Diffusion in Image Processing (1998), for the structure tensor;
O. K. Smith, Eigenvalues of a symmetric 3 × 3 matrix, CACM 4 (1961), for the closed form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from aequorea.volume import Spacing, Triple

TRUNCATE = 2.5
"""Standard deviations at which Gaussian kernels are cut."""

SMALLEST = 0.3
"""Standard deviation in voxels below which an axis is not smoothed."""

SAMPLES = 1.5
"""Steps of the computing grid that a standard deviation must span."""

INNER = 0.5
"""Share of the scale at which the structure tensor takes gradients; what is left smooths their products."""

PER_SCALE = (
    "gaussian",
    "laplacian",
    "gradient",
    *(f"structure_{i}" for i in "123"),
    *(f"hessian_{i}" for i in "123"),
)
"""The filters of one scale; eigenvalues from the largest to the smallest."""

_BLOCK = 64
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Scale:
    """One scale on the voxel grid.

    Attributes
    ----------
    sigma
        Standard deviation in voxels (z, y, x).
    stride
        The computing grid holds every ``stride``-th voxel (z, y, x).
    """

    sigma: Spacing
    stride: Triple

    @property
    def inner(self) -> Spacing:
        """Standard deviation in voxels of the structure tensor's gradients."""
        z, y, x = (INNER * s for s in self.sigma)
        return z, y, x

    @property
    def outer(self) -> Spacing:
        """Standard deviation, in steps of the computing grid, that smooths the products of gradients."""
        z, y, x = (math.sqrt(1 - INNER**2) * s / n for s, n in zip(self.sigma, self.stride))
        return z, y, x

    @property
    def reach(self) -> Triple:
        """Voxels on each side that a response depends on: kernel, difference and interpolation."""
        z, y, x = (
            max(_radius(s), _radius(i) + n * _radius(o)) + 2 * n - 1
            for s, i, o, n in zip(self.sigma, self.inner, self.outer, self.stride)
        )
        return z, y, x


def scales(multiples: Sequence[float], spacing: Spacing | None) -> tuple[Scale, ...]:
    """Lay scales on a voxel grid.

    Parameters
    ----------
    multiples
        Standard deviations in multiples of the finest voxel edge.
    spacing
        Voxel size in µm (z, y, x); ``None`` means cubes.
    """
    spacing = spacing or (1.0, 1.0, 1.0)
    found = []
    for multiple in multiples:
        length = multiple * min(spacing)
        z, y, x = (length / d for d in spacing)
        a, b, c = (max(n for n in (1, 2, 4) if n == 1 or s >= SAMPLES * n) for s in (z, y, x))
        found.append(Scale((z, y, x), (a, b, c)))
    return tuple(found)


def names(multiples: Sequence[float]) -> list[str]:
    """Return the names of the responses in order, e.g. ``"hessian_1 @ 1.6"``."""
    return ["intensity", *(f"{name} @ {multiple:g}" for multiple in multiples for name in PER_SCALE)]


def respond(
    image_ZYX: Tensor, multiples: Sequence[float], spacing: Spacing | None, out: Tensor | None = None
) -> Tensor:
    """Return the responses of the whole bank.

    Parameters
    ----------
    image_ZYX
        Finite float32 intensities; Z = 1 for a plane.
    multiples
        Standard deviations in multiples of the finest voxel edge.
    spacing
        Voxel size in µm (z, y, x); ``None`` means cubes.
    out
        Contiguous tensor to write into, axes F Z Y X.

    Returns
    -------
    Tensor
        Axes F Z Y X in the order of :func:`names`: intensities, or squares of intensities for the structure
        tensor. Derivatives are multiplied by the scale, once per order.
    """
    plan = scales(multiples, spacing)
    if out is None:
        out = image_ZYX.new_empty((1 + len(PER_SCALE) * len(plan), *image_ZYX.shape))
    out[0] = image_ZYX
    for k, scale in enumerate(plan):
        first = 1 + k * len(PER_SCALE)
        target = out[first : first + len(PER_SCALE)]
        if scale.stride == (1, 1, 1):
            _fill(target, image_ZYX, scale)
        else:
            size = [-(-(n - 1) // step) + 1 for n, step in zip(image_ZYX.shape, scale.stride)]
            coarse = image_ZYX.new_empty((len(PER_SCALE), *size))
            _fill(coarse, image_ZYX, scale)
            for response, samples in zip(target, coarse):
                response[:] = _interpolate(samples, scale.stride, response.shape)
    return out


def _fill(out_FZYX: Tensor, image_ZYX: Tensor, scale: Scale) -> None:
    """Compute the filters of one scale on its computing grid."""
    smooth = _gaussian(image_ZYX, scale.sigma, scale.stride)
    factors = [s / n for s, n in zip(scale.sigma, scale.stride)]
    out_FZYX[0] = smooth
    hessian = _second(smooth, factors)
    torch.add(hessian[0], hessian[1], out=out_FZYX[1]).add_(hessian[2])
    out_FZYX[2] = torch.stack(_first(smooth, factors)).square_().sum(0).sqrt_()
    z, y, x = _first(_gaussian(image_ZYX, scale.inner, scale.stride), [INNER * f for f in factors])
    tensor = [_gaussian(a * b, scale.outer) for a, b in ((z, z), (y, y), (x, x), (z, y), (z, x), (y, x))]
    eigenvalues(tensor, out_FZYX[3:6])
    eigenvalues(hessian, out_FZYX[6:9])


def eigenvalues(matrix: Sequence[Tensor], out: Tensor) -> None:
    """Write the eigenvalues of symmetric 3 × 3 matrices, largest first.

    Parameters
    ----------
    matrix
        The elements zz, yy, xx, zy, zx, yx: six contiguous tensors of one shape.
    out
        Of that shape with 3 in front.

    Notes
    -----
    With B the matrix less a third of its trace, scaled to a Frobenius norm of √6, the eigenvalues are 2 cos θ
    (and θ turned by a third), where cos 3θ = det B / 2. That cosine alone loses half of the digits where two
    eigenvalues meet, so sin 3θ is taken too: the Frobenius norm of B² - 2 - B cos 3θ, divided by √6.
    """
    flat = [element.reshape(-1) for element in matrix]
    result = out.view(3, -1)
    for start in range(0, flat[0].numel(), _CHUNK):
        a, b, c, d, e, f = (element[start : start + _CHUNK] for element in flat)
        mean = (a + b).add_(c).mul_(1 / 3)
        a, b, c = a - mean, b - mean, c - mean
        dd, ee, ff = d * d, e * e, f * f
        aa, bb, cc = a * a, b * b, c * c
        radius = (dd + ee).add_(ff).mul_(2).add_(aa).add_(bb).add_(cc).mul_(1 / 6).sqrt_()
        inverse = 1 / radius.clamp(min=1e-18)
        square = inverse * inverse
        a, b, c, d, e, f = (element * inverse for element in (a, b, c, d, e, f))
        aa, bb, cc, dd, ee, ff = (element.mul_(square) for element in (aa, bb, cc, dd, ee, ff))
        cosine = (b * c).sub_(ff).mul_(a).sub_(dd * c).addcmul_(d * e, f, value=2).sub_(ee * b).mul_(0.5)
        sine = (aa + dd + ee).sub_(2).sub_(a * cosine).square_()
        sine += (dd + bb + ff).sub_(2).sub_(b * cosine).square_()
        sine += (ee + ff + cc).sub_(2).sub_(c * cosine).square_()
        mixed = (d * (a + b)).addcmul_(e, f).sub_(d * cosine).square_()
        mixed += (e * (a + c)).addcmul_(d, f).sub_(e * cosine).square_()
        mixed += (f * (b + c)).addcmul_(d, e).sub_(f * cosine).square_()
        angle = torch.atan2(sine.add_(mixed, alpha=2).mul_(1 / 6).sqrt_(), cosine).mul_(1 / 3)
        cosine, sine = torch.cos(angle), torch.sin(angle).mul_(math.sqrt(3))
        top, middle, low = (part[start : start + _CHUNK] for part in result)
        torch.addcmul(mean, radius, cosine, value=2, out=top)
        torch.addcmul(mean, radius, sine - cosine, out=middle)
        torch.addcmul(mean, radius, sine.add_(cosine), value=-1, out=low)


def _first(x: Tensor, factors: Sequence[float]) -> list[Tensor]:
    """Return central differences along z, y, x, each times its factor."""
    padded = F.pad(x[None, None], (1, 1, 1, 1, 1, 1), mode="replicate")[0, 0]
    low, mid, high = slice(0, -2), slice(1, -1), slice(2, None)
    z, y, t = (0.5 * f for f in factors)
    return [
        (padded[high, mid, mid] - padded[low, mid, mid]).mul_(z),
        (padded[mid, high, mid] - padded[mid, low, mid]).mul_(y),
        (padded[mid, mid, high] - padded[mid, mid, low]).mul_(t),
    ]


def _second(x: Tensor, factors: Sequence[float]) -> list[Tensor]:
    """Return second differences zz, yy, xx, zy, zx, yx, each times its two factors."""
    padded = F.pad(x[None, None], (1, 1, 1, 1, 1, 1), mode="replicate")[0, 0]
    low, mid, high = slice(0, -2), slice(1, -1), slice(2, None)
    z, y, t = factors
    twice = 2 * x
    return [
        (padded[high, mid, mid] + padded[low, mid, mid]).sub_(twice).mul_(z * z),
        (padded[mid, high, mid] + padded[mid, low, mid]).sub_(twice).mul_(y * y),
        (padded[mid, mid, high] + padded[mid, mid, low]).sub_(twice).mul_(t * t),
        (padded[high, high, mid] - padded[high, low, mid] - padded[low, high, mid])
        .add_(padded[low, low, mid])
        .mul_(0.25 * z * y),
        (padded[high, mid, high] - padded[high, mid, low] - padded[low, mid, high])
        .add_(padded[low, mid, low])
        .mul_(0.25 * z * t),
        (padded[mid, high, high] - padded[mid, high, low] - padded[mid, low, high])
        .add_(padded[mid, low, low])
        .mul_(0.25 * y * t),
    ]


def _radius(sigma: float) -> int:
    return round(TRUNCATE * sigma) if sigma >= SMALLEST else 0


def _gaussian(x: Tensor, sigma: Sequence[float], stride: Triple = (1, 1, 1)) -> Tensor:
    """Smooth and keep every ``stride``-th voxel; the last sample may lie beyond the far border."""
    for axis in range(3):
        if _radius(sigma[axis]) or stride[axis] > 1:
            x = _smooth(x, axis, float(sigma[axis]), stride[axis])
    return x


def _smooth(x: Tensor, axis: int, sigma: float, stride: int) -> Tensor:
    """Smooth along one axis, as products with short banded matrices, which is what processors do fastest."""
    size, radius = x.shape[axis], _radius(sigma)
    count = -(-(size - 1) // stride) + 1
    parts = []
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        low = min(max(0, start * stride - radius), size - 1)
        high = min(size, (stop - 1) * stride + radius + 1)
        matrix = _matrix(low, high, size, start, stop, sigma, stride).to(x)
        parts.append(_product(matrix, x.narrow(axis, low, high - low), axis))
    return parts[0] if len(parts) == 1 else torch.cat(parts, axis)


@lru_cache(maxsize=256)
def _matrix(low: int, high: int, size: int, start: int, stop: int, sigma: float, stride: int) -> Tensor:
    """Return weights of samples ``start:stop`` (rows) on voxels ``low:high`` (columns) of ``size``."""
    radius = _radius(sigma)
    taps = torch.arange(-radius, radius + 1)
    weights = (
        torch.exp(-0.5 * (taps / max(sigma, SMALLEST)).double() ** 2) if radius else torch.ones(1).double()
    )
    weights = weights / weights.sum()
    rows = torch.arange(start, stop)
    columns = (rows[:, None] * stride + taps).clamp(0, size - 1) - low
    matrix = torch.zeros(stop - start, high - low, dtype=torch.float64)
    return matrix.scatter_add_(1, columns, weights.expand(len(rows), -1)).float()


def _interpolate(samples_ZYX: Tensor, stride: Triple, size: Sequence[int]) -> Tensor:
    """Interpolate linearly between samples that lie ``stride`` voxels apart, the first on the first voxel."""
    fine = [(n - 1) * step + 1 for n, step in zip(samples_ZYX.shape, stride)]
    out = F.interpolate(samples_ZYX[None, None], size=fine, mode="trilinear", align_corners=True)[0, 0]
    return out[: size[0], : size[1], : size[2]]


def _product(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    """Multiply every line of x_ZYX along one axis with a matrix."""
    if axis == 0:
        return (matrix @ x.reshape(x.shape[0], -1)).view(matrix.shape[0], *x.shape[1:])
    if axis == 1:
        return torch.matmul(matrix, x)
    return x @ matrix.T
