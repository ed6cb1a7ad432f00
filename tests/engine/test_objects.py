"""Objects found blockwise equal those found whole, numbers included; and a killed search goes on."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from aequorea.engine import block_store, objects
from aequorea.engine.objects import ObjectFinder, ObjectRule
from aequorea.engine.tiles import part_of
from aequorea.errors import DataError
from aequorea.results import MemoryOutput
from aequorea.signal.basins import label_objects
from aequorea.volume import from_array


def run(dense, rule, block, scratch=None, image=None, spacing=None):
    volume = from_array(dense, spacing=spacing)
    out = MemoryOutput(block=block)
    layer = out.layer("objects", size=volume.size, dtype=np.uint32, kind="label", spacing=spacing)
    finder = ObjectFinder(volume, rule, layer.block, scratch)
    about = from_array(image, spacing=spacing) if image is not None else None
    finder.run(layer, about)
    return layer.finish().read()[0], finder.table(about)


def whole(dense, rule, spacing=None):
    return label_objects(
        rule.foreground(dense[0]),
        dense[1],
        spacing=spacing,
        neighbours=rule.neighbours,
        tau=rule.tau,
        min_voxels=rule.min_voxels,
    )


@st.composite
def stored(draw, most=27):
    size = tuple(draw(st.integers(1, most)) for _ in range(3))
    if draw(st.integers(0, 3)) == 0:
        size = (1, *size[1:])
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    kind = draw(st.sampled_from(["noise", "levels", "constant", "smooth", "smooth", "blobs", "blobs"]))
    if kind == "noise":
        height = rng.integers(0, 256, size)
    elif kind == "levels":
        height = rng.integers(0, 5, size) * 50
    elif kind == "constant":
        height = np.full(size, 100)
    else:
        sigma = 1.5 if kind == "smooth" else 3
        smooth = ndimage.gaussian_filter(rng.random(size), sigma)
        height = (smooth - smooth.min()) / max(np.ptp(smooth), 1e-9) * 250
    if kind == "blobs":
        probability = height + rng.integers(0, 20, size)
    else:
        share = draw(st.sampled_from([0.1, 0.4, 0.8, 1.0]))
        probability = np.where(rng.random(size) < share, 255, 0)
    return np.stack([np.clip(probability, 0, 255), height]).astype(np.uint8)


BLOCKS = st.tuples(*[st.integers(1, 19)] * 3)


@settings(max_examples=200, deadline=None)
@given(
    stored(),
    BLOCKS,
    st.sampled_from([6, 26]),
    st.sampled_from([1, 12, 50, 110, 256]),
    st.sampled_from([1, 1, 5]),
    st.sampled_from([None, (3.0, 1.0, 1.0), (0.7, 0.2, 0.3)]),
)
def test_blockwise_equals_whole(dense, block, neighbours, tau, min_voxels, spacing):
    if np.prod(-(-np.array(dense.shape[1:]) // block)) > 300:
        block = tuple(max(b, 4) for b in block)
    rule = ObjectRule(threshold=128, tau=tau, neighbours=neighbours, min_voxels=min_voxels)
    found, table = run(dense, rule, block, spacing=spacing)
    wanted = whole(dense, rule, spacing)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(table["voxels"], np.bincount(wanted.ravel())[1:])


@settings(max_examples=25, deadline=None)
@given(stored(most=16), BLOCKS, st.sampled_from([6, 26]))
def test_the_table_does_not_depend_on_the_blocks(dense, block, neighbours):
    rule = ObjectRule(threshold=100, tau=40, neighbours=neighbours)
    image = dense[:, ::-1].astype(np.uint16) * 200
    _, one = run(dense, rule, dense.shape[1:], image=image, spacing=(2.0, 0.5, 0.5))
    _, many = run(dense, rule, tuple(max(4, b) for b in block), image=image, spacing=(2.0, 0.5, 0.5))
    assert list(one) == list(many)
    for name in one:
        np.testing.assert_array_equal(one[name], many[name], err_msg=name)


@settings(max_examples=15, deadline=None)
@given(stored(most=14), st.randoms(use_true_random=False))
def test_the_order_of_blocks_does_not_matter(dense, random):
    rule = ObjectRule(threshold=128, tau=50, neighbours=26)
    volume = from_array(dense)
    layer = MemoryOutput(block=(5, 5, 5)).layer("objects", size=volume.size, dtype=np.uint32, kind="label")
    finder = ObjectFinder(volume, rule, layer.block)
    shards = list(volume.region.split(layer.block))
    random.shuffle(shards)
    for shard in shards:
        finder.find(shard)
    finder.run(layer)
    np.testing.assert_array_equal(layer.finish().read()[0], whole(dense, rule))


@settings(max_examples=40, deadline=None)
@given(stored(most=20), BLOCKS, st.integers(30, 400))
def test_shards_worked_on_in_parts_equal_whole(dense, shard, most):
    rule = ObjectRule(threshold=128, tau=50)
    with patch.object(objects, "MOST_VOXELS", most):
        shard = tuple(max(4, n) for n in shard)
        block = part_of(shard, dense.shape[1:], most)
        assert np.prod(block) <= most
        assert all(s >= n or s % b == 0 for s, n, b in zip(shard, dense.shape[1:], block))
        found, _ = run(dense, rule, shard)
    np.testing.assert_array_equal(found, whole(dense, rule))


def test_a_helix_through_many_blocks():
    turns = np.linspace(0, 8 * np.pi, 4000)
    dense = np.zeros((2, 48, 24, 24), np.uint8)
    z, y, x = turns / (8 * np.pi) * 44 + 2, 12 + 8 * np.sin(turns), 12 + 8 * np.cos(turns)
    inside = np.zeros(dense.shape[1:], bool)
    inside[z.round().astype(int), y.round().astype(int), x.round().astype(int)] = True
    inside = ndimage.binary_dilation(inside)
    dense[0] = 255 * inside
    dense[1] = inside * np.arange(40, 232, 4, dtype=np.uint8)[:, None, None]  # one long way up
    rule = ObjectRule(threshold=128, tau=50)
    found, table = run(dense, rule, (8, 8, 8))
    np.testing.assert_array_equal(found, whole(dense, rule))
    assert len(table["id"]) == 1


def test_foreground_on_faces_only():
    dense = np.zeros((2, 16, 16, 16), np.uint8)
    for axis in range(3):
        dense[(slice(None), *(slice(None) if a != axis else slice(7, 9) for a in range(3)))] = 200
    rule = ObjectRule(threshold=128, tau=10)
    found, _ = run(dense, rule, (8, 8, 8))
    np.testing.assert_array_equal(found, whole(dense, rule))


def touching_balls(shape=(40, 44, 48), seed=3):
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    height = np.zeros(shape)
    for _ in range(30):
        centre = rng.random(3) * shape
        distance = np.sqrt(((grid - centre[:, None, None, None]) ** 2).sum(0))
        height = np.maximum(height, 1 - distance / 7)
    noisy = np.clip(200 * height + rng.normal(0, 6, shape), 0, 255)
    return np.stack([255 * (height > 0.1), noisy]).astype(np.uint8)


class Stopped(Exception):
    pass


# 27 graphs of blocks, 8 and 1 joined, 9 numbered and the word that they are, 27 sums.
@pytest.mark.parametrize("stop_after", [1, 9, 27, 28, 35, 36, 37, 40, 46, 47, 60, 73])
def test_a_killed_search_goes_on(tmp_path: Path, monkeypatch, stop_after):
    dense = touching_balls()
    rule = ObjectRule(threshold=128, tau=50)
    volume = from_array(dense)
    wanted, table = run(dense, rule, (16, 16, 16))
    written, honest = [], block_store.write_file

    def write(path, data):
        written.append(path)
        if len(written) == stop_after:
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent / f".{path.name}.1-1.partial").write_bytes(data[: len(data) // 2])
            raise Stopped
        honest(path, data)

    out = MemoryOutput(block=(16, 16, 16))
    layer = out.layer("objects", size=volume.size, dtype=np.uint32, kind="label")
    kept = list(layer.pending())
    layer.pending = lambda: iter(list(kept))
    place = layer.write
    layer.write = lambda region, block: (place(region, block), kept.remove(region))
    monkeypatch.setattr(block_store, "write_file", write)
    with pytest.raises(Stopped):
        ObjectFinder(volume, rule, layer.block, tmp_path / "scratch").run(layer)
    monkeypatch.setattr(block_store, "write_file", honest)
    before = len(written)
    finder = ObjectFinder(volume, rule, layer.block, tmp_path / "scratch")
    finder.run(layer)
    resumed = finder.table()
    assert before >= stop_after  # another thread may have gone on
    np.testing.assert_array_equal(layer.finish().read()[0], wanted)
    for name in table:
        np.testing.assert_array_equal(resumed[name], table[name])


def test_what_was_done_is_not_done_again_and_another_rule_starts_afresh(tmp_path: Path, monkeypatch):
    dense = touching_balls()
    rule = ObjectRule(threshold=128, tau=50)
    first, _ = run(dense, rule, (20, 20, 20), tmp_path)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("graph/*")}
    again, _ = run(dense, rule, (20, 20, 20), tmp_path)
    assert stamps == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("graph/*")}
    np.testing.assert_array_equal(first, again)
    other = ObjectRule(threshold=128, tau=2)
    found, _ = run(dense, other, (20, 20, 20), tmp_path)
    np.testing.assert_array_equal(found, whole(dense, other))


def test_noise_as_height_is_refused_before_memory_ends(monkeypatch, rng):
    monkeypatch.setattr("aequorea.engine.join_tree.machine_memory", lambda: 20_000.0)
    dense = np.stack([np.full((20, 20, 20), 255), rng.integers(0, 256, (20, 20, 20))]).astype(np.uint8)
    with pytest.raises(DataError, match="noise"):
        run(dense, ObjectRule(threshold=1, tau=1), (6, 6, 6))


def test_an_image_on_another_grid_is_refused(rng):
    dense = np.zeros((2, 4, 4, 4), np.uint8)
    with pytest.raises(DataError, match="voxels where the objects lie on"):
        run(dense, ObjectRule(1, 1), (4, 4, 4), image=np.zeros((1, 4, 4, 5)))


def test_memory_of_a_block_does_not_grow_with_the_volume(tmp_path: Path):
    peaks = []
    for planes in (64, 256):
        tile = touching_balls((32, 32, 32))
        dense = np.tile(tile, (1, planes // 32, 4, 4))
        volume = from_array(dense)
        layer = MemoryOutput(block=(32, 64, 64)).layer("o", size=volume.size, dtype=np.uint32, kind="label")
        finder = ObjectFinder(volume, ObjectRule(128, 50), layer.block, tmp_path / str(planes))
        tracemalloc.start()
        for shard in volume.region.split(layer.block):
            finder.find(shard)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_only_open_matters_reach_the_join():
    """Objects inside a block cost one entry, whatever the noise."""
    dense = touching_balls((48, 48, 48))
    volume = from_array(dense)
    layer = MemoryOutput().layer("objects", size=volume.size, dtype=np.uint32, kind="label")
    finder = ObjectFinder(volume, ObjectRule(threshold=128, tau=50), layer.block)
    finder.run(layer)
    table = finder.table()
    assert len(finder.store.load("graph/0")["end"]) == len(table["id"])


def test_what_is_joined_last_grows_with_faces_and_not_with_depth():
    pieces = []
    for planes in (64, 256):
        dense = np.tile(touching_balls((32, 32, 32)), (1, planes // 32, 4, 4))
        volume = from_array(dense)
        layer = MemoryOutput(block=(16, 32, 32)).layer("o", size=volume.size, dtype=np.uint32, kind="label")
        finder = ObjectFinder(volume, ObjectRule(128, 50), layer.block)
        finder.run(layer)
        top = len(finder.tree.grids) - 1
        last = finder.store.load(f"joined{top}/0")
        assert len(last["end"]) == 0, "nothing is open where everything is known"
        pieces.append(len(last["into"]))
    assert pieces[1] <= pieces[0]
