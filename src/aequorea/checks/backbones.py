"""What every backbone must do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from aequorea.checks.models import SPACINGS, model, shaken, tiled, untrained
from aequorea.checks.recipes import claim, recipe
from aequorea.layers.heads import DenseHead
from aequorea.layers.network import Network
from aequorea.layers.stems import PlainStem
from aequorea.plugs import Layout
from aequorea.registry import build
from aequorea.volume import Spacing, Triple

SIZES: tuple[Triple, ...] = ((1, 1, 1), (1, 9, 13), (7, 16, 11), (12, 1, 1))


def backbone(name: str, **fields: Any) -> None:
    """Check a registered backbone.

    Its recipe; its geometry at several spacings: sizes of the levels, reach, tiles; that the same seed gives
    the same bits and every trainable number a gradient; and models made of it.

    Parameters
    ----------
    name
        As registered.
    **fields
        Of its recipe; small sizes are faster.
    """
    words = {"name": name, **fields}
    recipe("backbones", name, **fields)
    _repeats(words)
    body = build("backbones", words)
    shaken(body, 1)
    body.eval()
    if body.trainable:
        _gradients(name, words)
    else:
        claim(not list(body.parameters()), f"{name}: says that it does not train, but has parameters")
    for spacing in SPACINGS:
        layout = body.layout(spacing)
        _layout(name, layout)
        _levels(name, body, layout, spacing)
        _reach(name, body, layout, spacing)
        head = DenseHead(layout.channels[0], layout.strides[0], 1)
        tiled(Network(PlainStem(), body, head).eval(), spacing, seed=len(str(spacing)))
    semantic = build("tasks", {"name": "semantic", "classes": 2})
    model(untrained(semantic, words, (2.0, 1.0, 1.0)))


def _pyramid(body: Any, x: Tensor, spacing: Spacing | None) -> list[Tensor]:
    levels, _ = Network(PlainStem(), body, None).levels(x, spacing)
    return levels


def _repeats(words: dict[str, Any]) -> None:
    outputs = []
    for _ in range(2):
        torch.manual_seed(5)
        body = build("backbones", words).eval()
        with torch.inference_mode():
            outputs.append(_pyramid(body, torch.randn(1, 1, 5, 12, 12), None))
    claim(
        all(torch.equal(a, b) for a, b in zip(*outputs)),
        f"{words['name']}: the same seed gives other bits",
    )


def _gradients(name: str, words: dict[str, Any]) -> None:
    body = build("backbones", words).train()
    torch.manual_seed(0)
    layout = body.layout(None)
    least = [max(8, 2 * g) for g in layout.grid]
    levels = _pyramid(body, torch.randn(2, 1, *least), None)
    torch.stack([level.float().square().mean() for level in levels]).sum().backward()  # type: ignore[no-untyped-call]
    dead = [n for n, p in body.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    claim(not dead, f"{name}: no gradient reaches {', '.join(dead[:4])}")


def _layout(name: str, layout: Layout) -> None:
    claim(
        len(layout.channels) == len(layout.strides) > 0,
        f"{name}: channels and strides of its layout are not one for each level",
    )
    claim(all(c > 0 for c in layout.channels), f"{name}: a level without channels")
    for stride in layout.strides:
        claim(
            all(s > 0 and g % s == 0 for s, g in zip(stride, layout.grid)),
            f"{name}: its grid {layout.grid} is no multiple of the stride {stride}",
        )
    if layout.reach is not None:
        claim(
            all(0 <= h <= -(-r // g) * g for h, r, g in zip(layout.halo, layout.reach, layout.grid)),
            f"{name}: its default halo {layout.halo} is wider than its reach {layout.reach}",
        )


def _levels(name: str, body: nn.Module, layout: Layout, spacing: Spacing | None) -> None:
    for size in SIZES:
        with torch.inference_mode():
            levels = _pyramid(body, torch.randn(2, 1, *size), spacing)
        claim(len(levels) == len(layout.channels), f"{name}: another number of levels than its layout says")
        for level, channels, stride in zip(levels, layout.channels, layout.strides):
            expected = (2, channels, *(-(-n // s) for n, s in zip(size, stride)))
            claim(
                tuple(level.shape) == expected,
                f"{name}: a level of shape {tuple(level.shape)} for {size} voxels, expected {expected}",
            )
            claim(bool(torch.isfinite(level).all()), f"{name}: a level is not finite for {size} voxels")


def _reach(name: str, body: nn.Module, layout: Layout, spacing: Spacing | None) -> None:
    """Put a NaN into one voxel and see where it arrives, along one axis at a time."""
    if layout.reach is None:
        return
    for axis, (reach, grid) in enumerate(zip(layout.reach, layout.grid)):
        size = [2 * g for g in layout.grid]
        size[axis] = 2 * (-(-reach // grid) * grid) + 3 * grid
        seen = 0
        for phase in sorted({0, grid // 2, grid - 1}):
            place = [g // 2 for g in layout.grid]
            place[axis] = -(-reach // grid) * grid + phase
            furthest = _furthest(body, size, place, spacing, axis, layout.strides[0][axis], float("nan"))
            if furthest > reach:
                # Zeros of a matrix carry a NaN, but nothing else.
                furthest = _furthest(body, size, place, spacing, axis, layout.strides[0][axis], 1e6)
            seen = max(seen, furthest)
        claim(
            seen <= reach + layout.strides[0][axis] - 1,
            f"{name}: says that it reaches {reach} voxels along {'zyx'[axis]} at spacing {spacing}, but reaches {seen}",
        )
        claim(
            reach <= 2 * seen + grid,
            f"{name}: says that it reaches {reach} voxels along {'zyx'[axis]} at spacing {spacing}, where {seen} do",
        )


def _furthest(
    body: nn.Module,
    size: Sequence[int],
    place: Sequence[int],
    spacing: Spacing | None,
    axis: int,
    stride: int,
    value: float,
) -> int:
    """Return how far from a voxel, along an axis, the finest level changes when that voxel takes a value."""
    torch.manual_seed(0)
    x = torch.randn(1, 1, *size)
    with torch.inference_mode():
        before = _pyramid(body, x, spacing)[0]
        x[0, 0, place[0], place[1], place[2]] = value
        changed = (_pyramid(body, x, spacing)[0] != before)[0].any(0)
    reached = torch.nonzero(changed)[:, axis] * stride
    if not len(reached):
        return 0
    return max(place[axis] - int(reached.min()), int(reached.max()) + stride - 1 - place[axis])
