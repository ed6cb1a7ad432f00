"""Levels: which axes are halved, and what a cell becomes."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aequorea.signal.pyramid import factors, halved, reduce
from aequorea.volume import Triple

STEPS = st.tuples(*[st.sampled_from([1, 2])] * 3)


def cells(block: np.ndarray, steps: Triple) -> dict[tuple[int, ...], list]:
    found: dict[tuple[int, ...], list] = {}
    for place in np.ndindex(block.shape):
        cell = (place[0], *(i // s for i, s in zip(place[1:], steps)))
        found.setdefault(cell, []).append(block[place].item())
    return found


@settings(deadline=None, max_examples=80)
@given(st.data(), STEPS, st.sampled_from(["u1", "i1", "u2", "i4", "u8", "i8"]))
def test_mean_of_whole_numbers_is_exact(data: st.DataObject, steps: Triple, dtype: str) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=4, max_dims=4, max_side=5))
    block = data.draw(hnp.arrays(dtype, shape, elements=hnp.from_dtype(np.dtype(dtype))))
    coarse = reduce(block, steps, "mean")
    assert coarse.dtype == block.dtype
    for place, values in cells(block, steps).items():
        # n values of a cell cut off by the border stand for themselves and their copies
        assert coarse[place].item() == (2 * sum(values) + len(values)) // (2 * len(values))


@settings(deadline=None, max_examples=40)
@given(st.data(), STEPS)
def test_mode_is_the_most_frequent_and_nearest_the_first(data: st.DataObject, steps: Triple) -> None:
    shape = data.draw(
        hnp.array_shapes(min_dims=4, max_dims=4, max_side=4).filter(lambda s: all(n % 2 == 0 for n in s[1:]))
    )
    block = data.draw(hnp.arrays("u4", shape, elements=st.integers(0, 3)))
    mode, nearest = reduce(block, steps, "mode"), reduce(block, steps, "nearest")
    for place, values in cells(block, steps).items():
        assert mode[place].item() == Counter(values).most_common(1)[0][0]
        assert nearest[place].item() == values[0]


def test_floats_and_bools() -> None:
    block = np.arange(8, dtype="f4").reshape(1, 2, 2, 2)
    assert reduce(block, (2, 2, 2), "mean").item() == 3.5
    assert reduce(block.astype("f2"), (1, 2, 2), "mean").tolist() == [[[[1.5]], [[5.5]]]]
    assert reduce(block > 3, (2, 2, 2), "mean").dtype == bool


@pytest.mark.parametrize(
    ("size", "spacing", "want"),
    [
        ((128, 128, 128), None, [(1, 1, 1), (2, 2, 2)]),
        ((64, 256, 256), (4.0, 1.0, 1.0), [(1, 1, 1), (1, 2, 2), (1, 4, 4)]),
        ((100, 512, 512), (4.0, 1.0, 1.0), [(1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 8, 8)]),
        ((1, 200, 100), None, [(1, 1, 1), (1, 2, 2), (1, 4, 4)]),
        ((3, 4, 5), (1.0, 1.0, 1.0), [(1, 1, 1)]),
    ],
)
def test_levels(size: Triple, spacing: tuple[float, float, float] | None, want: list[Triple]) -> None:
    assert factors(size, spacing, (64, 64, 64)) == want


@given(
    st.tuples(*[st.integers(1, 3000)] * 3),
    st.one_of(st.none(), st.tuples(*[st.floats(0.01, 100)] * 3)),
    st.tuples(*[st.integers(1, 64)] * 3),
)
def test_levels_end_and_shrink(
    size: Triple, spacing: tuple[float, float, float] | None, enough: Triple
) -> None:
    found = factors(size, spacing, enough)
    assert all(n <= e for n, e in zip(halved(size, found[-1]), enough))
    for before, now in pairwise(found):
        assert halved(size, before) != halved(size, now)
