"""Networks for tests: random weights whose output varies, and small tasks."""

from __future__ import annotations

import torch
from torch import nn

from aequorea.backbones.unet import UNet, UNetSpec
from aequorea.layers.heads import DenseHead
from aequorea.layers.network import Network
from aequorea.layers.stems import PlainStem
from aequorea.volume import Spacing


def shaken(network: nn.Module, seed: int) -> None:
    """Give every normalisation random statistics and every head some weight, so that the output varies."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.1, 0.6, generator=generator)
            module.weight.data.uniform_(0.7, 1.4, generator=generator)
            module.bias.data.normal_(0, 0.2, generator=generator)


def unet(seed: int = 0, spacing: Spacing | None = None, outputs: int = 1, **fields: object) -> Network:
    """A U-Net with random statistics."""
    torch.manual_seed(seed)
    body = UNet(UNetSpec.parse(dict(fields)))
    layout = body.layout(spacing)
    network = Network(PlainStem(), body, DenseHead(layout.channels[0], layout.strides[0], outputs))
    shaken(network, seed)
    return network.eval()
