"""Convolutions: right in every precision, forwards and backwards, however thin the image."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from aequorea.layers.conv import Pointwise, convolve, convolve_planes


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


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 7, 3), (2, 4, 4), (9, 5, 8)])
@pytest.mark.parametrize("channels", [1, 3])
def test_planes_as_channels(size: tuple[int, int, int], channels: int) -> None:
    """The 2-D convolution of three planes each is the 3-D one, gradients and all, in channels-last order."""
    torch.manual_seed(0)
    x, bias = torch.randn(2, channels, *size, dtype=torch.float64), torch.randn(16, dtype=torch.float64)
    kernels = [torch.randn(16, channels, 3, 3, 3, dtype=torch.float64, requires_grad=True)]
    kernels.append(kernels[0].detach().clone().requires_grad_())
    found = convolve_planes(x, kernels[0], bias)
    expected = F.conv3d(x, kernels[1], bias, padding=1)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.allclose(found, expected)
    for out in (found, expected):
        out.square().sum().backward()
    assert kernels[0].grad is not None and kernels[1].grad is not None
    assert torch.allclose(kernels[0].grad, kernels[1].grad)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last_3d])
def test_pointwise_in_both_orders(order: torch.memory_format) -> None:
    """Values and gradients are those of the convolution, and the order of the input is kept."""
    torch.manual_seed(0)
    conv = Pointwise(6, 4).double()
    x = torch.randn(2, 6, 3, 4, 5, dtype=torch.float64).to(memory_format=order).requires_grad_()
    out = conv(x)
    assert out.is_contiguous(memory_format=order)
    expected = F.conv3d(x, conv.weight, conv.bias)
    assert torch.allclose(out, expected)
    wanted = torch.autograd.grad(expected.square().sum(), [x, conv.weight, conv.bias], retain_graph=True)
    for a, b in zip(torch.autograd.grad(out.square().sum(), [x, conv.weight, conv.bias]), wanted):
        assert torch.allclose(a, b)
