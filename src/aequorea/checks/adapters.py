"""What every adapter must do."""

from __future__ import annotations

from typing import Any

import torch

from aequorea.checks.models import shaken
from aequorea.checks.recipes import claim, recipe
from aequorea.registry import build


def adapter(name: str, body: dict[str, Any] | None = None, **fields: Any) -> None:
    """Check a registered adapter on a backbone.

    It changes nothing before it is trained; what it names trains and gets gradients, and nothing else does;
    merged, it is gone: the body has the tensors that it had, and computes what it computed with the adapter.

    Parameters
    ----------
    name
        As registered.
    body
        ``{"name": ..., **fields}`` of a backbone; default: a small ``unet``.
    **fields
        Of its recipe.
    """
    plug = recipe("adapters", name, **fields)
    torch.manual_seed(0)
    backbone = build("backbones", body or {"name": "unet", "levels": 2})
    shaken(backbone, 0)
    backbone.eval()
    x = torch.randn(1, 1, 6, 16, 16)
    tensors = {n: t.clone() for n, t in backbone.state_dict().items()}
    with torch.inference_mode():
        before = backbone(x, None)[0]
    names = plug.attach(backbone, backbone.points)
    parameters = dict(backbone.named_parameters())
    claim(set(names) <= set(parameters), f"{name}: names parameters that the body does not have")
    training = {n for n, p in parameters.items() if p.requires_grad}
    claim(training == set(names), f"{name}: other parameters train than it names")
    after = backbone(x, None)[0]
    claim(torch.allclose(before, after, atol=1e-5), f"{name}: changes the output before it is trained")
    if names:
        torch.autograd.backward((after - torch.randn_like(after)).square().mean())
        claim(any(bool(parameters[n].grad.any()) for n in names), f"{name}: no gradient reaches it")
        with torch.no_grad():
            for n in names:
                parameters[n].add_(0.05 * torch.randn_like(parameters[n]))
        with torch.inference_mode():
            after = backbone(x, None)[0]
        claim(not torch.allclose(before, after, atol=1e-5), f"{name}: what it trains changes nothing")
    plug.merge(backbone)
    merged = backbone.state_dict()
    claim(
        {n: t.shape for n, t in merged.items()} == {n: t.shape for n, t in tensors.items()},
        f"{name}: merged, the body has other tensors than before",
    )
    with torch.inference_mode():
        claim(torch.allclose(after, backbone(x, None)[0], atol=1e-5), f"{name}: merging changes the output")
