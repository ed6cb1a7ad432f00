"""The mean over mirror images knows no direction, and is cut into tiles as the network itself is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aequorea.checks.models import tiled
from aequorea.layers.mirrored import Mirrored
from networks import of_task

SPACING = (2.0, 1.0, 1.0)
TASKS = [
    ("unet", "semantic", {}),
    ("unet", "isotropic", {"factor": 3}),
    ("unet", "denoise", {"planes": 3}),
    ("unet", "super_resolve", {}),
    ("unet", "project", {}),
    ("unet", "light_field", {"views": 3, "depth": 4}),
    ("hiera", "semantic", {}),
    ("swinir", "denoise", {}),
]


@pytest.mark.parametrize(("body", "task", "words"), [case for case in TASKS if case[0] != "hiera"])
@settings(max_examples=3, deadline=None)
@given(st.integers(1, 6), st.tuples(st.integers(1, 2), st.integers(1, 2)), st.integers(0, 99))
def test_a_turned_image_is_a_turned_answer(body, task, words, z, times, seed) -> None:
    """Of images that the grid divides: others are continued at their far ends, and have others once they are turned.

    So are those that windows do not divide.
    """
    net = of_task(body, task, seed % 5, SPACING, **words)
    grid = net.backbone.layout(SPACING).grid
    views = words.get("views", 1)
    planes = 1 if task == "light_field" else z + 2 * (words.get("planes", 1) // 2)
    size = (planes, *(t * math.lcm(g, 16) * views for t, g in zip(times, grid[1:])))
    image = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        made = Mirrored(net)(image, SPACING)
        assert made.shape == net(image, SPACING).shape
        assert not torch.allclose(made, net(image, SPACING), atol=1e-3 * float(made.std()))
        for axes in ([3], [4], [3, 4]):
            again = Mirrored(net)(image.flip(axes), SPACING).flip(axes)
            assert torch.allclose(again, made, atol=2e-4 * float(made.std()) + 1e-6)
        again = Mirrored(net)(image.transpose(3, 4), SPACING).transpose(3, 4)
        assert torch.allclose(again, made, atol=2e-4 * float(made.std()) + 1e-6)


@settings(max_examples=5, deadline=None)
@given(st.integers(2, 9), st.integers(2, 5), st.integers(0, 99))
def test_planes_between_planes_are_those_of_the_stack_upside_down(planes, factor, seed) -> None:
    net = of_task("unet", "isotropic", seed % 5, None, factor=factor)
    z, y, x = net.backbone.layout(None).grid
    image = torch.randn(1, 1, z * (planes // 4 + 1), y, x, generator=torch.Generator().manual_seed(seed))
    last = (image.shape[2] - 1) * factor + 1
    with torch.inference_mode():
        made = Mirrored(net)(image, None)[:, :, :last]
        again = Mirrored(net)(image.flip(2), None)[:, :, :last].flip(2)
    assert torch.allclose(again, made, atol=2e-4 * float(made.std()))


def test_it_is_the_mean_over_mirror_images() -> None:
    net = of_task("unet", "semantic", 0, SPACING)
    image = torch.randn(1, 1, 4, 32, 48)
    with torch.inference_mode():
        answers = []
        for axes in ((), (3,), (4,), (3, 4)):
            flat = image.flip(axes)
            answers.append(net(flat, SPACING).flip(axes))
            answers.append(net(flat.transpose(3, 4), SPACING).transpose(3, 4).flip(axes))
        mean = torch.stack(answers).mean(0)
        assert torch.allclose(Mirrored(net)(image, SPACING), mean, atol=1e-4 * float(mean.std()))
        apart = (2.0, 1.0, 1.3)  # y and x are not exchanged
        kept = torch.stack([net(image.flip(axes), apart).flip(axes) for axes in ((), (3,), (4,), (3, 4))])
        assert torch.allclose(Mirrored(net)(image, apart), kept.mean(0), atol=1e-4 * float(mean.std()))


@pytest.mark.parametrize(("body", "task", "words"), [case for case in TASKS if case[0] != "hiera"])
def test_tiles_of_mirror_images_equal_the_whole(body, task, words) -> None:
    tiled(Mirrored(of_task(body, task, 0, SPACING, **words)).eval(), SPACING)


def test_windows_of_mirror_images_lie_alike_in_tiles_and_whole() -> None:
    """The body whose windows are anchored, over a volume that is wider than its reach."""
    from aequorea.engine.tiles import Tiling
    from aequorea.volume import Region, from_array

    net = Mirrored(of_task("hiera", "semantic", 0, SPACING)).eval()
    size = (4, 200, 40)
    image = np.random.default_rng(0).standard_normal((1, *size), np.float32)
    tiling = Tiling.of(net, size, SPACING, "full")
    core = Region((0, 128, 0), (4, 136, 40))
    part = tiling.computed(core)
    assert part.start[1] > 0
    with torch.inference_mode():
        whole = net(torch.from_numpy(image)[None], SPACING)[(..., *core.slices)]
        cut = torch.from_numpy(tiling.read(from_array(image, SPACING), part))[None]
        near = net(cut, SPACING, part.start, core.relative_to(part))
    assert torch.allclose(near, whole, atol=2e-3 * float(whole.std()))
