"""The law that tiled output equals whole output, on networks whose output varies."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aequorea.engine.predict import predict_dense
from aequorea.engine.tiles import Tiling, choose_core, worst_tile
from aequorea.results import MemoryOutput
from aequorea.volume import Region, from_array
from networks import unet

SIZES = st.tuples(st.integers(1, 24), st.integers(8, 70), st.integers(8, 70))
SPACINGS = st.sampled_from([None, (1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (5.0, 1.0, 1.0)])


def logits(output: torch.Tensor) -> torch.Tensor:
    return output


@settings(max_examples=12, deadline=None)
@given(size=SIZES, spacing=SPACINGS, seed=st.integers(0, 99), data=st.data())
def test_tiled_equals_whole(
    size: tuple[int, int, int], spacing: tuple[float, float, float] | None, seed: int, data: st.DataObject
) -> None:
    """At full reach, any core and any origin give the voxels of one pass, to 1e-4 of the range."""
    network = unet(seed, spacing, levels=3)
    image = np.random.default_rng(seed).standard_normal((1, *size), np.float32)
    with torch.inference_mode():
        whole = network(torch.from_numpy(image)[None], spacing)[0].numpy()
    spread = float(whole.max() - whole.min())
    assert spread > 0.1
    tiling = Tiling.of(network, size, spacing, "full")
    core = tuple(data.draw(st.integers(1, 40)) for _ in range(3))
    budget = data.draw(st.sampled_from([10**4, 10**5, 10**9]))
    region = Region.at(
        [data.draw(st.integers(0, n - 1)) for n in size], [data.draw(st.integers(1, n)) for n in size]
    ).clip(Region.whole(size))
    layer = MemoryOutput(block=core).layer("dense", size=region.size, dtype=np.float32, kind="image")
    predict_dense(
        tiling,
        from_array(image, spacing),
        layer,
        logits,
        core,
        region=region,
        empty=np.zeros(1, np.float32),
        budget=budget,
        precision="float32",
    )
    tiled = layer.finish().read()
    assert np.abs(tiled - whole[(slice(None), *region.slices)]).max() <= 1e-4 * spread


def test_a_short_halo_is_seen() -> None:
    """The law has teeth: with no halo at all the output differs by far more than rounding."""
    network = unet(5, levels=3)
    image = np.random.default_rng(5).standard_normal((1, 24, 64, 64), np.float32)
    with torch.inference_mode():
        whole = network(torch.from_numpy(image)[None], None)[0].numpy()
    tiling = Tiling.of(network, (24, 64, 64), None, (0, 0, 0))
    layer = MemoryOutput(block=(24, 32, 32)).layer("dense", size=(24, 64, 64), dtype=np.float32, kind="image")
    predict_dense(
        tiling,
        from_array(image),
        layer,
        logits,
        (24, 32, 32),
        empty=np.zeros(1, np.float32),
        precision="float32",
    )
    assert np.abs(layer.finish().read() - whole).max() > 0.05 * np.ptp(whole)


@settings(max_examples=50, deadline=None)
@given(
    domain=st.tuples(st.integers(1, 600), st.integers(1, 4000), st.integers(1, 4000)),
    budget=st.integers(10**6, 10**8),
    flat=st.integers(0, 40),
)
def test_cores_fit_their_budget(domain: tuple[int, int, int], budget: int, flat: int) -> None:
    """A core with its halo stays within the budget wherever any does, and is a multiple of the grid."""
    core = choose_core(domain, (8, 8, 8), (16, 16, 16), budget, flat=flat)
    assert all(c % 8 == 0 for c in core)
    z, y, x = (min(c + 32, -(-n // 8) * 8) for c, n in zip(core, domain))
    assert (z + flat) * y * x <= budget


def test_an_infinite_volume_costs_what_is_promised() -> None:
    """At most 2.0 voxels computed per voxel kept at the default halo."""
    network = unet()
    for spacing in [None, (4.0, 1.0, 1.0)]:
        tiling = Tiling.of(network, (10**5, 10**5, 10**5), spacing)
        core = choose_core(tiling.domain.size, tiling.grid, tiling.halo, 11_500_000)
        computed = tiling.computed(Region.at([c * 9 for c in core], core)).voxels
        assert computed / np.prod(core) <= 2.0


@given(
    st.tuples(*[st.integers(1, 3000)] * 3),
    st.tuples(*[st.sampled_from((1, 4, 8, 16))] * 3),
    st.integers(0, 40),
    st.sampled_from((300_000, 3_000_000)),
)
def test_cores_stay_within_what_they_may_be(domain, grid, halo, budget) -> None:
    core = choose_core(domain, grid, (halo,) * 3, budget, most=budget // 2)
    computed, kept = worst_tile(core, domain, grid, (halo,) * 3)
    small = choose_core(domain, grid, (halo,) * 3, 1)
    possible, least = worst_tile(small, domain, grid, (halo,) * 3)
    assert (computed <= budget and kept <= budget // 2) or possible > budget or least > budget // 2
    assert all(c % g == 0 for c, g in zip(core, grid))
