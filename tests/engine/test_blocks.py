"""Patches of blocks: pure in (seed, index), several from a block, none twice in a batch."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from aequorea.engine.blocks import BlockSampler, Source, draw_block, shows
from aequorea.volume import Region, Volume, from_array


def numbered(size: tuple[int, int, int]) -> Volume:
    return from_array(np.arange(np.prod(size), dtype=np.float32).reshape(size))


@settings(max_examples=20)
@given(st.integers(0, 50), st.integers(1, 4), st.integers(1, 5), st.lists(st.integers(0, 60), min_size=3))
def test_a_sample_depends_on_its_number_alone(seed, batch, per_block, order) -> None:
    sources = [Source(numbered((9, 30, 31)), f"{n}", n % 2, (4, 8, 8)) for n in range(3)]
    straight = BlockSampler(sources, batch, seed, per_block)
    kept = [straight(i) for i in range(61)]
    other = BlockSampler(sources, batch, seed, per_block)
    for i in order:
        number, patch = other(i)
        assert number == kept[i][0] and np.array_equal(patch, kept[i][1])


def test_blocks_are_dealt() -> None:
    """Each block is read once and gives one patch to each of the next batches."""
    reads = []
    image = numbered((32, 64, 64))

    def reader(region: Region) -> np.ndarray:
        reads.append(region)
        return image.read(region)

    watched = Volume(reader, image.shape, image.dtype, chunks=(8, 16, 16))
    sampler = BlockSampler([Source(watched, "a", 0, (8, 16, 16))], batch=3, seed=0, per_block=4)
    places: dict[int, list[np.ndarray]] = {}
    for index in range(24):
        _, patch = sampler(index)
        places.setdefault(index // 3, []).append(patch)
    sampler._reader.shutdown(wait=True)
    assert len(reads) <= 3 * 3  # two turns, and the one that is read ahead
    for region in reads:
        assert all(a % c == 0 for a, c in zip(region.start, (8, 16, 16)))
    for patches in places.values():
        assert len({patch.min() for patch in patches}) == 3


def test_specimens_are_drawn_evenly_and_batches_agree() -> None:
    """A specimen of many files counts as one of few; a batch has one geometry."""
    sources = [Source(numbered((4, 8, 8)), "many", "v", (4, 8, 8)) for _ in range(9)]
    sources.append(Source(numbered((4, 8, 8)), "single", "v", (4, 8, 8)))
    sources.append(Source(numbered((1, 8, 8)), "plane", "p", (1, 8, 8)))
    sampler = BlockSampler(sources, batch=4, seed=1, per_block=1)
    drawn = [sampler(i)[0] for i in range(1200)]
    share = np.bincount(drawn, minlength=11) / len(drawn)
    assert abs(share[9] - 1 / 3) < 0.06 and abs(share[10] - 1 / 3) < 0.06
    for step in range(300):
        kinds = {sources[n].geometry for n in drawn[4 * step : 4 * step + 4]}
        assert len(kinds) == 1


def test_dark_blocks_are_passed_over() -> None:
    image = np.zeros((8, 128, 128), np.float32)
    image[:, 96:, 96:] = np.random.default_rng(0).random((8, 32, 32))
    sampler = BlockSampler([Source(from_array(image), "a", 0, (8, 16, 16))], 2, 0, per_block=1)
    lit = np.mean([shows(sampler(i)[1]) for i in range(60)])
    blind = np.mean(
        [shows(image[None, :, y : y + 32, x : x + 32]) for y in range(0, 97, 8) for x in range(0, 97, 8)]
    )
    assert lit > 1.5 * blind


@given(
    st.tuples(*[st.integers(1, 40)] * 3),
    st.tuples(*[st.integers(1, 20)] * 3),
    st.tuples(*[st.integers(1, 50)] * 3),
)
def test_a_block_lies_inside(size, patch, chunks) -> None:
    image = Volume(lambda region: np.zeros((1, *region.size)), (1, *size), np.dtype(float), chunks=chunks)
    region = draw_block(image, patch, np.random.default_rng(0))
    assert region.clip(image.region) == region
    assert all(n >= min(p, m) for n, p, m in zip(region.size, patch, size))
