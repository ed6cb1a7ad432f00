"""The fit of a head on frozen features, against scikit-learn."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from aequorea.annotations import LabelImage
from aequorea.backbones.filters import Filters, FiltersSpec
from aequorea.backbones.unet import UNet, UNetSpec
from aequorea.engine.probe import fit_head, linear_map, sample_features, shares
from aequorea.engine.sampler import Pair
from aequorea.engine.tiles import Tiling
from aequorea.errors import DataError
from aequorea.layers.heads import DenseHead
from aequorea.layers.network import Network
from aequorea.layers.stems import PlainStem
from aequorea.tasks.semantic import Semantic, SemanticSpec
from aequorea.volume import from_array

TASK = Semantic(SemanticSpec(classes=2, loss="cross_entropy"))


def entropy(output, target):
    return F.binary_cross_entropy_with_logits(output, target.double())


def apply(head, features):
    level = features.T[None, :, None, None, :]
    with torch.no_grad():
        return head([level], level)[0, :, 0, 0].T


def network(body=None):
    body = body or Filters(FiltersSpec(scales=(0.7, 1.6)))
    layout = body.layout(None)
    return Network(PlainStem(), body, DenseHead(layout.channels[0], layout.strides[0], 1))


def pair(net, rng, size=(6, 24, 20), known=0.3):
    image = rng.random(size).astype(np.float32)
    labels = np.where(rng.random(size) < known, 1 + (image > 0.8), 0).astype(np.uint8)
    target = TASK.target(LabelImage(from_array(labels), unlabelled=0), None)
    return Pair(from_array(image), target, Tiling.of(net, size, None))


@pytest.mark.parametrize("penalty", [0.5, 10.0])
def test_equals_logistic_regression(rng, penalty):
    features = rng.standard_normal((400, 6)).astype(np.float32) * [1, 10, 0.01, 1, 1, 0] + [0, 5, 3, 0, 0, 7]
    truth = (features[:, 0] + 0.1 * features[:, 1] + rng.standard_normal(400) > 0.5).astype(float)
    head = DenseHead(6, (1, 1, 1), 1)
    x = torch.from_numpy(features.astype(np.float32))
    fit_head(head, x, torch.from_numpy(truth)[:, None], entropy, penalty)
    scaler = StandardScaler().fit(features)
    oracle = LogisticRegression(C=1 / penalty, tol=1e-9, max_iter=5000).fit(scaler.transform(features), truth)
    wanted = oracle.decision_function(scaler.transform(features))
    assert np.abs(apply(head, x)[:, 0].numpy() - wanted).max() < 1e-3


def test_features_that_are_much_alike_take_few_evaluations(rng):
    """As filters of neighbouring scales give them; the optimum is that of the features as they are."""
    features = rng.standard_normal((600, 1)) + 0.02 * rng.standard_normal((600, 16))
    truth = (features[:, 0] - features[:, 1] + 0.01 * rng.standard_normal(600) > 0).astype(float)
    head, evaluations = DenseHead(16, (1, 1, 1), 1), []

    def counted(output, target):
        evaluations.append(1)
        return entropy(output, target)

    x = torch.from_numpy(features.astype(np.float32))
    fit_head(head, x, torch.from_numpy(truth)[:, None], counted, 0.5)
    scaled = StandardScaler().fit_transform(features)
    oracle = LogisticRegression(C=2, tol=1e-9, max_iter=5000, solver="newton-cholesky").fit(scaled, truth)
    assert np.abs(apply(head, x)[:, 0].numpy() - oracle.decision_function(scaled)).max() < 1e-2
    assert len(evaluations) < 15  # 21 where they are solved for as they are


def test_equals_multinomial_regression(rng):
    features = rng.standard_normal((500, 4)).astype(np.float32)
    truth = np.argmax(features[:, :3] + 0.5 * rng.standard_normal((500, 3)), 1)
    head = DenseHead(4, (1, 1, 1), 3)
    task = Semantic(SemanticSpec(classes=3, loss="cross_entropy"))
    fit_head(head, torch.from_numpy(features), torch.from_numpy(truth)[:, None].float(), task.loss, 10.0)
    scaler = StandardScaler().fit(features)
    oracle = LogisticRegression(C=0.1, tol=1e-9, max_iter=5000).fit(scaler.transform(features), truth)
    found = torch.softmax(apply(head, torch.from_numpy(features)), 1).numpy()
    assert np.abs(found - oracle.predict_proba(scaler.transform(features))).max() < 1e-3


def test_is_the_same_whatever_the_head_held(rng):
    features = torch.from_numpy(rng.standard_normal((200, 3)).astype(np.float32))
    target = (features[:, :1] > 0).float()
    heads = [DenseHead(3, (1, 1, 1), 1) for _ in range(2)]
    for head in heads:
        fit_head(head, features, target, TASK.loss)
    assert torch.equal(heads[0].conv.weight, heads[1].conv.weight)
    assert torch.equal(heads[0].conv.bias, heads[1].conv.bias)


def test_features_that_do_not_vary_or_are_not_finite(rng):
    features = torch.from_numpy(rng.standard_normal((100, 2)).astype(np.float32))
    target = (features[:, :1] > 0).float()
    features[:, 1] = 1e6
    head = DenseHead(2, (1, 1, 1), 1)
    fit_head(head, features, target, TASK.loss)
    assert head.conv.weight[0, 1] == 0
    features[3, 0] = torch.nan
    with pytest.raises(DataError, match="not finite"):
        fit_head(head, features, target, TASK.loss)


def test_a_head_that_learns_more_is_known():
    assert linear_map(DenseHead(4, (1, 1, 1), 2)) is not None
    deep = nn.Sequential(nn.Conv3d(4, 4, 1), nn.Conv3d(4, 2, 1))
    assert linear_map(deep) is None
    with pytest.raises(TypeError):
        fit_head(deep, torch.zeros(3, 4), torch.zeros(3, 1), TASK.loss)


@given(
    st.dictionaries(st.integers(0, 9), st.integers(1, 10**7), min_size=1, max_size=6), st.integers(10, 10**6)
)
def test_shares_are_even(counts, limit):
    taken = shares(counts, limit)
    assert sum(taken.values()) <= limit
    assert all(0 < taken[k] <= n or limit < len(counts) for k, n in counts.items())
    full = max(taken.values())
    assert all(taken[k] == n or taken[k] >= full - 1 for k, n in counts.items())
    assert taken == counts or sum(taken.values()) > limit - len(counts)


@pytest.mark.parametrize("body", [Filters(FiltersSpec(scales=(0.7, 2.0))), UNet(UNetSpec(levels=2))])
def test_samples_every_labelled_voxel_where_there_are_few(rng, body):
    net = network(body)
    pairs = [pair(net, rng), pair(net, rng, size=(1, 30, 30), known=0.1)]
    net.train()
    features, targets = sample_features(net, pairs, TASK.strata)
    assert net.training
    net.eval()
    at = 0
    for p in pairs:
        target = p.target.read()[0]
        places = np.argwhere(np.isfinite(target))
        with torch.no_grad():
            level = net.levels(torch.from_numpy(p.image.read())[None], None)[0][0]
        wanted = level[0, :, *places.T].T
        n = len(places)
        assert np.array_equal(targets[at : at + n, 0], target[tuple(places.T)])
        assert torch.allclose(features[at : at + n], wanted, atol=1e-4)
        at += n
    assert at == len(features) == len(targets)


def test_limit_and_seed_of_the_sample(rng):
    net = network()
    pairs = [pair(net, rng, size=(8, 40, 40), known=1.0)]
    sizes = []
    for limit, seed in ((1000, 0), (1000, 0), (1000, 1)):
        features, targets = sample_features(net, pairs, TASK.strata, limit, seed)
        sizes.append((features, targets))
        assert abs(len(features) - limit) < 120
        assert abs(float(targets.mean()) - 0.5) < 0.06
    assert torch.equal(sizes[0][0], sizes[1][0])
    assert len(sizes[0][0]) != len(sizes[2][0]) or not torch.equal(sizes[0][0], sizes[2][0])


def test_nothing_labelled_is_said(rng):
    net = network()
    with pytest.raises(DataError, match="no voxel is labelled"):
        sample_features(net, [pair(net, rng, known=-1.0)], TASK.strata)
