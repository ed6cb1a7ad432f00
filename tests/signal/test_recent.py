from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aequorea.signal.recent import Recent


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 60)), max_size=60))
def test_never_more_than_the_budget_and_always_the_right_array(asked):
    recent = Recent(budget=100)
    for key, length in asked:
        array = recent.get((key, length), lambda n=length, k=key: np.full(n, k, "u1"))
        assert array.shape == (length,)
        assert (array == key).all()
        assert recent.held <= recent.budget


def test_what_was_used_last_stays():
    recent, made = Recent(budget=100), []

    def make(key):
        made.append(key)
        return np.zeros(25, "u1")

    for key in (0, 1, 2, 3, 0, 4, 0, 1):
        recent.get(key, lambda key=key: make(key))
    assert made == [0, 1, 2, 3, 4, 1]


def test_threads():
    recent = Recent(budget=1000)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: recent.get(i % 50, lambda: np.full(40, i % 50, "u1")), range(2000)))
    assert recent.held <= 1000
