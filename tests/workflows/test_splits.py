"""Laws of splits: groups stay together, both sides hold something, one specimen is split in space."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aequorea.annotations import ItemClass, LabelImage, Points
from aequorea.errors import DataError
from aequorea.volume import from_array
from aequorea.workflows.dataset import Item
from aequorea.workflows.splits import split_groups


def item(
    name: str,
    group: str,
    label: np.ndarray | None = None,
    split: str | None = None,
    offset: int | None = None,
) -> Item:
    label = np.zeros((4, 6, 8), np.uint8) if label is None else label
    image = from_array(np.arange(label.size).reshape(label.shape))
    place = None if offset is None else (offset, 0, 0)
    return Item(name, image, LabelImage(from_array(label), 255), group, split, place)


@given(st.lists(st.sampled_from("abcdef"), min_size=2, max_size=20), st.floats(0.05, 0.9), st.integers(0, 99))
def test_groups_are_never_torn(groups: list[str], share: float, seed: int) -> None:
    items = [item(f"{i}", group) for i, group in enumerate(groups)]
    if len(set(groups)) < 2:
        return
    kept, held, line = split_groups(items, share, seed)
    assert kept and held and line
    assert {i.group for i in kept} | {i.group for i in held} == set(groups)
    assert not {i.group for i in kept} & {i.group for i in held}
    assert sorted(i.name for i in kept + held) == sorted(i.name for i in items)
    assert split_groups(items, share, seed)[1] == held


def test_the_share_is_about_what_was_asked_for() -> None:
    items = [item(f"{i}", f"{i}") for i in range(20)]
    assert len(split_groups(items, 0.25)[1]) == 5
    assert split_groups(items, 0.25, 1)[1] != split_groups(items, 0.25, 2)[1]


def test_marks_go_first_and_tests_are_not_touched() -> None:
    items = [
        item("a", "1", split="train"),
        item("b", "2", split="val"),
        item("c", "3"),
        item("d", "4", split="test"),
    ]
    kept, held, line = split_groups(items)
    assert [i.name for i in kept] == ["a", "c"] and [i.name for i in held] == ["b"]
    assert "1 marked 'test' not touched" in line


def test_marks_that_tear_a_specimen_are_refused() -> None:
    with pytest.raises(DataError, match="group '1' is on both sides"):
        split_groups([item("a", "1", split="train"), item("b", "1", split="val")])
    with pytest.raises(DataError, match="group '1' is on both sides"):
        split_groups([item("a", "1", split="train"), item("b", "1", split="test"), item("c", "2")])
    one_specimen = [item("a", "1", split="train"), item("b", "1", split="test")]
    assert "which is of the same specimen" in split_groups(one_specimen)[2]
    with pytest.raises(DataError, match="nothing is left"):
        split_groups([item("a", "1", split="val")])
    with pytest.raises(DataError, match="nothing is left"):
        split_groups([item("a", "1", split="test")])


@given(st.tuples(*[st.integers(1, 9)] * 3), st.floats(0.01, 0.99))
def test_one_specimen_is_cut_in_two(size: tuple[int, int, int], share: float) -> None:
    if size == (1, 1, 1):
        return
    one = item("a", "g", np.random.default_rng(0).integers(0, 3, size).astype(np.uint8))
    (kept,), (held,), line = split_groups([one], share)
    voxels = np.concatenate([part.image.read().ravel() for part in (kept, held)])
    assert sorted(voxels) == list(range(int(np.prod(size))))
    for part in (kept, held):
        assert part.annotation.volume.size == part.image.size  # type: ignore[attr-defined]
        assert part.image.read().ravel()[0] == np.ravel_multi_index(part.offset or (9, 9, 9), size)
    assert "other specimens" in line


def test_one_voxel_cannot_be_split() -> None:
    with pytest.raises(DataError, match="one voxel"):
        split_groups([item("a", "g", np.zeros((1, 1, 1), np.uint8))])


def test_the_cut_leaves_every_class_on_both_sides() -> None:
    label = np.full((4, 20, 30), 255, np.uint8)
    # Along x, the longest axis, class 2 lies on one side alone; along y both ends have everything.
    label[:, ::2, :10] = 0
    label[:, 1::2, :10] = 2
    label[:, :, 28:] = 0
    (kept,), (held,), line = split_groups([item("a", "g", label)])
    for part in (kept, held):
        assert {0, 2} <= set(np.unique(part.annotation.volume.read()))  # type: ignore[attr-defined]
    assert "along" in line


def test_many_objects_are_not_cut_for_their_numbers_sake() -> None:
    label = np.zeros((4, 20, 40), np.uint16)
    for number, (y, x) in enumerate(product(range(0, 20, 4), range(0, 40, 4)), 1):
        label[1:3, y : y + 3, x : x + 3] = number
    (kept,), (held,), _ = split_groups([item("a", "g", label)])
    assert kept.image.size == (4, 20, 30) and held.image.size == (4, 20, 10)


def test_several_crops_of_one_volume_are_held_out_whole() -> None:
    crops = [item(f"c{i}", "brain", offset=i * 100) for i in range(5)]
    kept, held, line = split_groups(crops, 0.2)
    assert len(held) == 1 and len(kept) == 4 and "crops" in line
    assert all(part.image.size == (4, 6, 8) for part in kept + held)
    kept, held, _ = split_groups(crops[:2], 0.25)
    assert len(kept) == len(held) == 2 and {part.image.size for part in held} == {(4, 6, 2)}


def test_other_annotations_are_cut_too() -> None:
    image = from_array(np.zeros((2, 4, 8)))
    points = Item("a", image, Points(np.array([[0.0, 1.0, 1.0], [1.0, 3.0, 7.0]]), image.size), "g")
    (kept,), (held,), _ = split_groups([points])
    assert kept.annotation.zyx.tolist() == [[0, 1, 1]] and held.annotation.zyx.tolist() == [[1, 3, 1]]  # type: ignore[attr-defined]
    split_groups([Item("a", image, ItemClass("x"), "g")])
