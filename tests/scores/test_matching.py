from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from skimage.metrics import adapted_rand_error, contingency_table
from skimage.metrics import variation_of_information as skimage_voi

from aequorea.errors import DataError
from aequorea.scores import matching, partition
from aequorea.scores.assignment import assign
from aequorea.scores.matching import IGNORED, OverlapTable
from aequorea.volume import Region

LABELS = st.integers(0, 4)


@st.composite
def label_pairs(draw, ignored=False):
    shape = draw(array_shapes(min_dims=3, max_dims=3, max_side=5))
    pair = [draw(arrays(np.uint16, shape, elements=LABELS)) for _ in range(2)]
    return (*pair, draw(arrays(bool, shape))) if ignored else tuple(pair)


def _brute_force(truth, pred, threshold):
    """Try every assignment: (most pairs, largest sum of IoU)."""
    rows = [n for n in np.unique(truth) if n]
    columns = [n for n in np.unique(pred) if n]
    iou = np.zeros((len(rows), len(columns)))
    for i, a in enumerate(rows):
        for j, b in enumerate(columns):
            iou[i, j] = np.sum((truth == a) & (pred == b)) / np.sum((truth == a) | (pred == b))
    if len(rows) > len(columns):
        iou = iou.T
    best = (0, 0.0)
    for order in permutations(range(iou.shape[1]), iou.shape[0]):
        values = [iou[i, j] for i, j in enumerate(order) if iou[i, j] >= threshold]
        best = max(best, (len(values), float(sum(values))))
    return best, len(rows), len(columns)


@given(label_pairs(), st.sampled_from([0.05, 0.2, 0.5, 0.75, 1.0]))
@settings(max_examples=200)
def test_matching_is_optimal(pair, threshold):
    (tp, total), n_truth, n_pred = _brute_force(*pair, threshold)
    found = matching.match(*pair, threshold=threshold)
    assert (found.tp, found.fp, found.fn) == (tp, n_pred - tp, n_truth - tp)
    assert found.ious.sum() == pytest.approx(total)
    assert len(set(found.pairs[:, 0])) == len(set(found.pairs[:, 1])) == tp


@given(st.data())
def test_assignment_equals_dense_assignment(data):
    """More and larger components than label arrays of a few voxels have."""
    gains = data.draw(
        arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(0, 1))
    )
    edges = data.draw(arrays(bool, gains.shape))
    left, right = np.nonzero(edges)
    given_gain = gains[edges]
    chosen = assign(left, right, given_gain)
    if gains.shape[0] > gains.shape[1]:
        gains, edges = gains.T, edges.T
    best = (0, 0.0)
    for order in permutations(range(gains.shape[1]), gains.shape[0]):
        values = [gains[i, j] for i, j in enumerate(order) if edges[i, j]]
        best = max(best, (len(values), sum(values)))
    assert (len(chosen), given_gain[chosen].sum()) == pytest.approx(best)
    assert len(set(left[chosen])) == len(set(right[chosen])) == len(chosen)


@given(label_pairs())
def test_table_equals_contingency_of_skimage(pair):
    table = OverlapTable.from_arrays(*pair)
    dense = np.zeros((5, 5))
    dense[table.truth, table.pred] = table.voxels
    expected = contingency_table(*pair).toarray()
    assert np.array_equal(dense[: expected.shape[0], : expected.shape[1]], expected)
    assert table.voxels.sum() == pair[0].size


@given(label_pairs(ignored=True), st.tuples(*[st.integers(1, 4)] * 3))
def test_blocks_add_up(triple, size):
    blocks = [tuple(a[b.slices] for a in triple) for b in Region.whole(triple[0].shape).split(size)]
    whole, joined = OverlapTable.from_arrays(*triple), OverlapTable.from_blocks(blocks)
    for name in ("truth", "pred", "voxels"):
        assert np.array_equal(getattr(whole, name), getattr(joined, name))


def test_many_blocks_are_summed_in_between(monkeypatch, rng):
    monkeypatch.setattr(matching, "_KEEP_PENDING", 4)
    truth, pred = rng.integers(0, 5, (2, 40, 3, 3))
    joined = OverlapTable.from_blocks((truth[i], pred[i], None) for i in range(40))
    whole = OverlapTable.from_arrays(truth, pred)
    assert np.array_equal(joined.voxels, whole.voxels)


@given(label_pairs(ignored=True), st.permutations(range(1, 5)))
def test_laws(triple, order):
    truth, pred, ignore = triple
    scores = matching.instance_scores(truth, pred, ignore)
    for name in ("f1_50", "ap_50", "f1_75", "ap_75", "pq", "split_rate", "merge_rate"):
        assert 0 <= scores[name] <= 1
    assert scores["ap_50"] <= scores["f1_50"]
    assert scores["f1_75"] <= scores["f1_50"]
    renumbered = np.array([0, *order], np.int64)[pred] * 1_000_003
    assert matching.instance_scores(truth, renumbered, ignore) == pytest.approx(scores)
    back = matching.match(pred, truth)
    forth = matching.match(truth, pred)
    assert (forth.tp, forth.fp, forth.fn) == (back.tp, back.fn, back.fp)
    assert forth.f1 == back.f1


