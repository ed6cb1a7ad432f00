"""A random forest as a head: the trees as tensors, so that it is saved, moved and tiled like any other.

It is grown by scikit-learn and computes what scikit-learn computes, on any device and without it.

L. Breiman, "Random Forests", Machine Learning 45 (2001).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aequorea.errors import AequoreaError, DataError
from aequorea.volume import Region, Spacing

TREES = 100
DEPTH = 16
SMALLEST = 1e-4
"""Probabilities are kept this far from 0 and 1, where logits are infinite."""

_CHUNK = 1 << 14


class ForestHead(nn.Module):
    """Class logits of every voxel from the finest level, which has a feature at each voxel.

    Parameters
    ----------
    outputs
        1 for the logit of class 1 against class 0, else the number of classes.
    """

    local = True
    feature: Tensor
    threshold: Tensor
    child: Tensor
    probability: Tensor

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        classes = max(2, outputs)
        # One leaf that knows nothing. Node n of tree t goes to child[t, n], or to the next one where its
        # feature is above the threshold; a leaf goes to itself.
        self.register_buffer("feature", torch.zeros(1, 1, dtype=torch.int32))
        self.register_buffer("threshold", torch.full((1, 1), torch.inf))
        self.register_buffer("child", torch.zeros(1, 1, dtype=torch.int32))
        self.register_buffer("probability", torch.full((1, 1, classes), 1 / classes))

    def fit(self, features: Tensor, classes: Tensor, trees: int = TREES, seed: int = 0) -> None:
        """Grow the forest.

        Parameters
        ----------
        features
            (N, F).
        classes
            (N,) class numbers.
        trees
            How many.
        seed
            Of what each tree sees.

        Raises
        ------
        AequoreaError
            If scikit-learn is not installed.
        DataError
            If the labels show one class only.
        """
        try:
            from sklearn.ensemble import RandomForestClassifier
        except ImportError:
            raise AequoreaError("a forest needs scikit-learn: pip install 'aequorea[forest]'") from None
        truth = classes.cpu().numpy().astype(np.int64)
        if len(np.unique(truth)) < 2:
            raise DataError("the labels show one class only: paint some of every class, background included")
        forest = RandomForestClassifier(trees, max_depth=DEPTH, random_state=seed)
        forest.fit(features.cpu().numpy().astype(np.float32), truth)
        self.take(forest)

    def take(self, forest: Any) -> None:
        """Take the trees of a fitted ``sklearn.ensemble.RandomForestClassifier``."""
        grown = [estimator.tree_ for estimator in forest.estimators_]
        shape = (len(grown), max(tree.node_count for tree in grown))
        feature, child = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        threshold = np.full(shape, np.inf, np.float32)
        probability = np.zeros((*shape, max(2, self.outputs)), np.float32)
        columns = np.asarray(forest.classes_, np.int64)
        for t, tree in enumerate(grown):
            order, place = _siblings_together(tree.children_left, tree.children_right)
            inner = tree.children_left[order] >= 0
            nodes = np.arange(len(order))
            feature[t, nodes] = np.where(inner, tree.feature[order], 0)
            child[t, nodes] = np.where(inner, place[tree.children_left[order]], nodes)
            threshold[t, nodes] = np.where(inner, _below(tree.threshold[order]), np.inf)
            weight = tree.value[order, 0, :]
            probability[t, nodes[:, None], columns] = weight / weight.sum(1, keepdims=True)
        device = self.feature.device
        for name, array in (
            ("feature", feature),
            ("child", child),
            ("threshold", threshold),
            ("probability", probability),
        ):
            setattr(self, name, torch.from_numpy(array).to(device))

    def probabilities(self, features: Tensor) -> Tensor:
        """Return the probability of each class (N, classes) for float32 features (N, F)."""
        parts = []
        for rows in torch.split(features.float(), _CHUNK):
            total = rows.new_zeros((len(rows), self.probability.shape[2]), dtype=torch.float64)
            flat, first = rows.reshape(-1), torch.arange(len(rows), device=rows.device) * rows.shape[1]
            for feature, threshold, child, probability in zip(
                self.feature, self.threshold.float(), self.child, self.probability
            ):
                node = torch.zeros_like(first)
                while True:
                    values = flat[first + feature[node]]
                    after = child[node] + (values > threshold[node])
                    if torch.equal(after, node):
                        break
                    node = after
                total += probability[node]
            parts.append(total / len(self.feature))
        return torch.cat(parts).float()

    def forward(self, levels: list[Tensor], x: Tensor) -> Tensor:
        """Return logits_BKZYX of as many voxels as x_BCZYX from the pyramid, finest level first."""
        level = levels[0]
        rows = level.movedim(1, -1).reshape(-1, level.shape[1])
        known = self.probabilities(rows).clamp(SMALLEST, 1 - SMALLEST)
        logits = (known[:, 1:2] / known[:, 0:1] if self.outputs == 1 else known).log()
        dense = logits.view(level.shape[0], *level.shape[2:], self.outputs).movedim(-1, 1)
        z, y, width = x.shape[2:]
        return dense[..., :z, :y, :width].to(level.dtype)

    def output_grid(self, region: Region, spacing: Spacing | None) -> tuple[Region, Spacing | None]:
        """Return the region itself: the output lies on the body's grid."""
        return region, spacing

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *arguments: Any) -> None:
        for name, own in list(self.named_buffers(recurse=False)):
            found = state_dict.get(prefix + name)
            if found is not None:  # as many trees and nodes as were grown
                setattr(self, name, own.new_empty(found.shape))
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def _siblings_together(left: Any, right: Any) -> tuple[Any, Any]:
    """Return an order of nodes in which siblings follow one another, and each node's place in it."""
    order = [0]
    for node in order:  # grows while it is read
        if left[node] >= 0:
            order += [int(left[node]), int(right[node])]
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return np.array(order), place


def _below(threshold: Any) -> Any:
    """Return the largest float32 that is not above: float32 features compare with it as with the double."""
    near = threshold.astype(np.float32)
    return np.where(near > threshold, np.nextafter(near, np.float32(-np.inf)), near)
