"""Which part of the labels is held out: by specimen, never by file; of one specimen, a part of its space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.random import Generator, Philox

from aequorea.annotations import LabelImage
from aequorea.errors import DataError
from aequorea.volume import Region, Triple
from aequorea.workflows.dataset import Item

Split = tuple[list[Item], list[Item], str]
"""Items to train on, items held out, and a line that says how they were split."""

MOST_CLASSES = 16
"""More label values than this in one part are taken for object numbers."""
ENOUGH_CROPS = 4
"""So many crops of one volume are split by crop; fewer are each cut in two."""


def split_groups(items: Sequence[Item], held_out: float = 0.25, seed: int = 0) -> Split:
    """Hold out a share of the items.

    What the dataset says itself (``split`` of ``train`` and ``val``) goes first; items marked ``test`` are
    never returned. Else whole groups are held out. A single group is split in space: whole crops where there
    are several of one volume, or where none can be cut (a class of a whole file), else a slab at an end of
    each item, cut so that both parts hold every labelled class that can be had on both sides.

    Parameters
    ----------
    items
        With their groups.
    held_out
        Share to hold out, of items or of voxels along the cut axis; 0: nothing.
    seed
        Decides which groups.

    Raises
    ------
    DataError
        If nothing is left to train on, or the dataset itself puts one group on both sides.
    """
    tests = [item for item in items if item.split == "test"]
    usable = [item for item in items if item.split != "test"]
    if not usable:
        raise DataError(f"all {len(items)} items are marked 'test'; nothing is left to train on")
    left_out = f"; {len(tests)} marked 'test' not touched" if tests else ""
    shared = {item.group for item in usable} & {item.group for item in tests}
    if shared and len({item.group for item in items}) > 1:
        raise DataError(
            f"group '{min(shared)}' is on both sides of the split; a specimen belongs to one side only"
        )
    if shared:
        left_out += ", which is of the same specimen"
    told = [item for item in usable if item.split == "val"]
    if told:
        training = [item for item in usable if item.split != "val"]
        both = {item.group for item in training} & {item.group for item in told}
        if not training:
            raise DataError(f"all {len(usable)} items are marked 'val'; nothing is left to train on")
        if both:
            raise DataError(
                f"group '{min(both)}' is on both sides of the split; a specimen belongs to one side only"
            )
        return training, told, f"held out {len(told)} of {len(usable)} items, as marked{left_out}"
    if held_out == 0:
        return usable, [], f"nothing is held out, as asked{left_out}"
    groups = sorted({item.group for item in usable})
    if len(groups) > 1:
        chosen = _choose(usable, groups, held_out, seed)
        training = [item for item in usable if item.group not in chosen]
        held = [item for item in usable if item.group in chosen]
        names = ", ".join(sorted(chosen)[:4]) + (", ..." if len(chosen) > 4 else "")
        return training, held, f"held out {len(chosen)} of {len(groups)} specimens ({names}){left_out}"
    whole = [item for item in usable if not _cuttable(item)]
    if len(usable) == 1 and whole:
        return usable, [], f"'{usable[0].name}' cannot be cut in two: nothing is held out{left_out}"
    if whole or (len(usable) >= ENOUGH_CROPS and all(item.offset is not None for item in usable)):
        crops = sorted({item.name for item in usable})
        chosen = _choose([replace(item, group=item.name) for item in usable], crops, held_out, seed)
        training = [item for item in usable if item.name not in chosen]
        held = [item for item in usable if item.name in chosen]
        line = f"held out {len(held)} of {len(usable)} crops of the one specimen '{groups[0]}'"
        return training, held, f"{line}: says nothing about other specimens{left_out}"
    parts = [_cut(item, held_out) for item in usable]
    axes = sorted({axis for _, _, axis in parts})
    line = f"held out {held_out:.0%} of the one specimen '{groups[0]}', cut off along {' and '.join(axes)}"
    return (
        [kept for kept, _, _ in parts],
        [held for _, held, _ in parts],
        f"{line}: says nothing about other specimens{left_out}",
    )


def _choose(items: Sequence[Item], groups: list[str], held_out: float, seed: int) -> set[str]:
    """Return at least one group and not all, holding about a share of the items."""
    order = Generator(Philox(key=seed)).permutation(len(groups))
    sizes = {group: sum(item.group == group for item in items) for group in groups}
    chosen: set[str] = set()
    for index in order[:-1]:
        taken = sum(sizes[group] for group in chosen)
        if chosen and abs(taken + sizes[groups[index]] - held_out * len(items)) >= abs(
            taken - held_out * len(items)
        ):
            break
        chosen.add(groups[index])
    return chosen


def _cuttable(item: Item) -> list[int]:
    """Return the axes across which an image can be cut with its annotation, the longest first."""
    size = item.image.size
    if size == (1, 1, 1):
        raise DataError(f"{item.name}: one voxel cannot be split into a part to train on and a part held out")
    steps = item.annotation.steps(size)
    return [axis for axis in sorted(range(3), key=lambda a: -size[a]) if size[axis] >= 2 * steps[axis]]


def _cut(item: Item, held_out: float) -> tuple[Item, Item, str]:
    """Cut an item in two at the end and along the axis that leave most classes on both sides."""
    size = item.image.size
    steps = item.annotation.steps(size)
    best: tuple[int, int, Region, Region] | None = None
    for axis, at_end in product(_cuttable(item), (True, False)):
        parts = size[axis] // steps[axis]
        width = steps[axis] * min(parts - 1, max(1, round(held_out * parts)))
        border = steps[axis] * parts - width if at_end else width
        before, after = _halves(size, axis, border)
        kept, held = (before, after) if at_end else (after, before)
        shared = len(_classes(item, kept) & _classes(item, held))
        if best is None or shared > best[0]:
            best = shared, axis, kept, held
    assert best is not None
    _, axis, kept, held = best
    return _part(item, kept), _part(item, held), "zyx"[axis]


def _halves(size: Triple, axis: int, border: int) -> tuple[Region, Region]:
    """Return the regions before and after a border across an axis."""
    whole = Region.whole(size)
    back = [border if i == axis else 0 for i in range(3)]
    forth = [border - n if i == axis else 0 for i, n in enumerate(size)]
    return whole.shift(forth).clip(whole), whole.shift(back).clip(whole)


def _classes(item: Item, region: Region) -> set[int]:
    """Return what a region shows: -1 for foreground, and each label value; nothing for other annotations."""
    if not isinstance(item.annotation, LabelImage):
        return set()
    values = np.unique(item.annotation.crop(region, item.image.size).volume.read())
    seen = {int(value) for value in values if value != item.annotation.unlabelled}
    # Under strokes 0 is unlabelled and 1 is background.
    background = 1 if item.annotation.unlabelled == 0 else 0
    objects = seen - {background}
    # Many values are object numbers: those shared by both sides are only objects cut in two.
    return (seen & {background} if len(objects) > MOST_CLASSES else seen) | ({-1} if objects else set())


def _part(item: Item, region: Region) -> Item:
    start = item.offset or (0, 0, 0)
    return replace(
        item,
        image=item.image.crop(region),
        annotation=item.annotation.crop(region, item.image.size),
        offset=(start[0] + region.start[0], start[1] + region.start[1], start[2] + region.start[2]),
    )
