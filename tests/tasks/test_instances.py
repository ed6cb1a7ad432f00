"""The task ``instances``: targets, loss, storing, decoding, calibration, scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aequorea.annotations import LabelImage
from aequorea.errors import DataError, SpecError
from aequorea.plugs import Layout
from aequorea.results import MemoryOutput
from aequorea.tasks.instances import Instances, InstancesSpec
from aequorea.volume import from_array

SPACING = (2.0, 1.0, 1.0)


def balls(size=(16, 40, 40), radius=7.0):
    """Nine touching balls in µm."""
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij")).astype(float)
    grid *= np.array(SPACING)[:, None, None, None]
    labels, nearest = np.zeros(size, np.uint16), np.full(size, np.inf)
    centres = [(16, y, x) for y in (8, 20, 32) for x in (8, 20, 32)]
    for number, centre in enumerate(centres, 1):
        distance = np.sqrt(((grid - np.array(centre)[:, None, None, None]) ** 2).sum(0))
        closer = (distance < radius) & (distance < nearest)
        labels[closer] = number
        nearest[closer] = distance[closer]
    return labels


def annotated(labels, unlabelled=None):
    return LabelImage(from_array(labels, spacing=SPACING), unlabelled)


def dense_of(task, annotation, rng=None, noise=0.0):
    target = np.nan_to_num(task.target(annotation, None).read())
    output = torch.from_numpy(target)[None].clone()
    output[:, 0] = (output[:, 0] - 0.5) * 12
    if rng is not None:
        output[:, 1] += torch.from_numpy(rng.normal(0, noise, target.shape[1:]).astype(np.float32))
    return from_array(task.store(output)[0].numpy(), spacing=SPACING, channels=task.dense_channels)


@pytest.fixture
def task():
    return Instances(InstancesSpec()).resolve([annotated(balls())])


def test_resolving_reads_sizes_from_the_labels(task):
    labels = balls()
    assert task.spec.min_size_um3 == pytest.approx(0.05 * np.median(np.bincount(labels.ravel())[1:]) * 2)
    assert 3 < task.spec.cap_um < 8
    told = Instances(InstancesSpec(cap_um=3.0, min_size_um3=9.0)).resolve([annotated(labels)])
    assert (told.spec.cap_um, told.spec.min_size_um3) == (3.0, 9.0)
    assert Instances(InstancesSpec.parse(task.spec.plain())).spec == task.spec


def test_labels_that_are_no_objects_are_refused():
    with pytest.raises(DataError, match="no object"):
        Instances(InstancesSpec()).resolve([annotated(np.zeros((4, 4, 4), np.uint8))])
    dots = np.zeros((1, 20, 20), np.uint8)
    dots[0, ::4, ::4] = 255
    with pytest.raises(DataError, match="one value for 25 separate objects"):
        Instances(InstancesSpec()).resolve([annotated(dots)])
    with pytest.raises(DataError, match="fractions"):
        Instances(InstancesSpec()).resolve([annotated(np.full((2, 2, 2), 0.5))])
    with pytest.raises(SpecError, match="persistence"):
        InstancesSpec.parse({"persistence": 0})


def test_target_and_strata_know_what_is_unlabelled(task):
    labels = balls()
    labels[:, :4] = 65535
    target = task.target(annotated(labels, 65535), SPACING).read()
    assert target.dtype == np.float32 and np.isnan(target[:, :, :4]).all()
    np.testing.assert_array_equal(target[0, :, 4:], labels[:, 4:] > 0)
    assert np.nanmax(target[1]) == pytest.approx(1, abs=1e-6)
    strata = task.strata(target)
    assert strata.dtype == np.int8 and set(np.unique(strata)) == {-1, 0, 1}


def test_strokes_count_from_one(task):
    strokes = balls() + 1  # 1 background, 2 … objects
    strokes[:, :, 30:] = 0
    target = task.target(annotated(strokes, 0), SPACING).read()
    np.testing.assert_array_equal(target[0, ..., :30], balls()[..., :30] > 0)
    assert np.isnan(target[..., 30:]).all()


def test_crops_of_the_target_are_those_of_the_whole(task):
    target = task.target(annotated(balls()), SPACING)
    part = target.region.grow((-3, -9, -5))
    np.testing.assert_array_equal(target.read(part), target.read()[(slice(None), *part.slices)])


def test_loss_falls_towards_the_truth_and_ignores_the_unlabelled(task):
    target = torch.from_numpy(task.target(annotated(balls()), SPACING).read())[None]
    good = torch.stack([(target[:, 0] - 0.5) * 20, target[:, 1]], 1)
    bad = torch.zeros_like(good)
    assert task.loss(good, target) < 0.05 < 0.5 < task.loss(bad, target)
    part, wild = target.clone(), good.clone()
    part[..., 20:] = np.nan
    wild[..., 20:] = 77.0
    assert task.loss(wild, part) == pytest.approx(float(task.loss(good, part)))
    nothing = torch.full_like(target, np.nan)
    bad.requires_grad_()
    loss = task.loss(bad, nothing)
    loss.backward()
    assert float(loss) == 0 and (bad.grad == 0).all()


def test_loss_takes_flat_lists(task):
    flat = torch.rand(1, 2, 1, 1, 500, requires_grad=True)
    target = torch.rand(1, 2, 1, 1, 500).round()
    task.loss(flat, target).backward()
    assert flat.grad is not None and flat.grad.abs().sum() > 0


def test_head_and_store(task):
    head = task.head(Layout((8, 16), ((1, 1, 1), (2, 2, 2)), (1, 1, 1), (1, 1, 1), (1, 1, 1)))
    level = torch.randn(1, 8, 4, 5, 6)
    out = head([level], level)
    assert out.shape == (1, 2, 4, 5, 6)
    stored = task.store(
        torch.tensor([[0.0, -3.0, 99.0, torch.nan], [0.5, -1.0, 9.0, torch.nan]])[None, :, None, None]
    )
    assert stored.dtype == torch.uint8
    assert stored[0, :, 0, 0].tolist() == [[128, 12, 255, 0], [100, 0, 255, 0]]


@pytest.mark.parametrize("block", [None, (8, 16, 16)])
def test_decoding_gives_the_objects_back_with_a_table(task, tmp_path, rng, block):
    truth = annotated(balls())
    image = from_array(rng.integers(0, 999, (2, 16, 40, 40)).astype(np.uint16), channels=("a", "b"))
    out = MemoryOutput(scratch=tmp_path, block=block)
    task.decode(dense_of(task, truth, rng, 0.04), image, out, {})
    scores = task.score(out.result, truth, SPACING)
    assert scores["f1_75"] == 1 and scores["dice"] == 1 and scores["count_error"] == 0
    table = out.result.tables["objects"]
    assert list(table)[:4] == ["id", "z_um", "y_um", "x_um"] and {"mean_intensity_a", "confidence"} <= set(
        table
    )
    np.testing.assert_allclose(np.sort(table["y_um"]), np.repeat([8, 20, 32], 3), atol=1)
    assert out.result.layers["objects"].spacing == SPACING


def test_the_operating_point_is_what_decoding_uses(task, tmp_path):
    truth = annotated(balls())
    counts = {}
    for name, point in {"own": {}, "high": {"threshold": 1.0}, "flat": {"persistence": 1.3}}.items():
        out = MemoryOutput(scratch=tmp_path / name)
        task.decode(dense_of(task, truth), None, out, point)
        counts[name] = len(out.result.tables["objects"]["id"])
    assert counts == {"own": 9, "high": 0, "flat": 1}


def test_every_word_of_the_recipe_counts(task, tmp_path):
    truth = annotated(balls())

    def objects(point=None, **words):
        other = Instances(task.spec.model_copy(update=words))
        out = MemoryOutput()
        dense = dense_of(other, truth)
        other.decode(dense, None, out, point or {})
        return len(out.result.tables["objects"]["id"]), dense.read()[1].astype(int).sum()

    count, height = objects()
    assert objects(threshold=1.0)[0] == 0
    assert objects(persistence=1.3)[0] == 1
    assert objects(min_size_um3=1e6)[0] == 0
    assert objects(height="capped")[1] != height and objects(cap_um=2.0)[1] != height
    diagonal = np.zeros((1, 8, 8), np.uint8)
    diagonal[0, np.arange(8), np.arange(8)] = 200
    for neighbours, count in ((6, 8), (26, 1)):
        out = MemoryOutput()
        words = {"neighbours": neighbours, "min_size_um3": 0.0}
        Instances(task.spec.model_copy(update=words)).decode(
            from_array(np.stack([diagonal, diagonal])), None, out, {}
        )
        assert len(out.result.tables["objects"]["id"]) == count


def test_calibration_finds_a_better_point(task, rng):
    truth = annotated(balls())
    clean = dense_of(task, truth)
    assert task.calibrate([clean], [truth]) == {"threshold": 0.5, "persistence": 0.18}
    weak = clean.read().copy()
    weak[1] = weak[1] // 4  # a shy network: hills a quarter as high
    weak[0] = weak[0] // 3
    shy = from_array(weak, spacing=SPACING)
    point = task.calibrate([shy], [truth])
    assert point["threshold"] < 0.35 and point["persistence"] < 0.2
    own, chosen = MemoryOutput(), MemoryOutput()
    task.decode(shy, None, own, {})
    task.decode(shy, None, chosen, point)
    assert (
        task.score(chosen.result, truth, SPACING)["f1_50"] > task.score(own.result, truth, SPACING)["f1_50"]
    )


def test_too_few_labels_carry_no_choice(task):
    few = np.where(balls() < 3, balls(), 0)
    truth = annotated(few)
    assert task.calibrate([dense_of(task, truth)], [truth]) == {}


def test_unlabelled_voxels_are_not_scored(task, tmp_path):
    labels = balls()
    out = MemoryOutput()
    task.decode(dense_of(task, annotated(labels)), None, out, {})
    partly = labels.copy()
    partly[:, 26:] = 999
    assert task.score(out.result, annotated(partly, 999), SPACING)["f1_50"] == 1
    assert task.score(out.result, annotated(np.where(partly == 999, 0, partly)), SPACING)["f1_50"] < 1
