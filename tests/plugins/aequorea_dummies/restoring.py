"""What the three restoring tasks share: a target image, a squared error, a layer of float32."""

import numpy as np

from aequorea.layers.stems import PlainStem
from aequorea.specs import Spec


class NoSpec(Spec):
    """Nothing to choose."""


class Restoring:
    """Learns an image from an image."""

    Spec = NoSpec
    over, annotation, better = "voxels", "image", "fidelity"
    dense_channels, dense_dtype = ("restored",), "float32"

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
        return np.zeros(target.shape[1:], np.int8)

    def loss(self, output, target):
        return (output - target).square().mean()

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
