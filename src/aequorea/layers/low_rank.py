"""A layer whose weight carries a low-rank update."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


class LowRank(nn.Module):
    """A linear map or convolution with the weight W + scale · U V in place of W.

    V starts random and U at zero, so that it begins as the layer was. A convolution's weight is taken as a
    matrix of outputs against inputs times kernel.

    Parameters
    ----------
    layer
        Has a ``weight``, outputs first.
    rank
        Of U V; the smaller side of the weight where that is less.
    scale
        Of the update.
    generator
        Draws V.
    """

    def __init__(self, layer: nn.Module, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.layer, self.scale = layer, scale
        weight = self._weight
        rows, columns = weight.shape[0], weight[0].numel()
        rank = min(rank, rows, columns)
        start = (torch.rand(rank, columns, generator=generator) * 2 - 1) / math.sqrt(columns)
        self.u = nn.Parameter(torch.zeros(rows, rank).to(weight))
        self.v = nn.Parameter(start.to(weight))

    @property
    def _weight(self) -> Tensor:
        weight = self.layer.weight
        assert isinstance(weight, Tensor)
        return weight

    def updated(self) -> Tensor:
        """Return the weight that the layer computes with."""
        return self._weight + self.scale * (self.u @ self.v).view(self._weight.shape)

    def merged(self) -> nn.Module:
        """Return a plain layer that computes the same, bit for bit."""
        layer = copy.deepcopy(self.layer)
        layer.weight = nn.Parameter(self.updated().detach().clone())
        return layer

    def forward(self, *arguments: Any) -> Tensor:
        """Return what the layer does with the updated weight."""
        out: Tensor = functional_call(self.layer, {"weight": self.updated()}, arguments)
        return out
