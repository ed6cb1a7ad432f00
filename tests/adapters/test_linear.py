"""The frozen body."""

import torch

from aequorea.adapters.linear import LinearProbe, LinearProbeSpec
from aequorea.backbones.unet import UNet, UNetSpec


def test_nothing_of_the_body_trains_and_nothing_changes():
    body = UNet(UNetSpec(levels=2)).eval()
    before = {name: tensor.clone() for name, tensor in body.state_dict().items()}
    probe = LinearProbe(LinearProbeSpec())
    assert probe.attach(body, body.points) == []
    assert not any(p.requires_grad for p in body.parameters())
    probe.merge(body)
    assert all(torch.equal(before[name], tensor) for name, tensor in body.state_dict().items())
