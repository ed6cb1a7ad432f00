"""What frozen features are worth to somebody who paints: a logistic head on strokes, beside rivals.

A body that reconstructs well need not transfer well. So a thousand voxels are painted on a labelled volume, a logistic
regression is fitted on the features of each body, and Dice is taken over all other labelled voxels. The rivals are the
same body with random weights and the fixed bank of filters, which is hard to beat. The control is the pretrained body
with its weights permuted: it has their statistics and nothing that was learnt.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aequorea.annotations import LabelImage
from aequorea.engine.predict import normalised
from aequorea.engine.probe import fit_head
from aequorea.layers.heads import DenseHead
from aequorea.layers.network import Network
from aequorea.layers.stems import PlainStem
from aequorea.layers.upsample import trilinear
from aequorea.signal.intensity import measure
from aequorea.signal.specimens import touching_nuclei
from aequorea.signal.strokes import strokes
from aequorea.tasks.semantic import Semantic, SemanticSpec
from aequorea.volume import Region, Volume, from_array
from aequorea.workflows.dataset import Item

SIMULATED = (24, 128, 128)
"""Voxels (z, y, x) of the simulated volume."""
PART = (32, 160, 160)
"""Most voxels (z, y, x) of a volume that are looked at: its middle."""
PLANES = 8
"""Planes that the fitted head looks at at a time."""
SETS = 3
"""Sets of strokes that are averaged."""


def simulated_item() -> Item:
    """Return a labelled volume for those who have none: simulated nuclei."""
    specimen = touching_nuclei(SIMULATED, (2.0, 0.5, 0.5), 4711)
    labels = LabelImage(from_array(specimen.labels, specimen.spacing))
    return Item("simulated nuclei", from_array(specimen.image, specimen.spacing), labels, "simulated")


def permuted(body: Any, seed: int) -> Any:
    """Return a copy of a body whose weights are shuffled within each tensor."""
    shuffled = copy.deepcopy(body)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in shuffled.parameters():
            order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
            weight.copy_(weight.flatten()[order].view_as(weight))
    return shuffled


def stroke_probe(bodies: Mapping[str, Any], items: Sequence[Item]) -> list[dict[str, Any]]:
    """Return a row for each volume: Dice of each body's features, mean over sets of strokes.

    Parameters
    ----------
    bodies
        By name; left in evaluation.
    items
        Labelled volumes. What is above 0 (above 1, where 0 is unlabelled) is foreground.

    Raises
    ------
    ValueError
        If a volume has no plane with enough foreground and background to paint on.
    """
    rows = []
    for item in items:
        image, truth = _part(item)
        block = torch.from_numpy(image.read())[None, :1]
        row: dict[str, Any] = {"volume": item.name}
        for name, body in bodies.items():
            level = _features(body, block, image)
            row[name] = float(
                np.mean([stroke_dice(level, truth, strokes(truth, seed)) for seed in range(SETS)])
            )
            del level  # before the next one is made
        rows.append(row)
    return rows


def probe_bytes(bodies: Mapping[str, Any], items: Sequence[Item]) -> int:
    """Return the memory that :func:`stroke_probe` takes at its peak: features of one body, and what makes them."""
    most = 0
    for item in items:
        voxels = math.prod(min(n, m) for n, m in zip(item.image.size, PART))
        for body in bodies.values():
            channels = body.layout(item.image.spacing).channels
            most = max(most, 4 * voxels * (sum(channels) + 3 * max(channels) + 8))
    return most


def stroke_dice(level: Tensor, truth: NDArray[np.int8], painted: NDArray[np.bool_]) -> float:
    """Fit a logistic head on the painted voxels of level_1FZYX; return its Dice on all others that are labelled."""
    features = level[0, :, torch.from_numpy(painted)].T
    target = torch.from_numpy(truth[painted].astype(np.float32))[:, None]
    head = DenseHead(features.shape[1], (1, 1, 1), 1)
    fit_head(head, features, target, Semantic(SemanticSpec(classes=2)).loss)
    rest = (truth >= 0) & ~painted
    with torch.no_grad():
        planes = [head([part], part)[0, 0] for part in torch.split(level, PLANES, 2)]
        found = (torch.cat(planes).numpy() > 0)[rest]
    wanted = truth[rest] == 1
    return float(2 * (found & wanted).sum() / max(1, found.sum() + wanted.sum()))


def _part(item: Item) -> tuple[Volume, NDArray[np.int8]]:
    """Return the normalised middle of a volume, and its truth: 1, 0, or -1 where unlabelled."""
    assert isinstance(item.annotation, LabelImage)
    image = normalised(item.image, item.intensity or measure(item.image, progress=False))
    size = [min(n, m) for n, m in zip(image.size, PART)]
    region = Region.at([(n - m) // 2 for n, m in zip(image.size, size)], size)
    labels = item.annotation.volume.read(region)[0]
    unlabelled = item.annotation.unlabelled
    truth = (labels > (unlabelled == 0)).astype(np.int8)
    if unlabelled is not None:
        truth[labels == unlabelled] = -1
    return image.crop(region), truth


@torch.inference_mode()
def _features(body: Any, block: Tensor, image: Volume) -> Tensor:
    """Return all levels of a body's pyramid at every voxel, axes 1 F Z Y X."""
    tensor = next(body.parameters(), block)
    levels, x = Network(PlainStem(), body.eval(), None).levels(block.to(tensor.device), image.spacing)
    size = x.shape[2:]
    out = torch.empty(1, sum(level.shape[1] for level in levels), *size)
    at = 0
    while levels:  # one at a time: at full resolution each weighs more than all others did
        level = levels.pop(0)
        out[:, at : at + level.shape[1]] = trilinear(level.float().cpu(), size)
        at += level.shape[1]
    return out
