"""Stacked layers: a member is what it would be alone, and each layer is the known one."""

from __future__ import annotations

import pytest
import torch

from cryoaae.draws import Draws
from cryoaae.nets.convolutional import ConvDecoder, ConvTrunk
from cryoaae.nets.encoders import Encoder
from cryoaae.nets.stacked import MLP, StackedBatchNorm, StackedLinear, initialise

SEEDS = [3, 4, 9]


def network(stack: tuple[int, ...]) -> MLP:
    return MLP(5, [40, 6], 2, stack=stack, batch_norm=True, dropout=0.3, input_noise=0.2, spectral=True).double()


@pytest.mark.parametrize("training", [True, False])
def test_members_are_what_they_are_alone(training: bool) -> None:
    draws = Draws.seeded(SEEDS, dtype=torch.float64)
    stacked = network((3,))
    initialise(stacked, draws)
    stacked.train(training)
    outputs = [stacked(draws.normal(20, 5), draws) for _ in range(3)]
    outputs[-1].square().sum().backward()
    for index, seed in enumerate(SEEDS):
        own = Draws.seeded(seed, dtype=torch.float64)
        alone = network(())
        initialise(alone, own)
        alone.train(training)
        expected = [alone(own.normal(20, 5), own) for _ in range(3)]
        expected[-1].square().sum().backward()
        torch.testing.assert_close(outputs[-1][index], expected[-1])
        for (name, mine), theirs in zip(stacked.named_parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(mine.grad[index], theirs.grad, msg=name)  # type: ignore[index]
        for mine, theirs in zip(stacked.buffers(), alone.buffers(), strict=True):
            torch.testing.assert_close(mine[index], theirs)


def test_a_narrow_layer_has_the_derivatives_of_its_formula() -> None:
    draws = Draws.seeded([1, 2], dtype=torch.float64)
    layer = StackedLinear(4, 3, stack=(2,)).double()
    initialise(layer, draws)
    x, weight = draws.normal(5, 4).requires_grad_(), layer.weight

    def output(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"weight": weight}, (x,)).square()

    assert torch.autograd.gradcheck(output, (x, weight))
    assert torch.autograd.gradgradcheck(output, (x, weight))


def test_a_draw_of_a_stack_is_the_draws_of_its_members() -> None:
    stack = Draws.seeded(SEEDS)
    drawn = [stack.normal(4, 2), stack.uniform(3), stack.integers(10, 5), stack.permutation(6)]
    for index, seed in enumerate(SEEDS):
        own = Draws.seeded(seed)
        alone = [own.normal(4, 2), own.uniform(3), own.integers(10, 5), own.permutation(6)]
        for mine, theirs in zip(drawn, alone, strict=True):
            assert torch.equal(mine[index], theirs)
    saved = stack.state()
    after = stack.normal(3)
    stack.load_state(saved)
    assert torch.equal(stack.normal(3), after)
    with pytest.raises(ValueError, match="2 generators"):
        Draws([torch.Generator(), torch.Generator()])


def test_batch_normalisation_is_torch_s() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = StackedBatchNorm(4), torch.nn.BatchNorm1d(4)
    for _ in range(5):
        x = 3 * torch.randn(16, 4, generator=generator) + 2
        torch.testing.assert_close(ours(x), theirs(x))
    ours.eval()
    theirs.eval()
    x = torch.randn(7, 4, generator=generator)
    torch.testing.assert_close(ours(x), theirs(x))


def test_a_spectral_layer_stretches_nothing() -> None:
    layer = StackedLinear(6, 5, spectral=True, bias=False)
    layer.initialise(Draws.seeded(0))
    with torch.no_grad():
        layer.weight.mul_(7)
        for _ in range(200):
            layer(torch.zeros(1, 6))
        normalised = layer(torch.eye(6))
    assert float(torch.linalg.matrix_norm(normalised, ord=2)) == pytest.approx(1.0, abs=1e-3)


def test_dropout_and_noise_keep_the_mean_and_rest_when_evaluating() -> None:
    draws = Draws.seeded(0)
    net = MLP(1, [1000], 1, dropout=0.5)
    initialise(net, draws)
    x = torch.ones(1, 1)
    with torch.no_grad():
        plain = net(x)
        noisy = torch.stack([net(x, draws) for _ in range(2000)])
        assert abs(noisy.mean() - plain) < 4 * noisy.std() / 2000**0.5
        net.eval()
        assert torch.equal(net(x, draws), plain)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 9, 7)])
def test_convolutional_parts_keep_every_pixel_s_place(shape: tuple[int, int, int]) -> None:
    """A decoder fitted to two images tells them apart again, whatever their size."""
    draws = Draws.seeded(0)
    trunk = ConvTrunk(shape, (4, 8), 16, batch_norm=False)
    encoder, decoder = Encoder(trunk, 2), ConvDecoder(2, shape, (4, 8), batch_norm=False)
    for part in (encoder, decoder):
        initialise(part, draws)
    images = draws.uniform(2, shape[0] * shape[1] * shape[2]).round()
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-2)
    for _ in range(200):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(decoder(encoder(images).style), images)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        found = torch.sigmoid(decoder(encoder(images).style))
    right, swapped = (found - images).abs().mean(), (found - images.flip(0)).abs().mean()
    assert right < 0.8 * swapped


def test_convolutional_parts_refuse_a_stack() -> None:
    with pytest.raises(ValueError, match="do not stack"):
        initialise(ConvDecoder(2, (1, 8, 8), (4,)), Draws.seeded([1, 2]))
