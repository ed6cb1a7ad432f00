"""Classification of whole files: one answer each."""

import numpy as np
import torch
from torch import nn

from aequorea.errors import DataError
from aequorea.specs import Spec
from aequorea.volume import Region, Volume

from .restoring import Restoring


class BrightnessSpec(Spec):
    """The two classes; learnt from the annotations where they are not given."""

    classes: tuple[str, ...] = ()


class Pooled(nn.Module):
    """The mean over all voxels, then one linear map: a single output voxel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, 1, 1)

    def forward(self, levels, x):
        return self.conv(levels[0].mean((2, 3, 4), keepdim=True))

    def output_grid(self, region, spacing):
        return Region((0, 0, 0), (1, 1, 1)), None


class Brightness(Restoring):
    """The registered task."""

    Spec = BrightnessSpec
    over, annotation, better, dense_channels = "items", "class", "right", ("second",)

    def resolve(self, annotations):
        names = self.spec.classes or tuple(sorted({annotation.name for annotation in annotations}))
        if len(names) != 2:
            raise DataError(f"brightness tells two classes apart; the files name {len(names)}")
        return Brightness(BrightnessSpec(classes=names))

    def head(self, layout):
        return Pooled(layout.channels[0])

    def target(self, annotation, spacing):
        value = np.full((1, 1, 1, 1), self.spec.classes.index(annotation.name), np.float32)
        return Volume(lambda region: value, (1, 1, 1, 1), np.dtype(np.float32))

    def strata(self, target):
        return np.nan_to_num(target[0], nan=-1).astype(np.int8)

    def loss(self, output, target):
        known = torch.isfinite(target).float()
        return torch.nn.functional.binary_cross_entropy_with_logits(output, torch.nan_to_num(target), known)

    def decode(self, dense, image, out, point):
        second = float(dense.read().item()) > 0
        out.table("class", {"class": np.array([self.spec.classes[second]])})

    def score(self, result, truth, spacing):
        return {"right": float(result.tables["class"]["class"][0] == truth.name)}
