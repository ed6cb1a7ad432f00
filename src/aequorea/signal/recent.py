"""The last decoded pieces of files, so that neighbouring tiles do not decode them again.

One budget for the whole process: memory stays bounded however many files are open.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock

from aequorea.volume import Array

BUDGET = 128 * 2**20
"""Bytes of decoded pages, strips, tiles and pictures that are kept."""


class Recent:
    """Arrays by key, the longest unused dropped first; safe to use from several threads.

    Parameters
    ----------
    budget
        Bytes kept at most. An array larger than a quarter of it is not kept.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self.budget = budget
        self.held = 0
        self._arrays: OrderedDict[Hashable, Array] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], Array]) -> Array:
        """Return the array kept under ``key``, or make it. It must not be written to."""
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return self._arrays[key]
        array = make()
        if array.nbytes <= self.budget // 4:
            with self._lock:
                if key not in self._arrays:
                    self._arrays[key] = array
                    self.held += array.nbytes
                while self.held > self.budget:
                    self.held -= self._arrays.popitem(last=False)[1].nbytes
        return array


DECODED = Recent()
"""What all formats share."""
