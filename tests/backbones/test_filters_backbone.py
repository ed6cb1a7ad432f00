"""The filters as a backbone: tiled equals whole, channels, real strokes."""

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aequorea.backbones.filters import Filters, FiltersSpec
from aequorea.engine.probe import fit_head
from aequorea.errors import DataError, SpecError
from aequorea.layers.heads import DenseHead
from aequorea.tasks.semantic import Semantic, SemanticSpec

SPACINGS = [None, (0.28, 0.13, 0.13), (2.0, 0.26, 0.26), (1.0, 2.0, 2.0)]


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 70), st.integers(1, 90), st.integers(1, 90)),
    place=st.tuples(*[st.floats(0, 0.999)] * 6),
    spacing=st.sampled_from(SPACINGS),
)
@settings(max_examples=25, deadline=None)
def test_tiled_equals_whole(seed, size, place, spacing):
    body = Filters(FiltersSpec())
    layout = body.layout(spacing)
    image = torch.from_numpy(np.random.default_rng(seed).random((1, 1, *size), np.float32))
    core, tile = [], []
    for n, reach, grid, a, b in zip(size, layout.reach, layout.grid, place[:3], place[3:]):
        start = int(a * n)
        stop = start + 1 + int(b * (n - start))
        core.append(slice(start, stop))
        tile.append(slice(max(0, (start - reach) // grid * grid), min(n, stop + reach)))
    whole = body(image, spacing)[0][(..., *core)]
    part = body(image[(..., *tile)], spacing)[0]
    inner = [slice(c.start - t.start, c.stop - t.start) for c, t in zip(core, tile)]
    assert torch.allclose(part[(..., *inner)], whole, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_reach_is_no_larger_than_needed(spacing):
    body = Filters(FiltersSpec())
    reach = body.layout(spacing).reach
    size = [2 * r + 9 for r in reach]
    image = torch.rand(1, 1, *size)
    for axis in range(3):
        other = image.clone()
        other.movedim(2 + axis, 0)[0] += 10.0
        changed = (body(image, spacing)[0] - body(other, spacing)[0]).abs().amax((0, 1))
        furthest = int(torch.nonzero(changed.movedim(axis, 0).flatten(1).amax(1) > 1e-4).max())
        assert furthest <= reach[axis]
        assert furthest >= 0.7 * reach[axis] - 2


def test_channels_get_the_bank_one_after_another():
    one, two = Filters(FiltersSpec()), Filters(FiltersSpec(channels=2))
    image = torch.rand(3, 2, 4, 16, 16)
    level = two(image, None)[0]
    assert level.shape == (3, *two.layout(None).channels, 4, 16, 16)
    for c in range(2):
        assert torch.equal(level.chunk(2, 1)[c], one(image[:, c : c + 1], None)[0])
    with pytest.raises(DataError, match="2 channel"):
        two(image[:, :1], None)


def test_scales_set_features_and_reach():
    small = Filters(FiltersSpec(scales=(0.7, 1.6)))
    assert small.layout(None).channels == (19,)
    assert small.layout(None).grid == (1, 1, 1)
    assert max(small.layout(None).reach) < max(Filters(FiltersSpec()).layout(None).reach)


def test_wrong_scales_are_refused():
    for scales in ([], [-1.0]):
        with pytest.raises(SpecError, match="scales"):
            FiltersSpec.parse({"scales": scales})


def test_nothing_trains_and_autocast_changes_nothing():
    body = Filters(FiltersSpec())
    assert not list(body.parameters()) and not body.trainable
    image = torch.rand(1, 1, 8, 24, 24)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(body(image, None)[0], body(image, None)[0].float())
        half = body(image, None)[0]
    assert torch.equal(half, body(image, None)[0])


def test_one_labelled_crop_finds_nuclei_elsewhere(real_data):
    folder = real_data / "open" / "ovule_nuclei"
    image = tifffile.imread(folder / "ovule_1135.tif").astype(np.float32) / 255
    truth = torch.from_numpy(tifffile.imread(folder / "ovule_1135_label.tif") > 0)
    spacing = (0.2837, 0.1268, 0.1268)
    level = Filters(FiltersSpec())(torch.from_numpy(image)[None, None], spacing)[0]
    crop = (slice(26, 74),) * 3
    head = DenseHead(level.shape[1], (1, 1, 1), 1)
    target = truth[crop].reshape(-1, 1).float()
    fit_head(
        head, level[0][(slice(None), *crop)].flatten(1).T, target, Semantic(SemanticSpec(classes=2)).loss
    )
    with torch.no_grad():
        found = head([level], level)[0, 0] > 0
    rest = torch.ones_like(truth)
    rest[crop] = False
    dice = 2 * (found & truth)[rest].sum() / (found[rest].sum() + truth[rest].sum())
    assert dice > 0.8
