"""Networks for tests: random weights whose output varies, and small tasks."""

from __future__ import annotations

import torch

from aequorea.backbones.unet import UNet, UNetSpec
from aequorea.checks import shaken
from aequorea.layers.heads import DenseHead
from aequorea.layers.network import Network
from aequorea.layers.stems import PlainStem
from aequorea.volume import Spacing


def unet(seed: int = 0, spacing: Spacing | None = None, outputs: int = 1, **fields: object) -> Network:
    """A U-Net with random statistics."""
    torch.manual_seed(seed)
    body = UNet(UNetSpec.parse(dict(fields)))
    layout = body.layout(spacing)
    network = Network(PlainStem(), body, DenseHead(layout.channels[0], layout.strides[0], outputs))
    shaken(network, seed)
    return network.eval()
