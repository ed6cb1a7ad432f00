"""Convolutions of the 3³ kind, at a z stride that is chosen when they run."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aequorea.layers.low_rank import LowRank
from aequorea.layers.norm import BatchNorm
from aequorea.volume import Triple


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Triple = (1, 1, 1)) -> Tensor:
    """Return the 3³ convolution of x_BCZYX with zero padding 1 at every ``stride``-th voxel.

    A single plane meets only the middle of the kernel: then only that is computed, with the same result.
    """
    if x.shape[2] == 1:
        return F.conv3d(x, weight[:, :, 1:2], bias, stride=(1, *stride[1:]), padding=(0, 1, 1))
    if x.shape[2] == 2 and stride[0] == 1 and torch.is_grad_enabled():
        # The gradient of a bfloat16 kernel over two padded planes is garbage (PyTorch 2.13, oneDNN on processors);
        # over planes padded beforehand it is right.
        return F.conv3d(F.pad(x, (0, 0, 0, 0, 1, 1)), weight, bias, stride=stride, padding=(0, 1, 1))
    return F.conv3d(x, weight, bias, stride=stride, padding=1)


def convolve_planes(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return :func:`convolve` of an x_BCZYX of few channels, in channels-last order.

    Three planes become channels of a 2-D convolution. On processors this takes a fifth of the time that a 3-D one of a
    single channel takes with the change of order after it, and what follows is faster in that order: a training step
    of the U-Net takes two thirds of the time.
    """
    batch, channels, planes, rows, columns = x.shape
    near = F.pad(x, (0, 0, 0, 0, 1, 1)).unfold(2, 3, 1)
    flat = near.permute(0, 2, 1, 5, 3, 4).reshape(batch * planes, channels * 3, rows, columns)
    flat = flat.contiguous(memory_format=torch.channels_last)
    out = F.conv2d(flat, weight.reshape(-1, channels * 3, 3, 3), bias, padding=1)
    return out.reshape(batch, planes, -1, rows, columns).transpose(1, 2)


def role_kernels(kernel: Tensor, roles: Tensor, channels: int) -> Tensor:
    """Return the kernel for an image of several channels, made of that of one.

    What a channel is, is learnt as a gain per role and output, which starts at one.

    Parameters
    ----------
    kernel
        Axes W 1 Z Y X.
    roles
        Axes R W; as many channels are allowed.
    channels
        Of the image.
    """
    if channels > len(roles):
        raise ValueError(f"{channels} channels, at most {len(roles)}")
    gain = 1 + roles[:channels]
    return torch.einsum("cw,wizyx->wczyx", gain.to(kernel.dtype), kernel.clone())


def convolve_image(x: Tensor, kernel: Tensor, roles: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the first convolution of an image_BCZYX of any number of channels, see :func:`role_kernels`."""
    first = convolve_planes if x.device.type == "cpu" else convolve
    return first(x, role_kernels(kernel, roles, x.shape[1]), bias)


class Pointwise(nn.Conv3d):
    """A 1³ convolution: the same linear map at every voxel.

    In channels-last order it is a product of matrices and made as one, for want of which a processor's convolution
    first copies all voxels to the other order.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs for x_BCZYX, in its order."""
        if not x.is_contiguous(memory_format=torch.channels_last_3d) or x.is_contiguous():
            return super().forward(x)
        out = F.linear(x.permute(0, 2, 3, 4, 1), self.weight.flatten(1), self.bias)
        return out.permute(0, 4, 1, 2, 3)


class Conv(nn.Conv3d):
    """A 3³ convolution with zero padding 1 whose stride is an argument of the call."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, kernel_size=3, padding=1, bias=bias)

    def forward(self, x: Tensor, stride: Triple = (1, 1, 1)) -> Tensor:
        """Return outputs at every ``stride``-th voxel of x_BCZYX."""
        return convolve(x, self.weight, self.bias, stride)


class ConvUnit(nn.Module):
    """Convolution, normalisation and, unless told otherwise, ReLU."""

    def __init__(self, inputs: int, outputs: int, active: bool = True) -> None:
        super().__init__()
        self.conv: nn.Module = Conv(inputs, outputs, bias=False)
        self.norm: nn.Module = BatchNorm(outputs)
        self.active = active

    def forward(self, x: Tensor, stride: Triple = (1, 1, 1)) -> Tensor:
        """Return the unit's output at every ``stride``-th voxel of x_BCZYX."""
        out: Tensor = self.norm(self.conv(x, stride))
        return F.relu(out, inplace=True) if self.active else out

    def fold(self) -> None:
        """Fold the normalisation into the convolution before it."""
        if isinstance(self.norm, BatchNorm):
            conv = self.conv.merged() if isinstance(self.conv, LowRank) else self.conv
            assert isinstance(conv, nn.Conv3d)
            self.conv = nn.utils.fusion.fuse_conv_bn_eval(conv.eval(), self.norm.eval())
            self.norm = nn.Identity()


class Residual(nn.Module):
    """Two convolution units around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvUnit(channels, channels)
        self.second = ConvUnit(channels, channels, active=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(x + F(x)), x_BCZYX."""
        out: Tensor = self.second(self.first(x))
        out += x
        return F.relu(out, inplace=True)


def fold(module: nn.Module) -> None:
    """Fold every normalisation into the convolution before it, in place; the module is for evaluation from then on.

    Modules know how, by a method of this name. The result is the same to rounding and a normalisation costs nothing
    any more.
    """
    for child in list(module.modules()):
        own = getattr(child, "fold", None)
        if callable(own):
            own()
