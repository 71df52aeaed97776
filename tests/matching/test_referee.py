"""A referee learns the log density ratio, and says when it has won or fallen silent."""

from __future__ import annotations

import pytest
import torch

from cryoaae.matching.referee import PATIENCE, Referee
from cryoaae.nets.discriminators import MultiScaleDiscriminator, PatchDiscriminator

BOX = (8, 8, 8)


def referee(*, scales: int = 1, r1: float = 0.0, spectral: bool = False) -> Referee:
    torch.manual_seed(0)
    return Referee(MultiScaleDiscriminator(scales, (8, 16), spectral=spectral), r1=r1)


def trained(judge: Referee, shift: float, steps: int = 150) -> Referee:
    """Fit to noise with and without a constant added; patches without structure, so the best logit is known."""
    generator = torch.Generator().manual_seed(1)
    optimiser = torch.optim.Adam(judge.parameters(), lr=3e-3)
    for _ in range(steps):
        real, again = (torch.randn(16, 1, *BOX, generator=generator) for _ in range(2))
        loss = judge.loss(real + shift, again)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return judge


@pytest.mark.parametrize(("scales", "spectral", "r1"), [(1, False, 0.0), (2, True, 0.0), (1, False, 1.0)])
def test_a_difference_is_found_and_the_energy_falls_along_it(scales: int, spectral: bool, r1: float) -> None:
    judge = trained(referee(scales=scales, spectral=spectral, r1=r1), 0.25)
    figures = judge.figures()
    assert figures["accuracy"] > 0.8
    assert figures["divergence"] > 0.02
    noise = torch.randn(64, 1, *BOX, generator=torch.Generator().manual_seed(2))
    judge.eval()
    assert float(judge.energy(noise + 0.25)) < float(judge.energy(noise))


def test_without_a_difference_there_is_nothing_to_find() -> None:
    figures = trained(referee(), 0.0).figures()
    assert figures["accuracy"] == pytest.approx(0.5, abs=0.08)
    assert figures["divergence"] < 0.02


def test_the_logit_is_the_log_density_ratio() -> None:
    """Constant patches of N(1/2, 1) and N(0, 1): log ratio (c - 1/4) / 2."""
    judge, generator = referee(), torch.Generator().manual_seed(3)
    optimiser = torch.optim.Adam(judge.parameters(), lr=2e-3)
    for _ in range(400):
        level = torch.randn(2, 512, 1, 1, 1, 1, generator=generator).expand(2, 512, 1, 4, 4, 4)
        loss = judge.loss(level[0] + 0.5, level[1])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    at = torch.linspace(-1, 1.5, 6)
    with torch.no_grad():
        found = torch.stack([-judge.energy(level.expand(1, 1, 4, 4, 4)) for level in at])
    assert torch.allclose(found, (at - 0.25) / 2, atol=0.2)


def test_the_energy_leaves_the_referee_alone_and_the_loss_the_patches() -> None:
    judge = referee()
    patches = torch.randn(2, 1, *BOX, generator=torch.Generator().manual_seed(0), requires_grad=True)
    judge.energy(patches).backward()
    assert all(weight.grad is None for weight in judge.parameters())
    assert patches.grad is not None
    patches.grad = None
    judge.loss(torch.zeros_like(patches), patches).backward()
    assert patches.grad is None
    assert all(weight.grad is not None for weight in judge.parameters())


def test_r1_is_the_squared_slope_on_real_patches() -> None:
    plain, penalised = referee(), referee(r1=2.0)
    generator = torch.Generator().manual_seed(4)
    real, again = (torch.randn(3, 1, *BOX, generator=generator) for _ in range(2))
    extra = float(penalised.loss(real, again).detach() - plain.loss(real, again).detach())
    x = real.clone().requires_grad_()
    (slope,) = torch.autograd.grad(-len(x) * plain.energy(x), x)
    assert extra == pytest.approx(float(slope.square().flatten(1).sum(dim=1).mean()), rel=1e-4)


@pytest.mark.parametrize(("accuracy", "slope", "word"), [(1.0, 0.1, "right in"), (0.5, 0.0, "collapsed")])
def test_a_referee_that_wins_or_falls_silent_is_in_trouble_after_its_patience(
    accuracy: float, slope: float, word: str
) -> None:
    judge = referee()
    patches = torch.zeros(1, 1, *BOX)
    judge.note_gradient(torch.tensor(0.1), torch.tensor(1e-9))  # whoever wants a small weight may have it
    judge.loss(patches, patches)
    assert not judge.doubtful()
    judge.slope.fill_(slope)
    judge.accuracy.fill_(accuracy)
    judge.loss(patches, patches)
    assert judge.doubtful()
    assert judge.trouble() is None
    judge.stuck.fill_(PATIENCE)
    assert word in str(judge.trouble())
    judge.accuracy.fill_(0.6)
    judge.slope.fill_(0.1)
    judge.loss(patches, patches)
    assert judge.trouble() is None, "one good step ends it"


def test_spectral_normalisation_bounds_the_slope_of_every_convolution() -> None:
    torch.manual_seed(0)
    network = PatchDiscriminator((4, 8), spectral=True)
    x = torch.randn(1, 1, *BOX)
    for _ in range(50):
        network(x)  # the power iteration goes on
    for module in network.modules():
        if isinstance(module, torch.nn.Conv3d):
            assert float(torch.linalg.matrix_norm(module.weight.detach().flatten(1), 2)) == pytest.approx(1.0, abs=0.02)
