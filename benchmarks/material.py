"""What the benchmarks of prediction run on: a volume of blobs on disk, and U-Nets that need no training.

The volume is one noisy block, repeated; it is stored as microscopes' files are, uint16 in zstd chunks of 64³.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from aequorea.annotations import LabelImage
from aequorea.engine.writer import ZarrOutput
from aequorea.model import Model
from aequorea.registry import build
from aequorea.volume import Array, Spacing, Triple, from_array
from aequorea.workflows.dataset import Item
from aequorea.workflows.finetune import FinetuneSpec, finetune

BLOCK: Triple = (64, 256, 256)
SPACING: Spacing = (1.0, 1.0, 1.0)


def blobs(seed: int = 0) -> Array:
    """Return one block of blobs about ten voxels wide, photon noise included: uint16, axes Z Y X, periodic."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.standard_normal(BLOCK, np.float32), 4, mode="wrap")
    bright = 1 / (1 + np.exp(4 - 4 * field / field.std()))
    return rng.poisson(100 + 400 * bright).astype(np.uint16)


def store_volume(path: Path, size: Triple, block: Array | None = None) -> Path:
    """Write the block, repeated to a volume of ``size`` voxels (z, y, x), as OME-Zarr; returns the path."""
    block = blobs() if block is None else block
    out = ZarrOutput(
        path, identity="material", shard=(64, 512, 512), chunk=(64, 64, 64), pyramid=False, root="image"
    )
    layer = out.layer("image", size=size, dtype=np.uint16, kind="image", spacing=SPACING)
    for region in list(layer.pending()):
        index = [np.arange(a, b) % n for a, b, n in zip(region.start, region.stop, BLOCK)]
        layer.write(region, block[np.ix_(*index)][None])
    layer.finish()
    out.complete()
    return path


def shaken(task: str = "semantic", seed: int = 0) -> Model:
    """Return a random tiny U-Net whose normalisations have random statistics, so that its output varies.

    Its output spreads over what the task stores: the head is scaled by what it gives for the block.
    """
    torch.manual_seed(seed)
    words = {"semantic": {"classes": 2}, "instances": {"min_size_um3": 100.0, "cap_um": 4.0}}[task]
    model = Model.build(build("tasks", {"name": task, **words}), {"name": "unet"}, SPACING)
    generator = torch.Generator().manual_seed(seed)
    for module in model.network.modules():
        if isinstance(module, nn.BatchNorm3d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.1, 0.6, generator=generator)
            module.weight.data.uniform_(0.7, 1.4, generator=generator)
            module.bias.data.normal_(0, 0.2, generator=generator)
    model.network.eval()
    return model


def blob_finder(task: str) -> Model:
    """Return a U-Net that finds the blobs: its first channel is the smoothed image, all others are random.

    So that decoding meets about as many objects as a trained network would give it.
    """
    model = shaken(task)
    network = model.network
    body, head = network.backbone, network.head
    line = torch.tensor([0.25, 0.5, 0.25])
    kernel = line[:, None, None] * line[:, None] * line
    with torch.no_grad():
        body.roles.zero_()
        body.embed.weight[0, 0] = kernel
        last = body.decoder[0]
        last.conv.weight[0] = 0
        last.conv.weight[0, 0] = kernel
        body.narrow[0].weight[0] = 0
        body.narrow[0].bias[0] = 0
        for norm in (body.embed_norm, last.norm):
            norm.running_mean[0], norm.running_var[0] = 0, 1 - norm.eps
            norm.weight[0], norm.bias[0] = 1, 0
        head.conv.weight.zero_()
        head.conv.weight[0, 0], head.conv.bias[0] = 20.0, -10.0  # foreground: above half of the range
        if len(head.conv.weight) > 1:
            head.conv.weight[1, 0], head.conv.bias[1] = 1.0, 0.0
    return model


def trained(run: Path) -> Model:
    """Return a U-Net fine-tuned for a minute on what is bright in other blocks; ``run`` is its run folder."""

    def item(split: str, seed: int) -> Item:
        image = blobs(seed)[:, :128, :128]
        bright = (gaussian_filter(image.astype(np.float32), 1.5) > 300).astype(np.uint8)
        label = LabelImage(from_array(bright, SPACING))
        return Item(split, from_array(image, SPACING), label, group=split, split=split)

    words = {"steps": 60, "evaluate_every": 60}
    spec = FinetuneSpec.parse({"task": {"name": "semantic"}, "backbone": {"name": "unet"}, "train": words})
    return finetune([item("train", 1), item("val", 2)], run, spec).model
