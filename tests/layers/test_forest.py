"""A forest of tensors against scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier

from aequorea.errors import DataError
from aequorea.layers.forest import ForestHead


@pytest.fixture
def data(rng):
    features = rng.standard_normal((600, 5)).astype(np.float32)
    classes = (features[:, 0] * features[:, 1] > 0).astype(int) + (features[:, 2] > 1)
    return features, classes


@pytest.mark.parametrize("depth", [1, 4, None])
def test_equals_scikit_learn(data, depth, rng):
    features, classes = data
    forest = RandomForestClassifier(20, max_depth=depth, random_state=1).fit(features, classes)
    head = ForestHead(3)
    head.take(forest)
    fresh = np.concatenate([features, rng.standard_normal((20_000, 5)).astype(np.float32)])
    # Values on a threshold go left in both.
    fresh[: len(features), 3] = np.float32(forest.estimators_[0].tree_.threshold[0])
    found = head.probabilities(torch.from_numpy(fresh)).numpy()
    assert np.abs(found - forest.predict_proba(fresh)).max() < 1e-6


def test_logits_of_two_classes_and_of_more(data):
    features, classes = data
    level = torch.from_numpy(features.T.reshape(1, 5, 6, 10, 10).copy())
    for outputs, truth in ((1, classes > 0), (3, classes)):
        head = ForestHead(outputs)
        head.fit(torch.from_numpy(features), torch.from_numpy(truth.astype(np.int64)), trees=15)
        out = head([level], torch.empty(1, 1, 6, 10, 9))
        assert out.shape == (1, outputs, 6, 10, 9)
        known = torch.sigmoid(out) if outputs == 1 else torch.softmax(out, 1)
        wanted = head.probabilities(torch.from_numpy(features))[:, 1 if outputs == 1 else 0]
        assert torch.allclose(known[0, 0], wanted.view(6, 10, 10)[..., :9], atol=1e-3)


def test_survives_saving(data, tmp_path):
    features, classes = data
    head, other = ForestHead(3), ForestHead(3)
    head.fit(torch.from_numpy(features), torch.from_numpy(classes), trees=7)
    other.load_state_dict(head.state_dict())
    rows = torch.from_numpy(features)
    assert torch.equal(head.probabilities(rows), other.probabilities(rows))


def test_classes_that_were_not_seen_have_no_probability(data):
    features, _ = data
    head = ForestHead(4)
    head.fit(torch.from_numpy(features), torch.from_numpy(np.where(features[:, 0] > 0, 3, 1)), trees=5)
    known = head.probabilities(torch.from_numpy(features))
    assert known[:, [0, 2]].max() == 0 and torch.allclose(known.sum(1), torch.ones(600))


def test_seed_and_trees_matter_and_one_class_is_refused(data):
    rows, classes = (torch.from_numpy(a) for a in data)
    found = []
    for words in ({}, {}, {"seed": 1}, {"trees": 3}):
        head = ForestHead(3)
        head.fit(rows, classes, **({"trees": 6} | words))
        found.append(head.probabilities(rows))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2]) and not torch.equal(found[0], found[3])
    with pytest.raises(DataError, match="one class only"):
        ForestHead(1).fit(rows, torch.zeros(600))
