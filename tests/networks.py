"""Networks for tests: random weights whose output varies, and small tasks."""

from __future__ import annotations

import torch

from aequorea.backbones.unet import UNet, UNetSpec
from aequorea.checks import shaken
from aequorea.layers.heads import DenseHead
from aequorea.layers.network import Network
from aequorea.layers.stems import PlainStem
from aequorea.registry import build
from aequorea.volume import Spacing

SMALL = {"swinir": {"width": 12, "depths": (2,), "heads": 2}, "unet": {"levels": 2}}
"""Recipes of bodies that are smaller than usual: fast, and see less than the images of tests are wide."""


def of_task(body: str, task: str, seed: int, spacing: Spacing | None, **words: object) -> Network:
    """A task's network on a body, with random statistics."""
    torch.manual_seed(seed)
    part = build("backbones", {"name": body, **SMALL.get(body, {})})
    of = build("tasks", {"name": task, **words})
    network = Network(of.stem(), part, of.head(part.layout(spacing)))
    shaken(network, seed)
    return network.eval()


def unet(seed: int = 0, spacing: Spacing | None = None, outputs: int = 1, **fields: object) -> Network:
    """A U-Net with random statistics."""
    torch.manual_seed(seed)
    body = UNet(UNetSpec.parse(dict(fields)))
    layout = body.layout(spacing)
    network = Network(PlainStem(), body, DenseHead(layout.channels[0], layout.strides[0], outputs))
    shaken(network, seed)
    return network.eval()
