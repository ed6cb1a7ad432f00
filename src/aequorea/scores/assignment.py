"""Optimal one-to-one assignment on a sparse graph of candidate pairs.

As many pairs as possible come first, then the largest sum of gains. The graph falls into connected
components, each small, that are solved by ``scipy.optimize.linear_sum_assignment`` (Jonker-Volgenant).
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from aequorea.volume import Array


def assign(left: Array, right: Array, gain: Array) -> Array:
    """Choose pairs so that no left and no right thing is used twice.

    Parameters
    ----------
    left, right
        (N,) numbers of the things that each candidate pair joins, from 0 on; no pair occurs twice.
    gain
        (N,) gain of each pair, in [0, 1].

    Returns
    -------
    Array
        Indices of the chosen pairs, ascending.
    """
    if not len(left):
        return np.zeros(0, np.intp)
    n_left, n_right = int(left.max()) + 1, int(right.max()) + 1
    n = n_left + n_right
    graph = coo_array((np.ones(len(left), np.int8), (left, right + n_left)), shape=(n, n))
    _, component = connected_components(graph.tocsr(), directed=False)
    of_pair = component[left]
    alone = np.bincount(of_pair)[of_pair] == 1
    chosen = [np.flatnonzero(alone)]
    rest = np.flatnonzero(~alone)
    rest = rest[np.argsort(of_pair[rest], kind="stable")]
    for pairs in np.split(rest, np.flatnonzero(np.diff(of_pair[rest])) + 1):
        if len(pairs):
            chosen.append(_solve(pairs, left, right, gain))
    return np.sort(np.concatenate(chosen))


def _solve(pairs: Array, left: Array, right: Array, gain: Array) -> Array:
    """Solve one component densely."""
    rows, row = np.unique(left[pairs], return_inverse=True)
    columns, column = np.unique(right[pairs], return_inverse=True)
    worth = np.zeros((len(rows), len(columns)))
    index = np.full(worth.shape, -1, np.intp)
    # One more pair outweighs any sum of gains.
    worth[row, column] = min(worth.shape) + 1 + gain[pairs]
    index[row, column] = pairs
    picked: Array = index[linear_sum_assignment(worth, maximize=True)]
    return picked[picked >= 0]
