"""A backbone: two convolutions at full resolution."""

import torch
from torch import nn

from aequorea.plugs import Layout
from aequorea.specs import Spec


class PlainSpec(Spec):
    """Width, and how many channels come in."""

    width: int = 8
    channels: int = 1


class Plain(nn.Module):
    """Reach 2, stride 1."""

    Spec = PlainSpec
    ndim = 3
    trainable = True
    points = ("first", "second")

    def __init__(self, spec: PlainSpec) -> None:
        super().__init__()
        self.spec = spec
        self.first = nn.Conv3d(spec.channels, spec.width, 3, padding=1)
        self.second = nn.Conv3d(spec.width, spec.width, 3, padding=1)

    def layout(self, spacing) -> Layout:
        return Layout((self.spec.width,), ((1, 1, 1),), (1, 1, 1), (2, 2, 2), (2, 2, 2))

    def forward(self, x, spacing, origin=(0, 0, 0)):
        return [torch.relu(self.second(torch.relu(self.first(x))))]
