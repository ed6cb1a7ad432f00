"""What the three restoring tasks share: a target image, a squared error, a layer of float32."""

import numpy as np
import torch

from aequorea.layers.stems import PlainStem
from aequorea.specs import Spec


class NoSpec(Spec):
    """Nothing to choose."""


class Restoring:
    """Learns an image from an image on the same grid."""

    Spec = NoSpec
    over, annotation, better = "voxels", "image", "fidelity"
    dense_channels, dense_dtype, skips_constant = ("restored",), "float32", False

    def __init__(self, spec: NoSpec) -> None:
        self.spec = spec

    def resolve(self, annotations):
        return self

    def facts(self, annotations):
        return {}

    def stem(self):
        return PlainStem()

    def target(self, annotation, spacing):
        return annotation.volume

    def strata(self, target):
        return np.where(np.isfinite(target[0]), 0, -1).astype(np.int8)

    def loss(self, output, target):
        known = torch.isfinite(target)
        error = (output - torch.nan_to_num(target)).square() * known
        return error.sum() / known.sum().clamp(min=1)

    def store(self, output):
        return output

    def decode(self, dense, image, out, point):
        layer = out.layer("restored", size=dense.size, dtype=np.float32, kind="image", spacing=dense.spacing)
        for region in layer.pending():
            layer.write(region, dense.read(region))
        layer.finish()

    def calibrate(self, dense, truth):
        return {}

    def score(self, result, truth, spacing):
        error = result.layers["restored"].read() - truth.volume.read()
        return {"fidelity": 1 - float(np.square(error).mean() / (truth.volume.read().var() + 1e-9))}
