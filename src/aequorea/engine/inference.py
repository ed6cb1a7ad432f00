"""A network made ready to compute: on a device, in a precision, with its normalisations folded away."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor

from aequorea.layers.conv import fold
from aequorea.layers.network import Network
from aequorea.volume import ORIGIN, Array, Region, Spacing, Triple

Precision = Literal["auto", "float32", "bfloat16"]


def default_device() -> torch.device:
    """Return the first accelerator, or the processor."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the type to compute in; ``auto`` is bfloat16 only where the machine multiplies it natively."""
    if precision == "float32":
        return torch.float32
    if precision == "bfloat16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32


def computing_dtype(network: Network, precision: Precision, device: torch.device) -> torch.dtype:
    """Return the type that a network is computed in; hand-made filters take differences that 8 bits do not carry."""
    return resolve_precision(precision, device) if network.backbone.trainable else torch.float32


class Runner:
    """Computes a network's output for arrays.

    Parameters
    ----------
    network
        Left as it is; a copy is folded and moved.
    spacing
        Of the body's grid, in µm (z, y, x).
    device, precision
        Where and in which type to compute.
    """

    def __init__(
        self,
        network: Network,
        spacing: Spacing | None,
        device: torch.device | None = None,
        precision: Precision = "auto",
    ) -> None:
        self.device = device or default_device()
        self.dtype = computing_dtype(network, precision, self.device)
        self.spacing = spacing
        self._source = network
        self._ready(self.dtype)

    def _ready(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.network = copy.deepcopy(self._source).eval()
        fold(self.network)
        self.network.to(self.device, dtype)
        # Channels last is the order that bfloat16 convolutions are made for; the image sets it for all that follows.
        self._order = torch.contiguous_format
        if dtype == torch.bfloat16:
            self._order = torch.channels_last_3d
            for parameter in self.network.parameters():
                # Of one input channel, in that order, one plane comes out wrong (PyTorch 2.13 on processors).
                if parameter.dim() == 5 and parameter.shape[1] > 1:
                    parameter.data = parameter.data.to(memory_format=self._order)

    def __call__(self, image: Array, origin: Triple = ORIGIN, kept: Region | None = None) -> Tensor:
        """Return output_1KZYX (float32, on the device) for a normalised image of axes C Z Y X.

        ``origin`` is where it begins on the body's grid, ``kept`` the part of that whose output is wanted.

        A network with a part that cannot compute in bfloat16 computes in float32, this time and from then on.
        """
        if self.dtype == torch.bfloat16:
            try:
                return self._run(image, origin, kept)
            except NotImplementedError:
                self._ready(torch.float32)
        return self._run(image, origin, kept)

    def _run(self, image: Array, origin: Triple, kept: Region | None) -> Tensor:
        with torch.inference_mode():
            x = torch.from_numpy(image)[None].to(self.device, self.dtype, memory_format=self._order)
            out: Tensor = self.network(x, self.spacing, origin, kept)
            return out.float()
