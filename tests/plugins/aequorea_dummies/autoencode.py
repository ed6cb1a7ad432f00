"""An objective: give the patch back through a linear map of the finest level."""

from torch import nn

from .restoring import NoSpec


class Autoencode(nn.Module):
    """Owns a decoder of one convolution."""

    Spec = NoSpec

    def __init__(self, spec: NoSpec) -> None:
        super().__init__()
        self.spec = spec
        self.decode = nn.LazyConv3d(1, 1)

    def prepare(self, patch, rng, facts=None):
        return {"image": patch}

    def forward(self, backbone, batch, spacing):
        out = self.decode(backbone(batch["image"], spacing)[0])
        return {"reconstruction": (out - batch["image"]).square().mean()}

    def after_step(self, step: int) -> None:
        pass
