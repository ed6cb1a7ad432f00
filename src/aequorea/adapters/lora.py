"""Low-rank updates of a frozen body's linear maps and convolutions.

A weight W becomes W + (alpha / rank) U V, where V starts random and U at zero: the network begins as it was,
and only U and V train.

E. J. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from pydantic import Field, PositiveFloat
from torch import nn

from aequorea.errors import SpecError
from aequorea.layers.low_rank import LowRank
from aequorea.specs import Spec


class LoRASpec(Spec):
    """Recipe of :class:`LoRA`.

    Attributes
    ----------
    rank
        Rank of each update; at most the smaller side of the weight.
    alpha
        Strength: the update is scaled by alpha / rank.
    """

    rank: int = Field(default=4, ge=1)
    alpha: PositiveFloat = 8.0


class LoRA:
    """Low-rank updates at the body's points; everything else of the body is frozen."""

    Spec = LoRASpec

    def __init__(self, spec: LoRASpec) -> None:
        self.spec = spec

    def attach(self, backbone: nn.Module, points: Sequence[str]) -> list[str]:
        """Add the updates and return the names of the body's parameters that train.

        Parameters
        ----------
        backbone
            Changed in place; computes the same as before until it is trained.
        points
            Regular expressions that the whole names of modules must match.

        Raises
        ------
        SpecError
            If no linear map or convolution is named by the points.
        """
        found = [
            name
            for name, module in backbone.named_modules()
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
            and any(re.fullmatch(point, name) for point in points)
        ]
        if not found:
            raise SpecError(
                f"adapter lora: {type(backbone).__name__.lower()} has no weights that it could update; "
                "use --adapter linear, or --backbone unet"
            )
        backbone.requires_grad_(False)
        generator = torch.Generator().manual_seed(0)
        scale = self.spec.alpha / self.spec.rank
        for name in found:
            layer = backbone.get_submodule(name)
            _replace(backbone, name, LowRank(layer, self.spec.rank, scale, generator))
        return [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]

    def merge(self, backbone: nn.Module) -> None:
        """Write the updated weights into the body and take the updates out, without changing the output."""
        for name, module in list(backbone.named_modules()):
            if isinstance(module, LowRank):
                _replace(backbone, name, module.merged())
        backbone.requires_grad_(True)


def _replace(body: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(body.get_submodule(parent), attribute, module)
