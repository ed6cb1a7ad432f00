"""Projection: a stack becomes one plane, whatever its depth."""

from torch import nn

from aequorea.layers.heads import DenseHead
from aequorea.volume import Region

from .restoring import Restoring


class WholeDepth(nn.Module):
    """Reads all planes and hands on mean and maximum of them as a single plane."""

    def domain(self, size, spacing):
        return (1, size[1], size[2]), spacing

    def reads(self, region, size):
        return Region((0, *region.start[1:]), (size[0], *region.stop[1:]))

    def forward(self, image):
        return (image.mean(2, keepdim=True) + image.amax(2, keepdim=True)) / 2


class Flatten(Restoring):
    """The registered task."""

    def stem(self):
        return WholeDepth()

    def head(self, layout):
        return DenseHead(layout.channels[0], layout.strides[0], 1)
