"""Objects: each nucleus or cell with a number of its own, touching ones apart, and a table of them.

The network gives two numbers per voxel: whether it is foreground, and a height that is one hill per object
(:mod:`aequorea.signal.heights`). Both are stored in 8 bits. Hills become objects by a rule that gives the
same answer however the volume is cut (:mod:`aequorea.signal.basins`, :mod:`aequorea.engine.objects`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage
from torch import Tensor, nn

from aequorea.annotations import Annotation, LabelImage
from aequorea.engine.objects import ObjectFinder, ObjectRule
from aequorea.errors import DataError
from aequorea.layers.heads import DenseHead
from aequorea.layers.stems import PlainStem
from aequorea.plugs import Layout
from aequorea.results import Output, Result
from aequorea.scores.matching import match
from aequorea.scores.volumes import object_scores
from aequorea.signal.basins import find_basins, paint
from aequorea.signal.heights import cap_of, height_map, object_sizes
from aequorea.specs import Spec
from aequorea.volume import Array, Spacing, Volume

UNIT = 200
"""Counts of the stored height per unit: hills may rise to 1.275 before they are clipped."""
SMALLEST = 0.05
"""Objects below this share of the median training object are dropped."""
HEIGHT_WEIGHT = 2.0
"""Weight of the height in the loss."""
BACKGROUND_WEIGHT = 0.2
"""Weight of the height outside objects, where only its being low matters."""
ENOUGH_VOXELS, ENOUGH_OBJECTS = 50, 5
"""Labelled voxels of either kind, and objects, below which no operating point is chosen."""
LEVEL = 0.02
"""F1 on few objects is coarse: choices that differ by no more than this are level."""
MANY = 5
"""A single object in this many pieces is a mask, not an object."""
THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
PERSISTENCES = (0.1, 0.14, 0.18, 0.22, 0.27, 0.33)
"""Operating points that :meth:`Instances.calibrate` tries."""


class InstancesSpec(Spec):
    """Recipe of :class:`Instances`.

    Attributes
    ----------
    threshold
        Probability from which a voxel is foreground, unless one was calibrated.
    persistence
        How far the lower of two peaks must rise above the saddle between them for two objects, in units of
        the height map, unless one was calibrated.
    min_size_um3
        Smaller objects are dropped, µm³ (voxels where the spacing is not known). Default: 5 % of the median
        training object.
    height
        ``mix`` of capped distance and heat, or ``capped`` distance alone.
    neighbours
        6 (faces), or 26 for objects as thin as one voxel that run diagonally.
    cap_um
        Distance to the border at which the capped distance is 1, µm (voxels where the spacing is not known).
        Default: that which a quarter of the training objects do not reach.
    """

    threshold: float = Field(0.5, gt=0, le=1)
    persistence: float = Field(0.18, ge=1 / UNIT)
    min_size_um3: float | None = Field(None, ge=0)
    height: Literal["mix", "capped"] = "mix"
    neighbours: Literal[6, 26] = 6
    cap_um: float | None = Field(None, gt=0)


class Instances:
    """Objects, by foreground and height stored in 8 bits."""

    Spec = InstancesSpec
    over: Literal["voxels"] = "voxels"
    annotation: Literal["label"] = "label"
    skips_constant = True
    better = "f1_50"
    dense_channels = ("foreground", "height")
    dense_dtype = "uint8"

    def __init__(self, spec: InstancesSpec) -> None:
        self.spec = spec

    def resolve(self, annotations: Sequence[Annotation]) -> Instances:
        """Return the task with the cap and the smallest size that the labelled objects give.

        Raises
        ------
        DataError
            If the labels hold no object, or one value for many separate ones.
        """
        volumes, depths = [], []
        for annotation in annotations:
            labels, _ = _objects(annotation)
            volume, depth = object_sizes(labels, annotation.spacing, self.spec.neighbours)
            if len(volume) == 1 and ndimage.label(labels)[1] >= MANY:
                raise DataError(
                    f"{_name(annotation)}: one value for {ndimage.label(labels)[1]} separate objects; "
                    "give each a number of its own, or use --task semantic"
                )
            volumes.append(volume)
            depths.append(depth)
        sizes = np.concatenate(volumes)
        if not len(sizes):
            raise DataError("the labels hold no object: number them 1, 2, 3 … (0 is background)")
        found: dict[str, float] = {}
        if self.spec.min_size_um3 is None:
            found["min_size_um3"] = SMALLEST * float(np.median(sizes))
        if self.spec.cap_um is None:
            found["cap_um"] = cap_of(np.concatenate(depths))
        return Instances(self.spec.model_copy(update=found))

    def facts(self, annotations: Sequence[Annotation]) -> dict[str, float]:
        """Return the median diameter of the objects, µm (voxels where the spacing is not known)."""
        sizes = [
            object_sizes(_objects(annotation)[0], annotation.spacing, self.spec.neighbours)[0]
            for annotation in annotations
        ]
        return {"object_um": float(np.cbrt(6 / np.pi * np.median(np.concatenate(sizes))))}

    def stem(self) -> nn.Module:
        """Return the ordinary stem."""
        return PlainStem()

    def head(self, layout: Layout) -> nn.Module:
        """Return a linear head on the finest level: foreground logit, height."""
        return DenseHead(layout.channels[0], layout.strides[0], 2)

    def target(self, annotation: Annotation, spacing: Spacing | None) -> Volume:
        """Return foreground (0 or 1) and height as float32, NaN where unlabelled.

        Computed on the whole label image when first read, then kept. An object that nobody painted whole
        has a wrong height: paint objects whole, or use the semantic task.
        """
        assert isinstance(annotation, LabelImage)
        spacing = spacing or annotation.spacing

        @cache
        def whole() -> NDArray[np.float32]:
            labels, known = _objects(annotation)
            cap = self.spec.cap_um
            if cap is None:
                _, depth = object_sizes(labels, spacing, self.spec.neighbours)
                cap = cap_of(depth)
            height = height_map(
                labels, spacing, cap=cap, kind=self.spec.height, neighbours=self.spec.neighbours
            )
            out: NDArray[np.float32] = np.stack([(labels > 0).astype(np.float32), height])
            out[:, ~known] = np.nan
            return out

        return Volume(
            reader=lambda region: np.asarray(whole())[(slice(None), *region.slices)],
            shape=(2, *annotation.volume.size),
            dtype=np.dtype(np.float32),
            spacing=spacing,
            channels=self.dense_channels,
            name=annotation.volume.name,
        )

    def strata(self, target: Array) -> Array:
        """Return 0 for background and 1 for foreground, -1 where unlabelled."""
        kinds: NDArray[np.int8] = np.nan_to_num(target[0], nan=-1).astype(np.int8)
        return kinds

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean over the batch of each sample's loss, over its labelled voxels.

        Cross-entropy and soft Dice of the foreground; smooth L1 of the height, foreground and background
        averaged apart, so that few objects in much background count as much as a full view.
        """
        known = torch.isfinite(target[:, 0]).float()
        inside = torch.nan_to_num(target[:, 0])
        logits = output[:, 0]
        entropy = F.binary_cross_entropy_with_logits(logits, inside, reduction="none")
        probability = torch.sigmoid(logits)
        shared = (probability * inside * known).sum((1, 2, 3))
        total = ((probability + inside) * known).sum((1, 2, 3))
        loss = _mean(entropy, known) + 1 - (2 * shared + 1) / (total + 1)
        error = F.smooth_l1_loss(output[:, 1], torch.nan_to_num(target[:, 1]), reduction="none", beta=0.1)
        height = _mean(error, known * inside) + BACKGROUND_WEIGHT * _mean(error, known * (1 - inside))
        return (loss + HEIGHT_WEIGHT * height).mean()

    def store(self, output: Tensor) -> Tensor:
        """Return probability in 255ths and height in 200ths; what is not finite is background."""
        probability = torch.nan_to_num(torch.sigmoid(output[:, 0]), nan=0.0) * 255
        height = (torch.nan_to_num(output[:, 1], nan=0.0) * UNIT).clamp(0, 255)
        return torch.stack([probability, height], 1).round().to(torch.uint8)

    def rule(self, point: dict[str, float], spacing: Spacing | None) -> ObjectRule:
        """Return what counts as an object at an operating point."""
        voxel = float(np.prod(spacing or (1.0, 1.0, 1.0)))
        return ObjectRule(
            threshold=max(1, round(255 * point.get("threshold", self.spec.threshold))),
            tau=max(1, round(UNIT * point.get("persistence", self.spec.persistence))),
            neighbours=self.spec.neighbours,
            min_voxels=max(1, round((self.spec.min_size_um3 or 0.0) / voxel)),
        )

    def decode(self, dense: Volume, image: Volume | None, out: Output, point: dict[str, float]) -> None:
        """Write the layer ``objects`` (uint32) and the table ``objects``.

        The table's columns are those of :func:`aequorea.signal.measure.object_table`.
        """
        layer = out.layer("objects", size=dense.size, dtype=np.uint32, kind="label", spacing=dense.spacing)
        several = any(b < n for b, n in zip(layer.block, dense.size))
        scratch = out.scratch("objects") if several else None
        finder = ObjectFinder(dense, self.rule(point, dense.spacing), layer.block, scratch)
        finder.run(layer, image)
        layer.finish()
        out.table("objects", lambda: finder.table(image))

    def calibrate(self, dense: Sequence[Volume], truth: Sequence[Annotation]) -> dict[str, float]:
        """Return the threshold and persistence of best F1 (mean of IoU 0.5 and 0.75, pooled over the crops).

        Nothing where the labels are too few to carry a choice; of choices that are level, the one nearest to the
        recipe's own, which comes from many kinds of objects.
        """
        pairs = [(volume, *_objects(annotation)) for volume, annotation in zip(dense, truth)]
        inside = sum(int(np.count_nonzero(labels > 0)) for _, labels, _ in pairs)
        known = sum(int(np.count_nonzero(seen)) for _, _, seen in pairs)
        objects = sum(len(np.unique(labels[labels > 0])) for _, labels, _ in pairs)
        if min(inside, known - inside) < ENOUGH_VOXELS or objects < ENOUGH_OBJECTS:
            return {}
        own = {"threshold": self.spec.threshold, "persistence": self.spec.persistence}
        tried = {(own["threshold"], own["persistence"]), *product(THRESHOLDS, PERSISTENCES)}
        counts = {choice: np.zeros(2) for choice in tried}
        for volume, labels, seen in pairs:
            probability, height = volume.read()
            for threshold in sorted({t for t, _ in tried}):
                rule = self.rule({"threshold": threshold}, volume.spacing)
                basins = find_basins(
                    np.pad(rule.foreground(probability), 1),
                    np.pad(height, 1),
                    spacing=volume.spacing,
                    neighbours=rule.neighbours,
                )
                for persistence in sorted({p for t, p in tried if t == threshold}):
                    tau = self.rule({"persistence": persistence}, volume.spacing).tau
                    found = paint(basins, tau, rule.min_voxels)
                    counts[threshold, persistence] += _pooled(labels, found, ~seen)
        f1 = {choice: good / max(total, 1) for choice, (good, total) in counts.items()}
        level = max(f1.values()) - LEVEL
        if f1[own["threshold"], own["persistence"]] >= level:
            return own
        near = min(
            (c for c, value in f1.items() if value >= level),
            key=lambda c: (abs(c[1] - own["persistence"]) + abs(c[0] - own["threshold"]), c),
        )
        return {"threshold": near[0], "persistence": near[1]}

    def score(self, result: Result, truth: Annotation, spacing: Spacing | None) -> dict[str, float]:
        """Return :func:`aequorea.scores.volumes.object_scores`: objects, and Dice of the foreground."""
        assert isinstance(truth, LabelImage)  # what ``annotation`` promises
        return object_scores(result.layers["objects"], truth)


