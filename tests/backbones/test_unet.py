"""The U-Net's geometry: what it says of its reach is what it does, at any spacing, size and channel count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aequorea.backbones.unet import UNet, UNetSpec
from aequorea.layers.conv import fold
from networks import unet


@pytest.mark.parametrize(
    "spacing", [None, (1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (4.0, 1.0, 1.0), (2.0, 0.26, 0.26)]
)
@pytest.mark.parametrize("levels", [2, 3])
def test_reach_is_exact(spacing: tuple[float, float, float] | None, levels: int) -> None:
    """NaN spreads through every path of a network: where it arrives is the reach, and it is that of the layout."""
    body = UNet(UNetSpec(levels=levels)).eval()
    layout = body.layout(spacing)
    assert layout.reach is not None
    seen = [0, 0, 0]
    size = [2 * r + 3 * g for r, g in zip(layout.reach, layout.grid)]
    for phase in range(max(layout.grid)):
        place = [-(-r // g) * g + min(phase, g - 1) for r, g in zip(layout.reach, layout.grid)]
        x = torch.zeros(1, 1, *size)
        x[0, 0, place[0], place[1], place[2]] = float("nan")
        with torch.inference_mode():
            reached = body(x, spacing)[0][0].isnan().any(0).nonzero()
        low, high = reached.min(0).values, reached.max(0).values
        seen = [max(s, p - int(a), int(b) - p) for s, p, a, b in zip(seen, place, low, high)]
    assert tuple(seen) == layout.reach


@settings(max_examples=15, deadline=None)
@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 33), st.integers(1, 33)),
    channels=st.integers(1, 4),
    ratio=st.sampled_from([0.8, 1.0, 2.0, 5.0]),
)
def test_any_size_and_channels(size: tuple[int, int, int], channels: int, ratio: float) -> None:
    """Levels are cropped to ceil(size / stride), whatever the size; a single plane too."""
    spacing = (ratio, 1.0, 1.0)
    network = unet(spacing=spacing)
    levels, _ = network.levels(torch.randn(1, channels, *size), spacing)
    assert levels[0].shape[2:] == size
    for level, stride in zip(levels, network.backbone.layout(spacing).strides):
        expected = tuple(
            -(-n // (1 if n == 1 and axis == 0 else s)) for axis, (n, s) in enumerate(zip(size, stride))
        )
        assert level.shape[2:] == expected


@settings(max_examples=20, deadline=None)
@given(
    size=st.tuples(st.integers(1, 50), st.integers(1, 20), st.integers(1, 20)),
    ratio=st.sampled_from([1.0, 2.0, 5.0]),
    batch=st.integers(1, 2),
)
def test_a_few_planes_at_a_time_equal_all_at_once(
    size: tuple[int, int, int], ratio: float, batch: int
) -> None:
    """Evaluation computes the finest level in slabs; with gradients it is whole."""
    body = unet(seed=1).backbone
    x = torch.randn(batch, 1, *size)
    whole = body(x, (ratio, 1.0, 1.0))
    with torch.inference_mode():
        slabs = body(x, (ratio, 1.0, 1.0))
    for a, b in zip(whole, slabs):
        assert a.shape == b.shape and torch.allclose(a, b, atol=1e-4 * float(whole[0].std()) + 1e-6)


def test_one_plane_is_computed_with_the_middle_of_the_kernel() -> None:
    """The shortcut for Z = 1 gives what the full kernel gives."""
    conv = unet().backbone.decoder[0].conv
    x = torch.randn(1, 16, 1, 9, 9)
    whole = torch.nn.functional.conv3d(x, conv.weight, padding=1)
    assert torch.allclose(conv(x), whole, atol=1e-5)


def test_channels_start_as_equals() -> None:
    """Before training the order of channels does not matter; a channel of zeros changes nothing."""
    network = unet()
    x = torch.randn(1, 2, 8, 16, 16)
    with torch.inference_mode():
        assert torch.allclose(network(x, None), network(x.flip(1), None), atol=1e-5)
        padded = torch.cat([x, torch.zeros_like(x[:, :1])], 1)
        assert torch.allclose(network(x, None), network(padded, None), atol=1e-5)


def test_folding_changes_nothing() -> None:
    """Normalisations folded into convolutions give the same output to rounding."""
    network = unet(seed=3)
    x = torch.randn(1, 1, 12, 24, 24)
    with torch.inference_mode():
        before = network(x, None)
        fold(network)
        assert torch.allclose(before, network(x, None), atol=1e-4 * float(before.std()) * 10)


def test_every_parameter_gets_a_gradient() -> None:
    """No tensor is dead."""
    network = unet()
    network.train()
    network(torch.randn(2, 1, 16, 32, 32), None).square().mean().backward()
    dead = [n for n, p in network.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert dead == []


def test_spacing_decides_the_strides() -> None:
    """Along z nothing is skipped until the voxel is within 1.5 of isotropic."""
    body = UNet(UNetSpec())
    assert body.strides((4.0, 1.0, 1.0)) == [(1, 2, 2), (1, 2, 2), (2, 2, 2)]
    assert body.strides((1.4, 1.0, 1.0)) == [(2, 2, 2)] * 3
    assert np.prod(body.layout((8.0, 1.0, 1.0)).grid) == 64
