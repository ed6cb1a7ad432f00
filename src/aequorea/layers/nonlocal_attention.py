"""A network that makes one plane of a stack: residual convolutions and attention over all pixels.

Attention is computed by random features, so that it takes memory in proportion to the pixels. The published one is also
trained by a contrast between strong and weak pairs; that takes pairs of pixels and is no part of this forward.

After Xia et al., "Efficient Non-Local Contrastive Attention for Image Super-Resolution" (AAAI 2022), as Ma et al.
(Nature Methods 21, 2024) use it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aequorea.errors import DataError
from aequorea.plugs import Placement
from aequorea.volume import Region, Spacing, Triple

STRENGTH = 6.0
"""Squared length of queries and keys: how much sharper than their cosine the attention is."""
SHORTEST = 5e-5
OFFSET = 1e-4
SHARE = 0.1
"""Of a residual that is added."""


class NonlocalAttention(nn.Module):
    """Attention of every pixel to all pixels.

    Parameters
    ----------
    channels
        Of the plane.
    matched
        Of queries and keys.
    random
        Random features. They are drawn once and kept with the weights, which are worth nothing without them.
    """

    projection: Tensor

    def __init__(self, channels: int, matched: int, random: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, matched, 1)
        self.key = nn.Conv2d(channels, matched, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        blocks = [torch.linalg.qr(torch.randn(matched, matched))[0].T for _ in range(-(-random // matched))]
        length = torch.randn(random, matched).norm(dim=1, keepdim=True)
        self.register_buffer("projection", torch.cat(blocks)[:random] * length)

    def forward(self, x: Tensor) -> Tensor:
        """Return x_BCYX and a share of what its pixels gathered."""
        query, key = self._features(self.query(x)), self._features(self.key(x))
        value = self.value(x).flatten(2).transpose(1, 2)
        gathered = query @ (key.transpose(1, 2) @ value)
        total = query @ key.sum(1)[..., None]
        out: Tensor = x + SHARE * (gathered / total).transpose(1, 2).reshape(x.shape)
        return out

    def _features(self, x: Tensor) -> Tensor:
        """Return positive features (B, pixels, random) whose products are the exponentials of those of x_BCYX."""
        z = STRENGTH**0.5 * F.normalize(x.flatten(2).transpose(1, 2), dim=2, eps=SHORTEST)
        rows = self.projection.to(z.dtype)
        exponent = z @ rows.T - z.square().sum(2, keepdim=True) / 2
        features: Tensor = (exponent.exp() + OFFSET) * len(rows) ** -0.5
        return features


class ResidualUnit(nn.Module):
    """Two convolutions, a share of which is added.

    Parameters
    ----------
    channels
        Of the plane.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(channels, channels, 3, padding=1)
        self.two = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return x_BCYX and what is added."""
        out: Tensor = x + SHARE * self.two(F.relu(self.one(x)))
        return out


class SurfaceStem(nn.Module):
    """A first projection of a stack: planes as channels in, one plane out.

    Parameters
    ----------
    planes
        Of the stacks that it was trained on. One with fewer is filled up with copies of its last plane.
    features
        Channels.
    matched, random
        As of :class:`NonlocalAttention`.
    groups
        Of residual units, each of which an attention follows; one more begins.
    units
        Of a group.
    """

    reach = None

    def __init__(
        self,
        planes: int = 50,
        features: int = 256,
        matched: int = 64,
        random: int = 128,
        groups: int = 8,
        units: int = 8,
    ) -> None:
        super().__init__()
        self.most_planes = planes
        self.first = nn.Conv2d(planes, features, 3, padding=1)
        body: list[nn.Module] = [NonlocalAttention(features, matched, random)]
        for _ in range(groups):
            body += [ResidualUnit(features) for _ in range(units)]
            body.append(NonlocalAttention(features, matched, random))
        self.body = nn.Sequential(*body, nn.Conv2d(features, features, 3, padding=1))
        self.last = nn.Conv2d(features, 1, 3, padding=1)

    def domain(self, size: Triple, spacing: Spacing | None) -> Placement:
        """Return one plane."""
        return (1, size[1], size[2]), spacing

    def reads(self, region: Region, size: Triple) -> Region:
        """Return the region in all planes, and in those that the stack lacks.

        Raises
        ------
        DataError
            If there are more planes than the network has inputs for.
        """
        if size[0] > self.most_planes:
            raise DataError(
                f"a stack of {size[0]} planes, but this network projects {self.most_planes}: "
                f"give a part of it, such as --region 0:{self.most_planes},:,:"
            )
        return Region((0, *region.start[1:]), (self.most_planes, *region.stop[1:]))

    def forward(self, image: Tensor) -> Tensor:
        """Return plane_B11YX of the first channel of image_BCZYX."""
        stack = image[:, 0]
        there = ~torch.isnan(stack[:, :, 0, 0])
        if not bool(there.all()):
            places = torch.arange(self.most_planes, device=stack.device)
            nearest = torch.minimum(places, there.sum(1, keepdim=True) - 1)
            stack = stack.gather(1, nearest[:, :, None, None].expand(-1, -1, *stack.shape[2:]))
        x = self.first(stack.contiguous(memory_format=torch.channels_last))
        plane: Tensor = self.last(x + self.body(x))
        return plane[:, None]
