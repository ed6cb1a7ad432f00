"""The transformer: hidden tokens, anchored windows, anisotropy, planes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from aequorea.backbones.hiera import Hiera, HieraSpec

SPACINGS = (None, (2.0, 1.0, 1.0), (4.0, 1.0, 1.0))


def body(**fields: object) -> Hiera:
    torch.manual_seed(0)
    made = Hiera(HieraSpec(**fields))
    for norm in made.modules():
        if isinstance(norm, torch.nn.BatchNorm3d):
            torch.nn.init.uniform_(norm.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return made.eval()


@settings(max_examples=12)
@given(
    st.sampled_from((4, 2)),
    st.sampled_from(SPACINGS),
    st.tuples(*[st.integers(1, 3)] * 3),
    st.tuples(*[st.integers(0, 5)] * 3),
    st.booleans(),
)
@torch.inference_mode()
def test_nothing_hidden_is_the_dense_pass(patch, spacing, units, at, eighths) -> None:
    net = body(patch=patch)
    grid = net.layout(spacing).grid
    x = torch.randn(2, 1, *(n * g for n, g in zip(units, grid)))
    origin = tuple(a * g for a, g in zip(at, grid))
    cells = 2 if eighths else 1
    nothing = torch.zeros(2, *(cells * n for n in units), dtype=torch.bool)
    for a, b in zip(net(x, spacing, origin), net(x, spacing, origin, nothing)):
        assert torch.allclose(a, b, atol=1e-4)
    assert net(x, spacing)[0].std() > 0.05


@torch.inference_mode()
def test_what_is_hidden_is_not_seen_and_not_computed() -> None:
    net = body(size="small")
    x = torch.randn(1, 1, 64, 64, 64)
    hidden = torch.rand(1, 64).argsort(1).ge(16).view(1, 4, 4, 4)
    voxels = hidden[:, None].repeat_interleave(16, 2).repeat_interleave(16, 3).repeat_interleave(16, 4)
    inner = torch.zeros(16, 16, 16, dtype=torch.bool)
    inner[2:-2, 2:-2, 2:-2] = True  # kernels overlap by half a patch
    other = torch.where(voxels & inner.tile(4, 4, 4), torch.randn_like(x), x)
    with FlopCounterMode(display=False) as dense:
        net(x, None)
    with FlopCounterMode(display=False) as sparse:
        before = net(x, None, hidden=hidden)
    after = net(other, None, hidden=hidden)
    for a, b in zip(before[2:], after[2:]):  # of tokens alone
        assert torch.allclose(a, b, atol=1e-5)
    assert not torch.equal(before[0], after[0])  # the decoder sees the image
    assert sparse.get_total_flops() < 0.6 * dense.get_total_flops()


@torch.inference_mode()
def test_eighths_of_units_can_be_hidden() -> None:
    net = body()
    assert net.mask_unit(8, None) == (8, 8, 8)
    assert net.mask_unit(16, (4.0, 1.0, 1.0)) == (4, 16, 16)
    x = torch.randn(1, 1, 32, 32, 32)
    hidden = torch.ones(1, 2, 2, 2, 2, 2, 2, dtype=torch.bool)
    hidden[:, :, 0, :, 1, :, 0] = False
    hidden[:, :, 1, :, 1, :, 1] = False
    levels = net(x, None, hidden=hidden.reshape(1, 4, 4, 4))
    assert all(torch.isfinite(level).all() for level in levels)


@torch.inference_mode()
def test_windows_are_anchored() -> None:
    net = body()
    x = torch.randn(1, 1, 16, 128, 16)
    first = net(x, None)[4]
    assert torch.equal(first, net(x, None, (64, 0, 128))[4])  # a whole number of windows
    assert (first - net(x, None, (0, 16, 0))[4]).abs().max() > 1e-3
    x[:, :, :, 70] += 1  # nothing is seen across windows
    changed = (net(x, None)[4] != first).any(1)
    assert not changed[:, :, :4].any()
    assert changed[:, :, 4:].all()


@torch.inference_mode()
def test_a_plane_is_a_thin_volume() -> None:
    net = body()
    levels = net(torch.randn(1, 1, 1, 40, 24), (5.0, 1.0, 1.0))
    assert [tuple(level.shape[2:]) for level in levels] == [
        (1, 40, 24),
        (1, 20, 12),
        (1, 10, 6),
        (1, 5, 3),
        (1, 3, 2),
    ]


@torch.inference_mode()
def test_no_grid_of_two_voxels_shows() -> None:
    net = body()
    net.decoder.kernel.zero_()  # what comes from the tokens alone
    steps = net(torch.rand(1, 1, 64, 64, 64), None)[0].diff(dim=4).abs()
    inside, between = steps[..., ::2].mean(), steps[..., 1::2].mean()
    assert 0.8 < between / inside < 1.25


def test_windows_lie_anywhere_in_training() -> None:
    net = body().train()
    x = torch.randn(2, 1, 16, 128, 128)
    torch.manual_seed(1)
    first = net(x, None)[4]
    torch.manual_seed(1)
    assert torch.equal(first, net(x, None)[4])
    torch.manual_seed(2)
    assert not torch.equal(first, net(x, None)[4])


@pytest.mark.parametrize(("size", "low", "high"), [("tiny", 1, 3), ("small", 8, 12), ("base", 25, 40)])
def test_parameters(size: str, low: float, high: float) -> None:
    millions = sum(p.numel() for p in Hiera(HieraSpec(size=size)).parameters()) / 1e6
    assert low < millions < high
