"""Convolutions: right in every precision, forwards and backwards, however thin the image."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from aequorea.layers.conv import convolve


@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2), (2, 2, 2)])
@pytest.mark.parametrize("size", [(1, 4, 4), (2, 2, 2), (2, 4, 4), (2, 9, 5), (3, 4, 4), (4, 2, 2)])
@pytest.mark.parametrize("channels", [1, 32])
def test_gradients_of_thin_images(
    size: tuple[int, int, int], stride: tuple[int, int, int], channels: int
) -> None:
    """In bfloat16, output and gradients are those of the plain convolution in float32."""
    torch.manual_seed(0)
    for _ in range(3):  # what goes wrong depends on what lay in memory before
        x, weight = torch.randn(2, channels, *size), torch.randn(32, channels, 3, 3, 3) / 30
        found, expected = [], []
        for dtype, results in ((torch.bfloat16, found), (torch.float32, expected)):
            image = x.to(dtype).requires_grad_()
            kernel = weight.to(dtype).requires_grad_()
            if dtype == torch.bfloat16:
                out = convolve(image, kernel, stride=stride)
            else:
                step = (1 if size[0] == 1 else stride[0], *stride[1:])
                out = F.conv3d(image, kernel, stride=step, padding=1)
            out.float().square().sum().backward()
            assert image.grad is not None and kernel.grad is not None
            results += [out.detach().float(), image.grad.float(), kernel.grad.float()]
        for a, b in zip(found, expected):
            assert (a - b).abs().max() < 0.05 * b.abs().max()