@given(label_pairs())
def test_a_perfect_result(pair):
    truth, _ = pair
    scores = matching.instance_scores(truth, truth)
    assert scores["f1_50"] == scores["ap_75"] == scores["pq"] == 1
    assert scores["split_rate"] == scores["merge_rate"] == scores["count_error"] == 0


def test_definitions_on_a_worked_example():
    #                truth:  1 x10, 2 x10, 3 x10, 4 x4
    truth = np.repeat([1, 2, 3, 4, 0], [10, 10, 10, 4, 6])
    #                pred:   1 whole; 2 cut in two; 3 and 4 in one object; one false object
    pred = np.repeat([1, 5, 6, 7, 8, 0], [10, 6, 4, 14, 2, 4])
    scores = matching.instance_scores(truth, pred)
    assert (scores["n_truth"], scores["n_pred"], scores["tp_50"], scores["tp_75"]) == (4, 5, 3, 1)
    assert scores["f1_50"] == pytest.approx(6 / 9)
    assert scores["ap_50"] == pytest.approx(3 / 6)
    assert scores["pq"] == pytest.approx((1 + 0.6 + 10 / 14) / 4.5)
    assert scores["split_rate"] == 1 / 4
    assert scores["merge_rate"] == 2 / 4
    assert scores["count_error"] == 1 / 4
    half = matching.match(truth, pred)
    assert half.pairs.tolist() == [[1, 1], [2, 5], [3, 7]]
    assert (half.f1, half.ap, half.panoptic_quality) == pytest.approx(
        (scores["f1_50"], scores["ap_50"], scores["pq"])
    )


def test_debris_is_no_part():
    truth = np.repeat([1, 0], [100, 10])
    pred = np.repeat([1, 2, 0], [95, 5, 10])
    assert matching.instance_scores(truth, pred)["split_rate"] == 0
    assert matching.instance_scores(pred, truth)["merge_rate"] == 0


def test_no_objects():
    none, some = np.zeros((2, 3), int), np.ones((2, 3), int)
    assert matching.instance_scores(none, none)["f1_50"] == matching.instance_scores(none, none)["pq"] == 1
    assert matching.instance_scores(some, none)["f1_50"] == matching.instance_scores(none, some)["f1_50"] == 0
    assert matching.instance_scores(none, some)["count_error"] == 1


def test_objects_in_unlabelled_voxels_are_not_judged():
    truth = np.repeat([1, 0, 0], [4, 4, 8])
    ignore = np.repeat([False, True], [8, 8])
    hidden = np.repeat([1, 0, 2], [4, 4, 8])
    assert matching.match(truth, hidden, ignore=ignore).f1 == 1
    mostly = np.repeat([1, 0, 2, 0], [4, 2, 6, 4])
    assert matching.match(truth, mostly, ignore=ignore).f1 == 1
    half = np.repeat([1, 0, 2, 0], [4, 2, 4, 6])
    assert matching.match(truth, half, ignore=ignore).fp == 1
    # An object that reaches into unlabelled voxels is judged by the rest.
    reaching = np.repeat([1, 0, 1, 0], [4, 4, 2, 6])
    found = matching.match(truth, reaching, ignore=ignore)
    assert found.ious.tolist() == [1.0]
    assert IGNORED not in OverlapTable.from_arrays(truth, hidden, ignore).known().truth


def test_curve_falls():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(1, 9), 20)
    pred = np.roll(truth, rng.integers(2, 8))
    values = [f1 for _, f1 in matching.f1_curve(OverlapTable.from_arrays(truth, pred), [0.1, 0.5, 0.9])]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("labels", [np.array([-1, 0]), np.array([0.5, 0])])
def test_odd_labels_are_refused(labels):
    with pytest.raises(DataError):
        matching.match(np.array([0, 1]), labels)
    with pytest.raises(DataError):
        matching.match(np.array([0, 1]), np.array([0, 1]), threshold=0)


@given(label_pairs())
def test_partition_scores_equal_skimage(pair):
    truth, pred = pair
    table = OverlapTable.from_arrays(truth, pred)
    inside = truth > 0
    if np.count_nonzero(inside) > 1:
        with np.errstate(invalid="ignore", divide="ignore"):
            error, precision, recall = adapted_rand_error(truth, pred)
        found = partition.rand_error(table)
        # scikit-image returns as precision what it divided by the pairs of the truth.
        if np.isfinite([error, precision, recall]).all():
            assert tuple(found) == pytest.approx((error, recall, precision))
    if inside.any():
        assert partition.variation_of_information(table) == pytest.approx(
            skimage_voi(truth[inside], pred[inside]), abs=1e-9
        )


def test_splits_and_merges_are_told_apart():
    truth, pred = np.ones(8, int), np.repeat([1, 2], 4)
    assert partition.variation_of_information(OverlapTable.from_arrays(truth, pred)) == (1.0, 0.0)
    assert partition.variation_of_information(OverlapTable.from_arrays(pred, truth)) == (0.0, 1.0)
    cut = partition.rand_error(OverlapTable.from_arrays(truth, pred))
    assert cut.precision == 1 and cut.recall < 1
    assert partition.rand_error(OverlapTable()) == (0, 1, 1)
    assert partition.variation_of_information(OverlapTable()) == (0, 0)
