"""Detection: places in a table, learnt from points."""

import numpy as np
from scipy import ndimage

from aequorea.layers.heads import DenseHead
from aequorea.scores.points import match_points
from aequorea.volume import Volume

from .restoring import Restoring


class Centres(Restoring):
    """The registered task."""

    annotation, better, dense_channels = "points", "f1", ("hill",)

    def head(self, layout):
        return DenseHead(layout.channels[0], layout.strides[0], 1)

    def target(self, annotation, spacing):
        def reader(region):
            grid = np.stack(np.meshgrid(*map(np.arange, region.start, region.stop), indexing="ij"), -1)
            out = np.zeros(region.size, np.float32)
            for point in annotation.zyx:
                out = np.maximum(out, np.exp(-((grid - point) ** 2).sum(-1) / 8))
            return out[None]

        return Volume(reader, (1, *annotation.size), np.dtype(np.float32), spacing)

    def strata(self, target):
        return np.where(np.isfinite(target[0]), target[0] > 0.5, -1).astype(np.int8)

    def decode(self, dense, image, out, point):
        hill = ndimage.gaussian_filter(dense.read()[0], 1)
        peaks = np.argwhere((hill == ndimage.maximum_filter(hill, 5)) & (hill > 0.3))
        out.table("centres", {axis: peaks[:, i] for i, axis in enumerate("zyx")})

    def score(self, result, truth, spacing):
        table = result.tables["centres"]
        found = np.stack([table["z"], table["y"], table["x"]], 1).astype(float)
        return {"f1": match_points(truth.zyx, found, 3.0, None).f1}