def _objects(annotation: Annotation) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return object numbers (0: none) and which voxels are labelled.

    Where 0 marks unlabelled voxels (strokes), 1 is background and objects begin at 2.
    """
    assert isinstance(annotation, LabelImage)  # what ``Instances.annotation`` promises
    values = annotation.volume.read()[0]
    if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
        raise DataError(f"{annotation.volume.name}: objects are numbered by whole numbers, found fractions")
    labels = values.astype(np.int64)
    known = np.ones(labels.shape, bool)
    if annotation.unlabelled is not None:
        known = labels != annotation.unlabelled
        labels = np.where(known, labels - (annotation.unlabelled == 0), 0)
    return np.maximum(labels, 0), known


def _name(annotation: Annotation) -> str:
    return annotation.volume.name if isinstance(annotation, LabelImage) else "labels"


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean of each sample of ``values_BZYX``; 0 where nothing weighs."""
    return (values * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp(min=1)


def _pooled(truth: Array, found: Array, ignore: Array) -> NDArray[np.float64]:
    """Return 2TP and 2TP + FP + FN, each summed over IoU 0.5 and 0.75."""
    good = total = 0
    for iou in (0.5, 0.75):
        pair = match(truth, found, threshold=iou, ignore=ignore)
        good += 2 * pair.tp
        total += 2 * pair.tp + pair.fp + pair.fn
    return np.array([good, total], float)
