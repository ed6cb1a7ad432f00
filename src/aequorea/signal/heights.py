"""Height maps: what a network learns so that touching objects can be told apart.

One hill per object, computed once on the whole label image and in µm. ``capped`` is the distance to the
nearest voxel of another object or of background, up to a cap: it falls equally steeply on both sides of a
contact, so that the valley lies on the border. ``heat`` is the stationary warmth of a source at the
object's middle: it has one peak, so that long and bent objects stay whole. ``mix`` (0.7 and 0.3 of them)
keeps both virtues.

The border of the volume is not the border of an object: no distance is counted to it and no heat leaves
through it. Voxels that nobody labelled count as outside: objects are painted whole.

The heat equation for touching cells is that of Stringer et al. (2021), Nature Methods 18, solved here to its
stationary state and with a weight per axis for the voxel's shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse.linalg import cg
from skimage.measure import label

from aequorea.volume import Array, Region, Spacing

Kind = Literal["mix", "capped", "heat"]

CAPPED_SHARE = 0.7
"""Share of the capped distance in ``mix``."""
CAP_PERCENTILE = 25
"""The cap is this percentile, over the training objects, of the largest distance inside each."""
DECADES = 1000.0
"""Warmth relative to the source's, below which the logarithm no longer tells differences."""
CRUMB = 0.1
"""A piece smaller than this share of its object is a slip of the brush: it gets no peak of its own."""
PRECISION = 1e-6
"""Residual at which the heat equation counts as solved."""


@dataclass(frozen=True)
class Piece:
    """A connected piece of an object: where it is, its voxels, and how far each is from the outside.

    Attributes
    ----------
    id
        Number of the object.
    region
        Its bounding box, one voxel wider where the volume goes on.
    mask
        Its voxels in that box.
    distance
        µm to the nearest voxel outside the object, in that box; infinite where the object fills the volume.
    """

    id: int
    region: Region
    mask: NDArray[np.bool_]
    distance: NDArray[np.float64]


def pieces(labels: Array, spacing: Spacing | None, neighbours: int = 6) -> Iterator[Piece]:
    """Yield the connected pieces of the objects of a label image.

    Parameters
    ----------
    labels
        Object numbers, axes Z Y X; 0 (or negative) is no object. An object in several pieces gives several.
    spacing
        Voxel size in µm (z, y, x); ``None``: 1 along each axis.
    neighbours
        6 or 26: what counts as connected.
    """
    split = label(np.maximum(labels, 0), background=0, connectivity=1 if neighbours == 6 else 3)
    whole = Region.whole(labels.shape)
    for number, box in enumerate(ndimage.find_objects(split), 1):
        tight = Region.at([s.start for s in box], [s.stop - s.start for s in box])
        region = tight.grow((1, 1, 1)).clip(whole)
        mask = split[region.slices] == number
        if mask.all():
            distance = np.full(mask.shape, np.inf)
        else:
            distance = ndimage.distance_transform_edt(mask, spacing or (1.0, 1.0, 1.0))
        first = np.unravel_index(int(mask.argmax()), mask.shape)
        yield Piece(int(labels[region.slices][first]), region, mask, distance)


def object_sizes(
    labels: Array, spacing: Spacing | None, neighbours: int = 6
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each object's volume (µm³) and largest distance to its outside (µm); voxels where no spacing."""
    volume: dict[int, float] = {}
    deepest: dict[int, float] = {}
    voxel = float(np.prod(spacing or (1.0, 1.0, 1.0)))
    for piece in pieces(labels, spacing, neighbours):
        volume[piece.id] = volume.get(piece.id, 0.0) + np.count_nonzero(piece.mask) * voxel
        deepest[piece.id] = max(deepest.get(piece.id, 0.0), float(piece.distance[piece.mask].max()))
    return np.array(list(volume.values())), np.array(list(deepest.values()))


def cap_of(deepest: NDArray[np.float64]) -> float:
    """Return the cap for objects whose largest distances to the outside are given, (N,); 1 for none."""
    known = deepest[np.isfinite(deepest)]
    return float(np.percentile(known, CAP_PERCENTILE)) if len(known) else 1.0


def height_map(
    labels: Array, spacing: Spacing | None, *, cap: float, kind: Kind = "mix", neighbours: int = 6
) -> NDArray[np.float32]:
    """Return the height of each voxel, 0 … 1, 0 outside objects; float32, axes Z Y X.

    Parameters
    ----------
    labels, spacing, neighbours
        As in :func:`pieces`; all of the volume, not a crop.
    cap
        Distance in µm (voxels where the spacing is not known) at which ``capped`` is 1.
    kind
        ``mix``, ``capped`` or ``heat``.
    """
    out = np.zeros(labels.shape, np.float32)
    size = dict(zip(*(part.tolist() for part in np.unique(labels, return_counts=True))))
    for piece in pieces(labels, spacing, neighbours):
        height = np.zeros(piece.mask.shape)
        if kind != "heat":
            height += np.minimum(piece.distance / cap, 1.0) * (CAPPED_SHARE if kind == "mix" else 1.0)
        if kind != "capped" and np.count_nonzero(piece.mask) >= CRUMB * size[piece.id]:
            height += heat(piece.mask, spacing) * (1 - CAPPED_SHARE if kind == "mix" else 1.0)
        out[piece.region.slices][piece.mask] = height[piece.mask]
    return out


def heat(mask: NDArray[np.bool_], spacing: Spacing | None) -> NDArray[np.float64]:
    """Return the warmth of one object around a source at its medoid, on a logarithmic scale from 0 to 1.

    Solves ``-laplace(u) = source`` with ``u = 0`` on voxels of the box that are not the object, and no flow
    through the box's faces; the medoid is the object's voxel nearest to the median of its coordinates.

    Parameters
    ----------
    mask
        Voxels of one connected object in a box one wider than itself where the volume goes on; axes Z Y X.
    spacing
        Voxel size in µm.
    """
    steps = np.asarray(spacing or (1.0, 1.0, 1.0))
    weights = (steps.min() / steps) ** 2
    voxels = np.argwhere(mask)
    number = np.full(mask.shape, -1, np.int32)
    number[mask] = np.arange(len(voxels))
    diagonal = np.zeros(len(voxels))
    rows, columns, values = [], [], []
    for axis, weight in enumerate(weights):
        low, high = np.moveaxis(number, axis, 0)[:-1], np.moveaxis(number, axis, 0)[1:]
        for one in (low, high):
            np.add.at(diagonal, one[one >= 0], weight)  # each neighbour inside the box draws heat
        both = (low >= 0) & (high >= 0)
        rows += [low[both], high[both]]
        columns += [high[both], low[both]]
        values.append(np.full(2 * int(both.sum()), -weight))
    source = np.zeros(len(voxels))
    middle = np.median(voxels, axis=0)
    source[np.argmin((((voxels - middle) * steps) ** 2).sum(1))] = 1.0
    out = np.zeros(mask.shape)
    if mask.all():  # nowhere for heat to go
        out[mask] = 1.0
        return out
    everywhere = np.arange(len(voxels))
    matrix = sparse.csr_array(
        (
            np.concatenate([*values, diagonal]),
            (np.concatenate([*rows, everywhere]), np.concatenate([*columns, everywhere])),
        )
    )
    warmth, _ = cg(matrix, source, rtol=PRECISION, maxiter=5000, M=sparse.diags_array(1 / diagonal))
    warmth = np.maximum(warmth, 0.0) / warmth.max()
    out[mask] = np.log1p(DECADES * warmth) / np.log1p(DECADES)
    return out
