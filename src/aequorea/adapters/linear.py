"""The frozen body: only the head is fitted, in one convex problem rather than by descent of many steps."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from aequorea.specs import Spec


class LinearProbeSpec(Spec):
    """Recipe of :class:`LinearProbe`: nothing to choose."""


class LinearProbe:
    """Freezes the body."""

    Spec = LinearProbeSpec

    def __init__(self, spec: LinearProbeSpec) -> None:
        self.spec = spec

    def attach(self, backbone: nn.Module, points: Sequence[str]) -> list[str]:
        """Freeze every parameter; returns that none trains, so that the head alone is fitted."""
        backbone.requires_grad_(False)
        return []

    def merge(self, backbone: nn.Module) -> None:
        """Do nothing: the body's weights are its own."""
