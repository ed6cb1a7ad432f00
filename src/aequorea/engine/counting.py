"""The intensity range of a volume, counted by several processes together."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aequorea.crew import Crew
from aequorea.engine.block_store import BlockStore
from aequorea.signal.intensity import Count, Intensity, count_all, measure
from aequorea.volume import Array, Region, Volume

ITEMS_EACH = 4
"""Groups of blocks that one process counts, each kept on the disk; what is lost with it is one of them."""


def measure_together(volume: Volume, crew: Crew, folder: Path) -> Intensity:
    """Return what :func:`aequorea.signal.intensity.measure` does, each process counting its share.

    Parameters
    ----------
    volume
        The same in all processes.
    crew
        The processes.
    folder
        Shared, for what each counted.

    Raises
    ------
    TakeOver
        If a process that was to count is lost.
    """
    if crew.alone:
        return measure(volume)
    store = BlockStore(folder)

    def total(name: str, regions: list[Region], count: Count) -> Array:
        items = min(len(regions), ITEMS_EACH * crew.parts)
        groups = [[int(i) for i in group] for group in np.array_split(np.arange(len(regions)), items)]

        def left() -> list[int]:
            return sorted(set(range(items)) - store.numbers(name))

        for item in crew.mine(left(), items):
            counts = count_all(volume, [regions[i] for i in groups[item]], count)
            store.save(f"{name}/{item}", {"counts": counts})
        crew.wait(left, items, "intensity")
        added = store.load(f"{name}/0")["counts"]
        for item in range(1, items):
            added = added + store.load(f"{name}/{item}")["counts"]
        return added

    return measure(volume, total=total)
