"""Means and products that keep channels last, against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cryoaae.nets.cells import halved, pointwise, window_mean


def features(shape: tuple[int, ...], *, last: bool = True) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=torch.channels_last_3d) if last else x


@pytest.mark.parametrize("last", [True, False])
def test_cells_are_averaged_as_torch_does_and_the_order_of_memory_stays(last: bool) -> None:
    x = features((2, 5, 4, 6, 8), last=last)
    made = halved(x)
    assert torch.allclose(made, nn.functional.avg_pool3d(x, 2), atol=1e-6)
    assert made.is_contiguous(memory_format=torch.channels_last_3d if last else torch.contiguous_format)


@pytest.mark.parametrize("shape", [(1, 3, 9, 8, 7), (2, 4, 3, 12, 2), (1, 2, 1, 1, 5), (1, 1, 7, 6, 14)])
def test_windows_are_averaged_as_torch_does_also_at_faces_and_on_short_axes(shape: tuple[int, ...]) -> None:
    wanted = x = features(shape)
    for axis in range(3):
        n, window = x.shape[2 + axis], [1, 1, 1]
        window[axis] = min(7, n - 1 + n % 2)
        beside = [w // 2 for w in window]
        wanted = nn.functional.avg_pool3d(wanted, window, 1, beside, count_include_pad=False)
    assert torch.allclose(window_mean(x, 7), wanted, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_of_one_voxel_is_a_product(bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv3d(5, 3, 1, bias=bias), features((2, 5, 4, 6, 8)).requires_grad_()
    wanted = layer(x)
    assert torch.allclose(pointwise(layer, x), wanted, atol=1e-6)
    (back,) = torch.autograd.grad(wanted.square().sum(), x)
    (made,) = torch.autograd.grad(pointwise(layer, x).square().sum(), x)
    assert torch.allclose(made, back, atol=1e-5)
