import numpy as np
import pytest
from scipy import stats

from aequorea.errors import DataError
from aequorea.scores import bootstrap, formulas, pooling
from aequorea.scores.matching import instance_scores


def test_equal_to_scipy(rng):
    values = rng.normal(size=30)
    ours = bootstrap.mean(values, resamples=20_000)
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_coverage(rng):
    hits = 0
    for trial in range(200):
        interval = bootstrap.mean(rng.normal(size=25), resamples=400, seed=trial)
        hits += interval.low <= 0 <= interval.high
    assert 0.86 <= hits / 200 <= 0.99


def test_seeded():
    values = [0.1, 0.5, 0.7]
    assert bootstrap.mean(values, seed=3) == bootstrap.mean(values, seed=3)
    assert bootstrap.mean(values, seed=3, level=0.5) != bootstrap.mean(values, seed=3)


def test_few_units():
    one = bootstrap.mean([0.4])
    assert one.value == 0.4 and np.isnan(one.low) and one.n == 1
    none = bootstrap.mean([float("nan")])
    assert np.isnan(none.value) and none.n == 0
    assert bootstrap.mean([0.2, float("nan"), 0.4]).value == pytest.approx(0.3)


def test_paired_difference_is_narrower(rng):
    hard = rng.random(20)
    better, worse = hard + 0.1, hard
    gain = bootstrap.difference(better, worse)
    assert (gain.value, gain.low, gain.high) == pytest.approx((0.1, 0.1, 0.1))
    with pytest.raises(DataError, match="same images"):
        bootstrap.difference([1.0], [1.0, 2.0])


def test_pooled_scores_are_those_of_all_images_in_one(rng):
    pairs = [(rng.integers(0, 4, (4, 5, n)), rng.integers(0, 4, (4, 5, n))) for n in (3, 6, 9)]
    rows = [instance_scores(*pair) for pair in pairs]
    joined = instance_scores(
        np.concatenate([np.where(t, t + 10 * i, 0) for i, (t, _) in enumerate(pairs)], axis=2),
        np.concatenate([np.where(p, p + 10 * i, 0) for i, (_, p) in enumerate(pairs)], axis=2),
    )
    pooled = pooling.pool(rows)
    for name in ("f1_50", "ap_75", "pq", "split_rate", "merge_rate", "count_error"):
        assert pooled[name].value == pytest.approx(joined[name])
        assert pooled[name].low <= pooled[name].value <= pooled[name].high
    assert not formulas.COUNTS & set(pooled)


def test_classes_are_pooled_apart_and_then_averaged():
    rows = [
        {"dice": 0.0, "hd95_um": 2.0, "dice.a": 0.0, "tp.a": 4, "fp.a": 0, "fn.a": 0, "dice.b": 0, "tp.b": 0,
         "fp.b": 4, "fn.b": 0},
        {"dice": 0.0, "hd95_um": 4.0, "dice.a": 0.0, "tp.a": 0, "fp.a": 2, "fn.a": 2, "dice.b": 0, "tp.b": 4,
         "fp.b": 0, "fn.b": 0},
    ]  # fmt: skip
    pooled = pooling.pool(rows)
    assert pooled["dice.a"].value == pytest.approx(8 / 12)
    assert pooled["dice.b"].value == pytest.approx(8 / 12)
    assert pooled["dice"].value == pytest.approx(8 / 12)
    assert pooled["hd95_um"].value == 3
    assert set(pooled) == {"dice", "hd95_um", "dice.a", "dice.b"}
    assert pooling.pool([]) == {}
    mixed = pooling.pool([{"hd95_um": 2.0}, {"hd95_voxels": 7.0}, {"hd95_um": 4.0}])
    assert (mixed["hd95_um"].value, mixed["hd95_um"].n) == (3, 2)
    assert pooling.paired(rows, rows, "hd95_um").value == 0
