from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aequorea.errors import DataError
from aequorea.scores.points import match_points

SPACING = (2.0, 0.5, 0.5)
PLACES = st.integers(0, 5).flatmap(
    lambda n: arrays(np.float64, (n, 3), elements=st.integers(0, 8).map(float))
)


@given(PLACES, PLACES, st.sampled_from([0.5, 2.0, 5.0]))
def test_matching_is_optimal(truth, pred, distance):
    found = match_points(truth, pred, distance, SPACING)
    apart = np.linalg.norm((truth[:, None] - pred[None]) * SPACING, axis=-1)
    assert np.allclose(found.distances, apart[found.pairs[:, 0], found.pairs[:, 1]])
    assert (found.tp + found.fn, found.tp + found.fp) == (len(truth), len(pred))
    table = apart if len(truth) <= len(pred) else apart.T
    best = (0, 0.0)
    for order in permutations(range(table.shape[1]), table.shape[0]):
        values = [table[i, j] for i, j in enumerate(order) if table[i, j] <= distance]
        best = max(best, (len(values), -sum(values)))
    assert (found.tp, -found.distances.sum()) == pytest.approx(best)


def test_worked_example():
    truth = np.array([[0, 0, 0], [5, 0, 0], [5, 20, 20]])
    pred = np.array([[0, 0, 2], [5.5, 0, 0]])
    found = match_points(truth, pred, 1.0, SPACING)
    assert found.pairs.tolist() == [[0, 0], [1, 1]]
    assert found.distances.tolist() == [1.0, 1.0]
    assert (found.precision, found.recall, found.f1) == pytest.approx((1, 2 / 3, 0.8))
    assert match_points(truth, pred, 1.0).tp == 1


def test_nothing():
    none = np.zeros((0, 3))
    assert match_points(none, none, 3.0).f1 == 1
    assert match_points(none, np.ones((2, 3)), 3.0).f1 == 0
    with pytest.raises(DataError, match="positive"):
        match_points(none, none, 0)
