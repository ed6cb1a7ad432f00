"""Classification of whole files: dim or bright."""

import numpy as np
import torch
from torch import nn

from aequorea.volume import Region, Volume

from .restoring import Restoring

NAMES = ("dim", "bright")


class Pooled(nn.Module):
    """The mean over all voxels, then one linear map: a single output voxel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, 1, 1)

    def forward(self, levels, size):
        return self.conv(levels[0].mean((2, 3, 4), keepdim=True))

    def output_grid(self, region, spacing):
        return Region((0, 0, 0), (1, 1, 1)), None


class Brightness(Restoring):
    """The registered task."""

    over, annotation, better, dense_channels = "items", "class", "right", ("bright",)

    def head(self, layout):
        return Pooled(layout.channels[0])

    def target(self, annotation, spacing):
        value = np.full((1, 1, 1, 1), NAMES.index(annotation.name), np.float32)
        return Volume(lambda region: value, (1, 1, 1, 1), np.dtype(np.float32))

    def strata(self, target):
        return target[0].astype(np.int8)

    def loss(self, output, target):
        return torch.nn.functional.binary_cross_entropy_with_logits(output, target)

    def decode(self, dense, image, out, point):
        bright = float(dense.read().item()) > 0
        out.table("class", {"class": np.array([NAMES[bright]])})

    def score(self, result, truth, spacing):
        return {"right": float(result.tables["class"]["class"][0] == truth.name)}
