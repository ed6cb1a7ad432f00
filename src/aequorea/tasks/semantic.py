"""Classes of voxels: which kind of structure each voxel belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aequorea.annotations import Annotation, LabelImage
from aequorea.errors import DataError
from aequorea.layers.heads import DenseHead
from aequorea.layers.stems import PlainStem
from aequorea.plugs import Layout
from aequorea.results import Output, Result
from aequorea.scores.volumes import class_scores
from aequorea.specs import Spec
from aequorea.volume import Array, Region, Spacing, Volume

MOST_CLASSES = 32
UNLABELLED = 255
THREADS = 2
"""Shards of classes that are written at a time."""
ENOUGH = 50
CALIBRATE_FROM = 5000


class SemanticSpec(Spec):
    """Recipe of :class:`Semantic`.

    Attributes
    ----------
    classes
        Number of classes, background included; 0: as many as the training labels show.
    values
        Which class a value in the label files means; values not named are unlabelled. Default: values are classes.
    any_object
        Every value above 0 is foreground: learns foreground from instance labels.
    loss
        ``dice_focal`` or ``dice_cross_entropy``, or ``cross_entropy`` alone.
    threshold
        Probability from which a voxel is foreground (two classes only), unless one was calibrated.
    """

    classes: int = 0
    values: dict[int, int] | None = None
    any_object: bool = False
    loss: Literal["dice_focal", "dice_cross_entropy", "cross_entropy"] = "dice_cross_entropy"
    threshold: float = 0.5


class Semantic:
    """Classes of voxels, by probabilities stored in 8 bits."""

    Spec = SemanticSpec
    over: Literal["voxels"] = "voxels"
    annotation: Literal["label"] = "label"
    skips_constant = True
    better = "dice"
    dense_dtype = "uint8"

    def __init__(self, spec: SemanticSpec) -> None:
        self.spec = spec

    @property
    def outputs(self) -> int:
        """Output channels: one logit for two classes, one per class for more."""
        return 1 if self.spec.classes <= 2 else self.spec.classes

    @property
    def dense_channels(self) -> tuple[str, ...]:
        """One probability per class, without background."""
        if self.outputs == 1:
            return ("foreground",)
        return tuple(f"class {i}" for i in range(1, self.spec.classes))

    def resolve(self, annotations: Sequence[Annotation]) -> Semantic:
        """Return the task with the number of classes that the labels show.

        Raises
        ------
        DataError
            If the labels look like object numbers, or show one class only.
        """
        seen: set[int] = set()
        for annotation in annotations:
            labels = self.target(annotation, annotation.spacing)
            for values in labels.blocks():
                seen.update(np.unique(values[np.isfinite(values)]).astype(int).tolist())
        if seen and max(seen) >= MOST_CLASSES:
            raise DataError(
                f"the labels hold values up to {max(seen)}: object numbers? "
                "use --task instances, or --set any_object=true to learn foreground from them"
            )
        if seen == {0}:
            raise DataError("the labels show nothing but background: paint some foreground too")
        if len(seen) < 2:
            raise DataError(
                "all labelled voxels are of one class: a model cannot learn what the other looks like; "
                "paint some background and some foreground"
            )
        classes = self.spec.classes or (2 if self.spec.any_object else max(seen) + 1)
        return Semantic(self.spec.model_copy(update={"classes": classes}))

    def facts(self, annotations: Sequence[Annotation]) -> dict[str, float]:
        """Return nothing: classes have no size."""
        return {}

    def stem(self) -> nn.Module:
        """Return the ordinary stem."""
        return PlainStem()

    def head(self, layout: Layout) -> nn.Module:
        """Return a linear head on the finest level."""
        return DenseHead(layout.channels[0], layout.strides[0], self.outputs)

    def target(self, annotation: Annotation, spacing: Spacing | None) -> Volume:
        """Return the class of each voxel as float32, NaN where unlabelled; one channel.

        Reading it raises :class:`DataError` where a label shows a class that the task does not have.
        """
        assert isinstance(annotation, LabelImage)
        labels, spec, unlabelled = annotation.volume, self.spec, annotation.unlabelled

        def reader(region: Region) -> Array:
            values = labels.read(region)
            if spec.values is not None:
                out = np.full(values.shape, np.nan, np.float32)
                for value, meaning in spec.values.items():
                    out[values == value] = meaning
                return out
            out = values.astype(np.float32)
            if unlabelled == 0:  # strokes: 0 untouched, 1 background, 2 … classes
                out -= 1
            if spec.any_object:
                out = np.minimum(out, 1, out=out)
            if unlabelled is not None:
                out[values == unlabelled] = np.nan
            if spec.classes and (known := out[np.isfinite(out)]).size and known.max() >= spec.classes:
                raise DataError(
                    f"{labels.name}: shows class {int(known.max())} where the classes are 0 to {spec.classes - 1}: "
                    "relabel, say --unlabelled 0 for strokes, or, in training, name what each value means with "
                    "--set values={...}"
                )
            return out

        return replace(labels, reader=reader, dtype=np.dtype(np.float32), levels=())

    def strata(self, target: Array) -> Array:
        """Return the class per voxel, -1 where unlabelled."""
        kinds: Array = np.nan_to_num(target[0], nan=-1).astype(np.int8)
        return kinds

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean over the batch of each sample's loss, over its labelled voxels."""
        known = torch.isfinite(target[:, 0])
        truth = torch.nan_to_num(target[:, 0]).long()
        weight = known.float()
        count = weight.sum((1, 2, 3)).clamp(min=1)
        if self.outputs == 1:
            logits = output[:, 0]
            entropy = F.binary_cross_entropy_with_logits(logits, truth.float(), reduction="none")
            probability = torch.sigmoid(logits)[:, None]
            truths = truth[:, None].float()
        else:
            entropy = F.cross_entropy(output, truth, reduction="none")
            probability = torch.softmax(output, 1)[:, 1:]
            truths = F.one_hot(truth, self.outputs).movedim(-1, 1)[:, 1:].float()
        if self.spec.loss == "dice_focal":
            entropy = entropy * (1 - torch.exp(-entropy)).square()
        loss = (entropy * weight).sum((1, 2, 3)) / count
        if self.spec.loss != "cross_entropy":
            w = weight[:, None]
            overlap_BK = (probability * truths * w).sum((2, 3, 4))
            total_BK = ((probability + truths) * w).sum((2, 3, 4))
            loss = loss + (1 - (2 * overlap_BK + 1) / (total_BK + 1)).mean(1)
        return loss.mean()

    def store(self, output: Tensor) -> Tensor:
        """Return probabilities in 255ths."""
        if self.outputs == 1:
            probability = torch.sigmoid(output)
        else:
            probability = torch.softmax(output, 1)[:, 1:]
        return probability.mul_(255).round_().to(torch.uint8)

    def decode(self, dense: Volume, image: Volume | None, out: Output, point: dict[str, float]) -> None:
        """Write the layer ``classes`` (uint8)."""
        layer = out.layer("classes", size=dense.size, dtype=np.uint8, kind="label", spacing=dense.spacing)

        def write(region: Region) -> None:
            layer.write(region, self._classes(dense.read(region), point))

        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(write, list(layer.pending())):
                pass
        layer.finish()

    def _classes(self, dense: Array, point: dict[str, float]) -> Array:
        if self.outputs == 1:
            threshold = point.get("threshold", self.spec.threshold)
            chosen: Array = (dense >= max(1, round(threshold * 255))).astype(np.uint8)
            return chosen
        background = 255 - dense.astype(np.int32).sum(0, keepdims=True)
        chosen = np.concatenate([background, dense]).argmax(0)[None].astype(np.uint8)
        return chosen

    def calibrate(self, dense: Sequence[Volume], truth: Sequence[Annotation]) -> dict[str, float]:
        """Return the threshold of best pooled Dice; nothing where the labels are too few to carry a choice."""
        if self.outputs != 1:
            return {}
        hits, total = np.zeros(256, np.int64), np.zeros(256, np.int64)
        for volume, annotation in zip(dense, truth):
            target = self.target(annotation, annotation.spacing).read()[0]
            known = np.isfinite(target)
            values = volume.read()[0][known]
            hits += np.bincount(values[target[known] > 0], minlength=256)
            total += np.bincount(values, minlength=256)
        positives, labelled = int(hits.sum()), int(total.sum())
        if labelled < CALIBRATE_FROM or min(positives, labelled - positives) < 10 * ENOUGH:
            return {}
        true = hits[::-1].cumsum()[::-1]
        chosen = total[::-1].cumsum()[::-1]
        dice = 2 * true / np.maximum(chosen + positives, 1)
        usable = dice[26:230]  # 0.1 … 0.9: outside, a threshold is an accident of few voxels
        return {"threshold": float((26 + int(usable.argmax())) / 255)}

    def score(self, result: Result, truth: Annotation, spacing: Spacing | None) -> dict[str, float]:
        """Return Dice, IoU, clDice and surface distances (µm) of the classes."""
        known = self.target(truth, spacing)
        coded = replace(
            known,
            reader=lambda region: np.nan_to_num(known.read(region), nan=UNLABELLED).astype(np.uint8),
            dtype=np.dtype(np.uint8),
        )
        names = {c: f"class {c}" for c in range(1, max(2, self.spec.classes))}
        return class_scores(result.layers["classes"], LabelImage(coded, UNLABELLED), names)
