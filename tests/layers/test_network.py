"""What is kept of a tile is what all of it would have given there."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aequorea.backbones.unet import UNet
from aequorea.volume import ORIGIN, Region
from networks import of_task

SPACING = (2.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("body", "task", "words"),
    [
        ("unet", "semantic", {}),
        ("unet", "denoise", {"planes": 3}),
        ("unet", "isotropic", {"factor": 3}),
        ("unet", "super_resolve", {}),
        ("unet", "project", {}),
        ("hiera", "semantic", {}),
        ("filters", "semantic", {}),
        ("swinir", "denoise", {}),
    ],
)
@settings(max_examples=8, deadline=None)
@given(st.tuples(st.integers(1, 20), st.integers(9, 60), st.integers(9, 60)), st.data())
def test_the_kept_part_is_cut_from_the_whole(body, task, words, size, data) -> None:
    made = of_task(body, task, data.draw(st.integers(0, 9)), SPACING, **words)
    ends = [sorted(data.draw(st.sets(st.integers(0, n), min_size=2, max_size=2))) for n in size]
    if task == "project":
        ends[0] = [0, 1]
    kept = Region(*zip(*ends))
    far = words.get("planes", 1) // 2
    image = torch.randn(1, 1, size[0] + 2 * far, *size[1:], generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        whole, part = (made(image, SPACING, ORIGIN, region) for region in (None, kept))
    expected = whole[(..., *made.head.output_grid(kept, SPACING)[0].slices)]
    assert part.shape == expected.shape
    assert torch.allclose(part, expected, atol=1e-4 * float(whole.std()))


def test_the_finest_level_is_made_of_what_is_kept_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    made = of_task("unet", "semantic", 0, SPACING)
    assert isinstance(made.backbone, UNet)
    made.backbone.decoder[0].register_forward_hook(lambda _, given, out: seen.append(out[0, 0].numel()))
    kept = Region((8, 16, 16), (16, 32, 32))
    with torch.inference_mode():
        made(torch.randn(1, 1, 24, 48, 48), SPACING, ORIGIN, kept)
    assert sum(seen) <= kept.grow((4, 4, 4)).voxels
