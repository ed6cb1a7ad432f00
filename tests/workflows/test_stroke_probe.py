"""What features are worth under strokes."""

from __future__ import annotations

import numpy as np
import torch

from aequorea.annotations import LabelImage
from aequorea.registry import build
from aequorea.signal.strokes import PER_CLASS, PLANES, strokes
from aequorea.volume import from_array
from aequorea.workflows.dataset import Item
from aequorea.workflows.stroke_probe import simulated_item, stroke_probe


def test_strokes_are_painted() -> None:
    labels = simulated_item().annotation.volume.read()[0]
    truth = (labels > 0).astype(np.int8)
    painted = strokes(truth, 3)
    assert [int((painted & (truth == kind)).sum()) for kind in (0, 1)] == [PER_CLASS, PER_CLASS]
    assert len(np.unique(np.argwhere(painted)[:, 0])) <= PLANES
    assert np.array_equal(painted, strokes(truth, 3)) and not np.array_equal(painted, strokes(truth, 4))


def test_features_that_know_the_answer_win() -> None:
    """Shuffled labels take it away: a control that must fail."""
    rng = np.random.default_rng(0)
    labels = (rng.random((4, 64, 64)) < 0.5).astype(np.uint8)
    image = labels + 0.3 * rng.standard_normal(labels.shape)
    shuffled = rng.permutation(labels.ravel()).reshape(labels.shape)
    items = [
        Item(name, from_array(image), LabelImage(from_array(truth)), name)
        for name, truth in (("true", labels), ("shuffled", shuffled))
    ]
    torch.manual_seed(0)
    true, false = stroke_probe({"filters": build("backbones", {"name": "filters"})}, items)
    assert true["filters"] > 0.9
    assert false["filters"] < 0.65


def test_unlabelled_voxels_are_left_out() -> None:
    item = simulated_item()
    labels = item.annotation.volume.read()[0]
    coded = np.where(labels > 0, 2, 1)
    coded[:, :40] = 0
    part = Item("part", item.image, LabelImage(from_array(coded, item.image.spacing), 0), "part")
    (row,) = stroke_probe({"filters": build("backbones", {"name": "filters"})}, [part])
    assert 0.7 < row["filters"] <= 1
