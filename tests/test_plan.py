"""Plans and caps: sizes in words, voxels counted without tiles, steps that spill, caps that are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aequorea.backbones.hiera import Hiera, HieraSpec
from aequorea.backbones.unet import UNet, UNetSpec
from aequorea.engine import memory, train
from aequorea.engine.fit_tiles import bytes_of, choose_tiles
from aequorea.engine.memory import as_bytes
from aequorea.engine.spill import on_disk, weigh
from aequorea.engine.tiles import Tiling, choose_core, count_tiles, parts_of
from aequorea.engine.train import TrainSpec
from aequorea.errors import SpecError
from aequorea.layers.heads import DenseHead
from aequorea.layers.network import Network
from aequorea.layers.stems import PlainStem
from aequorea.volume import Region, from_array
from aequorea.workflows.plan import plan_finetune, plan_predict
from quick import model_file, nuclei, recipe, specimens

torch.set_num_threads(1)
UNET = UNet(UNetSpec(levels=3))
NETWORK = Network(PlainStem(), UNET, DenseHead(16, (1, 1, 1), 1))
sides = st.integers(1, 150)


@pytest.mark.parametrize(
    ("words", "count"),
    [
        ("4GB", 4 * 10**9),
        ("800MB", 8 * 10**8),
        ("1.5 GiB", 3 * 2**29),
        ("2g", 2 * 10**9),
        (5_000_000, 5_000_000),
    ],
)
def test_sizes_are_read_as_people_write_them(words: str | int, count: int) -> None:
    assert as_bytes(words) == count


@pytest.mark.parametrize("words", ["much", "4XB", "-1GB", "4", ""])
def test_other_sizes_are_refused_with_an_example(words: str) -> None:
    with pytest.raises(SpecError, match="GB"):
        as_bytes(words)


@settings(max_examples=30)
@given(
    size=st.tuples(sides, sides, sides),
    halo=st.tuples(*[st.integers(0, 20)] * 3),
    budget=st.integers(1, 200_000),
    low=st.tuples(*[st.floats(0, 0.9)] * 3),
)
def test_counted_voxels_are_those_of_the_tiles(size: Any, halo: Any, budget: int, low: Any) -> None:
    tiling = Tiling(NETWORK, size, None, halo)
    covered = Region(tuple(int(a * n) for a, n in zip(low, size)), size)  # type: ignore[arg-type]
    core = choose_core(covered.size, tiling.grid, halo, budget, most=100_000)
    parts = [
        part
        for one in Region.whole(covered.size).split(core)
        for part in parts_of(one.shift(covered.start), tiling, budget)
    ]
    assert count_tiles(tiling, covered, core, budget) == (
        len(parts),
        sum(tiling.computed(part).voxels for part in parts),
    )


def test_counting_a_volume_without_end_takes_no_time() -> None:
    tiling = Tiling.of(NETWORK, (10_000, 10_000, 10_000), None)
    tiles, computed = count_tiles(tiling, tiling.domain, (160, 160, 160), 10**8)
    assert tiles == 63**3
    assert 10**12 < computed < 4 * 10**12


@pytest.mark.parametrize("body", [UNET, Hiera(HieraSpec())])
def test_a_step_on_disk_is_the_step_in_memory_bit_for_bit(body: Any, tmp_path: Path) -> None:
    image = torch.rand(2, 1, 16, 32, 32)

    def gradients() -> list[torch.Tensor]:
        torch.manual_seed(0)
        body.train().zero_grad()
        body(image, None)[0].square().mean().backward()
        return [p.grad.clone() for p in body.parameters() if p.grad is not None]

    usual = gradients()
    with on_disk(tmp_path) as forget:
        spilled = gradients()
        forget()
        again = gradients()
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(usual, spilled, again, strict=True))
    assert not list(tmp_path.iterdir())


def test_what_a_pass_keeps_is_weighed() -> None:
    x = torch.rand(1000, requires_grad=True)
    weight = weigh(lambda: (x * 2).sin().exp())
    assert weight.largest == 4000
    assert weight.kept == 8000  # of the sine its argument, of the exponential its result


def test_training_under_a_cap_spills_and_learns_the_same(tmp_path: Path, monkeypatch: Any) -> None:
    def run(folder: str) -> tuple[list[Any], bytes]:
        torch.manual_seed(0)
        body = UNet(UNetSpec(levels=2))

        def losses(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"loss": (body(batch["x"], None)[0][:, :1] - batch["x"]).square().mean()}

        def sample(index: int) -> dict[str, np.ndarray]:
            return {"x": np.random.default_rng(index).random((1, 8, 24, 24), np.float32)}

        spec = TrainSpec(steps=3, batch=2, precision="float32")
        done = train.train(tmp_path / folder, body, losses, sample, spec)
        weights = b"".join(t.detach().numpy().tobytes() for t in body.state_dict().values())
        return [row.get("loss") for row in done.history], weights

    free = run("free")
    monkeypatch.setattr(memory, "resident", lambda: 0)
    spilled = []
    monkeypatch.setattr(train, "on_disk", lambda folder: spilled.append(folder) or on_disk(folder))
    with memory.capped(memory.SPARE + train.LIBRARIES + 6_000_000):
        assert run("capped") == free
    assert spilled
    with memory.capped(memory.SPARE + train.LIBRARIES), pytest.raises(SpecError, match="smallest"):
        run("refused")


@pytest.mark.parametrize("more", [0, 100_000_000])
def test_the_smallest_cap_that_is_named_works(more: int) -> None:
    size = (120, 200, 260)
    tiling = Tiling.of(NETWORK, size, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aequorea.engine.fit_tiles.resident", lambda: 300_000_000)
        with pytest.raises(SpecError, match="smallest that works") as refused:
            choose_tiles(tiling, size, 1, memory=10**8)
        named = re.search(r"--memory (\S+)$", str(refused.value))
        assert named
        cap = as_bytes(named[1])
        assert cap
        tiles = choose_tiles(tiling, size, 1, memory=cap + more)
        assert 300_000_000 + bytes_of(tiles, tiling, 1) <= cap + more


def test_what_a_tile_takes_counts_its_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    size = (4, 400, 400)
    tiling = Tiling.of(NETWORK, size, None)
    tiles = choose_tiles(tiling, size, 1)
    with_slabs = bytes_of(tiles, tiling, 1)
    monkeypatch.setattr(Tiling, "flat", 0)
    assert with_slabs > 2 * bytes_of(tiles, tiling, 1)  # four planes beside the twenty of a slab


def test_a_plan_of_a_prediction_leaves_nothing_behind(tmp_path: Path) -> None:
    image = from_array(nuclei(5, (10, 96, 96))[0], (2.0, 0.5, 0.5))
    plan = plan_predict(model_file("instances", "unet"), image, tmp_path / "out.ome.zarr")
    assert not list(tmp_path.iterdir())
    assert plan.sizes["voxels"] == "92,160"
    assert plan.memory > 10**8
    assert plan.total > 0
    assert plan.result > 0
    assert any(line.startswith("memory") for line in plan.lines())


def test_a_plan_of_a_training_leaves_nothing_behind(tmp_path: Path) -> None:
    plan = plan_finetune(specimens(1, 2), tmp_path / "run", recipe())
    assert not list(tmp_path.iterdir())
    assert plan.total > 0
