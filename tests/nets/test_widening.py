"""Wider networks that do the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cryoaae.nets.unet import UNet
from cryoaae.nets.widening import widened

NARROW, WIDE = (4, 6, 8), (4, 9, 20)


@pytest.fixture
def network() -> UNet:
    """A network of which every weight counts."""
    torch.manual_seed(0)
    network = UNet(widths=NARROW, conditions=3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.1)
    return network


def example() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 2, 8, 8, 8, generator=generator), torch.randn(2, 3, generator=generator)


def test_the_output_is_the_same(network: UNet) -> None:
    wider = widened(network, WIDE)
    torch.testing.assert_close(wider(*example()), network(*example()), rtol=1e-4, atol=1e-6)
    assert wider.widths == WIDE
    assert network(*example()).abs().max() > 1e-4


def test_new_channels_are_learned(network: UNet) -> None:
    wider = widened(network, WIDE)
    before = wider.down[2].get_submodule("1").get_parameter("conv.weight").detach().clone()
    optimiser = torch.optim.SGD(wider.parameters(), lr=1e-2)
    for _ in range(2):  # the first step wakes what reads them
        optimiser.zero_grad()
        nn.functional.mse_loss(wider(*example()), torch.ones(2, 1, 8, 8, 8)).backward()
        optimiser.step()
    after = wider.down[2].get_submodule("1").get_parameter("conv.weight")
    assert (after - before)[NARROW[2] :].abs().sum() > 0


@pytest.mark.parametrize("widths", [(4, 6), (4, 6, 7), (4, 6, 8, 8)])
def test_none_is_taken_away(network: UNet, widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="cannot be widened"):
        widened(network, widths)
