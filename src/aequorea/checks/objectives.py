"""What every objective must do."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from aequorea.checks.recipes import claim, recipe
from aequorea.registry import build
from aequorea.volume import Array

MORE = 15
"""Samples of a batch beside the first."""


def objective(name: str, body: dict[str, Any] | None = None, **fields: Any) -> None:
    """Check a registered objective on a backbone.

    Samples are a function of patch and generator alone; losses are finite scalars, and their gradients reach the
    body; its steps can be counted.

    Parameters
    ----------
    name
        As registered.
    body
        ``{"name": ..., **fields}`` of a backbone; default: a small ``unet``.
    **fields
        Of its recipe.
    """
    plug = recipe("objectives", name, **fields)
    torch.manual_seed(0)
    backbone = build("backbones", body or {"name": "unet", "levels": 2})
    patch = np.random.default_rng(1).random((1, 16, 32, 32), np.float32)
    facts = None
    if hasattr(plug, "survey"):
        facts = plug.survey(lambda rng: patch.copy(), backbone, None, np.random.default_rng(0))

    def sample(seed: int) -> dict[str, Array]:
        return dict(plug.prepare(patch.copy(), np.random.default_rng(seed), facts))

    one, same = sample(3), sample(3)
    claim(bool(one), f"{name}: prepares nothing")
    claim(
        list(one) == list(same) and all(np.array_equal(one[k], same[k], equal_nan=True) for k in one),
        f"{name}: the same patch and generator give another sample",
    )
    several = [one, *(sample(seed) for seed in range(4, 4 + MORE))]  # one that draws tasks draws each of them
    batch = {k: torch.from_numpy(np.stack([each[k] for each in several])) for k in one}
    with torch.no_grad():
        plug(backbone, batch, None)  # gives lazy modules their size
    losses = plug(backbone, batch, None)
    claim(bool(losses), f"{name}: gives no loss")
    for word, loss in losses.items():
        claim(loss.ndim == 0 and bool(torch.isfinite(loss)), f"{name}: the loss '{word}' is no finite scalar")
    torch.autograd.backward(torch.stack(list(losses.values())).sum())
    claim(
        any(p.grad is not None and bool(p.grad.any()) for p in backbone.parameters()),
        f"{name}: no gradient reaches the body",
    )
    if isinstance(plug, nn.Module):
        dead = [
            n for n, p in plug.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
        ]
        claim(not dead, f"{name}: no gradient reaches its own {', '.join(dead[:4])}")
    plug.after_step(1)
