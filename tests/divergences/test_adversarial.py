"""The discriminator learns the log density ratio, and each of its settings does what it says."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from cryoaae.divergences.adversarial import Adversarial
from cryoaae.divergences.divergence import Codes
from cryoaae.draws import Draws
from cryoaae.nets.stacked import initialise
from cryoaae.priors.gaussian import Gaussian

Law = Callable[[int, torch.Generator], Tensor]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(prior: Gaussian, seed: int = 0, **settings: Any) -> Adversarial:
    divergence = Adversarial(prior, **{"hidden": (8, 8), **settings}).double()
    initialise(divergence, Draws.seeded(seed, dtype=torch.float64))
    return divergence


def trained(divergence: Adversarial, law: Law, prior: Gaussian, steps: int = 400) -> Adversarial:
    generator, draws = torch.Generator().manual_seed(1), Draws.seeded(2)
    initialise(divergence, Draws.seeded(0))
    optimiser = torch.optim.Adam(divergence.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        q, p = law(512, generator), prior.sample(512, generator=generator)
        optimiser.zero_grad()
        divergence.critic_loss(Codes(q), Codes(p), draws).backward()
        optimiser.step()
        schedule.step()
    return divergence.eval()


def wide(n: int, generator: torch.Generator) -> Tensor:
    """N((3, -1), diag(4, 1)), where the prior is N(0, 4 I)."""
    return torch.randn(n, 2, generator=generator) * torch.tensor([2.0, 1.0]) + torch.tensor([3.0, -1.0])


def log_wide(z: Tensor) -> Tensor:
    standard = (z - torch.tensor([3.0, -1.0])) / torch.tensor([2.0, 1.0])
    return -0.5 * standard.square().sum(dim=-1) - math.log(2) - math.log(2 * math.pi)


def shifted(n: int, generator: torch.Generator) -> Tensor:
    """N(2, 4), where the prior is N(0, 4)."""
    return 2 * torch.randn(n, 1, generator=generator) + 2


def log_shifted(z: Tensor) -> Tensor:
    return -0.5 * ((z[..., 0] - 2) / 2).square() - math.log(2) - 0.5 * math.log(2 * math.pi)


@pytest.mark.parametrize(("dim", "law", "log_q"), [(1, shifted, log_shifted), (2, wide, log_wide)])
def test_learns_the_log_ratio_and_bounds_the_divergence(dim: int, law: Law, log_q: Callable[[Tensor], Tensor]) -> None:
    prior, generator = Gaussian(dim, std=2.0), torch.Generator().manual_seed(3)
    divergence = trained(Adversarial(prior, hidden=(32, 32)), law, prior)
    q, p = law(20_000, generator), prior.sample(20_000, generator=generator)
    with torch.no_grad():
        estimate = torch.cat([divergence.log_ratio(q), divergence.log_ratio(p)])
    truth = torch.cat([prior.log_density(q) - log_q(q), prior.log_density(p) - log_q(p)])
    correlation = torch.corrcoef(torch.stack([estimate, truth]))[0, 1]
    slope = torch.cov(torch.stack([estimate, truth]))[0, 1] / truth.var()
    assert correlation > 0.95
    assert 0.8 < slope < 1.2
    best = math.log(2) - (softplus(truth[:20_000]).mean() + softplus(-truth[20_000:]).mean()) / 2
    bound = divergence.jensen_shannon(Codes(q), Codes(p))
    # Two standard errors of the true divergence are 0.006.
    assert 0.5 * best < bound < best + 0.006
    right = ((truth[:20_000] < 0).float().mean() + (truth[20_000:] > 0).float().mean()) / 2
    assert float(divergence.accuracy(Codes(q), Codes(p))) == pytest.approx(float(right), abs=0.02)


def test_equal_laws_cannot_be_told_apart() -> None:
    prior, generator = Gaussian(2, std=2.0), torch.Generator().manual_seed(3)
    divergence = trained(Adversarial(prior, hidden=(16,)), lambda n, g: prior.sample(n, generator=g), prior, steps=150)
    q, p = (Codes(prior.sample(20_000, generator=generator)) for _ in range(2))
    assert abs(float(divergence.accuracy(q, p)) - 0.5) < 0.02
    assert -0.02 < float(divergence.jensen_shannon(q, p)) < 0.005


def test_descending_moves_codes_towards_the_prior() -> None:
    """The sign: what the encoder descends pulls codes to where they are too few."""
    prior = Gaussian(1, std=2.0)
    for loss in ("non_saturating", "minimax"):
        divergence = trained(Adversarial(prior, hidden=(16,), loss=loss), shifted, prior, steps=100)
        z = torch.tensor([[3.0], [4.0]], requires_grad=True)
        divergence(Codes(z), Codes(z.detach())).backward()
        assert (z.grad > 0).all()


def test_losses_are_those_of_the_logits() -> None:
    prior = Gaussian(2, std=3.0)
    q, p = 2 * normal(6, 2, seed=1), 3 * normal(5, 2, seed=2)
    for loss in ("non_saturating", "minimax"):
        divergence = drawn(prior, loss=loss)
        codes, real = divergence.log_ratio(q).sigmoid(), divergence.log_ratio(p).sigmoid()
        encoder = -codes.log().mean() if loss == "non_saturating" else (1 - codes).log().mean()
        torch.testing.assert_close(divergence(Codes(q), Codes(p)), encoder)
        critic = -real.log().mean() - (1 - codes).log().mean()
        torch.testing.assert_close(divergence.critic_loss(Codes(q), Codes(p)), critic)
        bound = divergence.jensen_shannon(Codes(q), Codes(p))
        torch.testing.assert_close(bound, math.log(2) - critic.detach() / 2)


def test_accuracy_of_a_known_boundary() -> None:
    """One linear unit, prior where z > 0; a point on the boundary is half right."""
    divergence = Adversarial(Gaussian(1), hidden=())
    with torch.no_grad():
        divergence.network.last.weight.fill_(1.0)
    q, p = torch.tensor([[-1.0], [-2.0], [3.0], [0.0]]), torch.tensor([[1.0], [-1.0]])
    assert float(divergence.accuracy(Codes(q), Codes(p))) == (2.5 / 4 + 1 / 2) / 2
    # Worse than chance, and said so.
    assert float(divergence.jensen_shannon(Codes(p), Codes(q))) < 0


def test_penalty_of_a_linear_discriminator_is_its_squared_weight() -> None:
    """r1 / 2 |w|^2, of each member its own."""
    prior, seeds = Gaussian(2, std=3.0), [1, 2, 3]
    divergence = Adversarial(prior, stack=(3,), hidden=(), r1=0.7).double()
    initialise(divergence, Draws.seeded(seeds, dtype=torch.float64))
    q, p = Codes(normal(3, 6, 2, seed=1)), Codes(normal(3, 5, 2, seed=2))
    with_penalty = divergence.critic_loss(q, p)
    divergence.r1 = 0.0
    expected = 0.35 * divergence.network.last.weight.square().sum(dim=(1, 2))
    torch.testing.assert_close(with_penalty - divergence.critic_loss(q, p), expected)


def test_penalty_is_the_slope_on_the_prior() -> None:
    """Against central differences; and its own gradient reaches the weights."""
    prior = Gaussian(2, std=3.0)
    divergence = drawn(prior, hidden=(8,), r1=2.0, activation="tanh")
    q, p = 5 + normal(6, 2, seed=1), 3 * normal(5, 2, seed=2)
    with torch.no_grad():
        ways = 1e-6 * torch.eye(2, dtype=torch.float64)
        slopes = [(divergence.log_ratio(p + w) - divergence.log_ratio(p - w)) / 2e-6 for w in ways]
    with_penalty = divergence.critic_loss(Codes(q), Codes(p))
    divergence.r1 = 0.0
    without = divergence.critic_loss(Codes(q), Codes(p))
    # Slopes per unit of the prior's scale.
    expected = (3 * torch.stack(slopes)).square().sum(dim=0).mean()
    torch.testing.assert_close(with_penalty - without, expected, rtol=1e-6, atol=0)
    grads = [torch.autograd.grad(value, divergence.network.last.weight)[0] for value in (with_penalty, without)]
    assert (grads[0] - grads[1]).abs().max() > 1e-3


def test_penalty_needs_no_gradient_mode() -> None:
    divergence = drawn(Gaussian(2), r1=1.0)
    q, p = Codes(normal(6, 2, seed=1)), Codes(normal(5, 2, seed=2))
    with torch.no_grad():
        measured = divergence.critic_loss(q, p)
    torch.testing.assert_close(measured, divergence.critic_loss(q, p), rtol=1e-12, atol=0)


def test_penalty_holds_the_slope_down() -> None:
    """Two laws that do not overlap: without it the logit rises without end."""
    prior, points = Gaussian(1), torch.linspace(-2, 6, 200)[:, None]
    slopes = []
    for r1 in (0.0, 1.0):
        divergence = trained(Adversarial(prior, hidden=(16,), r1=r1), lambda n, g: shifted(n, g) / 8 + 4, prior, 150)
        slopes.append(float((divergence.log_ratio(points).diff() / points[:, 0].diff()).abs().max().detach()))
    assert slopes[1] < 0.5 * slopes[0]


def test_spectral_norm_bounds_the_slope() -> None:
    """By one per unit of the prior's scale, once the power iteration has converged; else it is far above."""
    prior = Gaussian(2, std=2.0)
    q, p = Codes(normal(6, 2, seed=1)), Codes(normal(5, 2, seed=2))
    steepest = {}
    for spectral in (False, True):
        divergence = drawn(prior, hidden=(16, 16), spectral=spectral)
        with torch.no_grad():
            for weight in divergence.network.parameters():
                weight.mul_(10)
            for _ in range(200):
                divergence.critic_loss(q, p)
        z = (4 * normal(500, 2, seed=3)).requires_grad_()
        (slope,) = torch.autograd.grad(divergence.log_ratio(z).sum(), z)
        steepest[spectral] = prior.scale * float(torch.linalg.vector_norm(slope, dim=-1).max())
    assert steepest[True] <= 1 + 1e-3
    assert steepest[False] > 10


def test_looking_leaves_the_discriminator_as_it_is() -> None:
    """A measured run is the run that was not measured."""
    divergence = drawn(Gaussian(2), spectral=True, dropout=0.5, input_noise=1.0)
    q, p = Codes(normal(6, 2, seed=1)), Codes(normal(5, 2, seed=2))
    before = {name: value.clone() for name, value in divergence.state_dict().items()}
    first = divergence.log_ratio(q.samples)
    divergence.accuracy(q, p)
    divergence.jensen_shannon(q, p)
    assert torch.equal(divergence.log_ratio(q.samples), first)
    assert all(torch.equal(before[name], value) for name, value in divergence.state_dict().items())
    assert divergence.network.training


def test_noise_is_in_units_of_the_prior_and_ends_with_training() -> None:
    prior = Gaussian(2, std=3.0)
    divergence = drawn(prior, input_noise=0.5)
    q, p = normal(6, 2, seed=1), normal(5, 2, seed=2)
    draws, same = (Draws.seeded(7, dtype=torch.float64) for _ in range(2))
    noisy = divergence(Codes(q), Codes(p), draws)
    # Prior and codes both.
    critic = divergence.critic_loss(Codes(q), Codes(p), draws)
    divergence.eval()
    by_hand = [z + 3 * 0.5 * same.normal(*z.shape) for z in (q, p, q)]
    torch.testing.assert_close(noisy, divergence(Codes(by_hand[0]), Codes(p)))
    torch.testing.assert_close(critic, divergence.critic_loss(Codes(by_hand[2]), Codes(by_hand[1])))
    assert not torch.allclose(noisy, divergence(Codes(q), Codes(p)), rtol=1e-5)


def test_labels_stay_clear_of_noise_and_scale() -> None:
    """A discriminator that reads only labels gives each its weight."""
    divergence = Adversarial(Gaussian(2, std=5.0), hidden=(), told=3, input_noise=10.0).double()
    with torch.no_grad():
        divergence.network.last.weight[2:, 0] = torch.tensor([1.0, -2.0, 0.5])
    told = torch.eye(3)[[1, 2, 2, 0]]
    z = normal(4, 2, seed=1)
    q = Codes(z, told=told)
    expected = softplus(torch.tensor([2.0, -0.5, -0.5, -1.0], dtype=torch.float64)).mean()
    torch.testing.assert_close(divergence(q, q, Draws.seeded(0, dtype=torch.float64)), expected)
    assert divergence.log_ratio(z, told).tolist() == [-2.0, 0.5, 0.5, 1.0]


def test_labels_make_the_match_conditional() -> None:
    """Codes with the prior's law but labels of the wrong half are told from it, and only by who sees labels."""
    generator, prior = torch.Generator().manual_seed(0), Gaussian(1)

    def halves(z: Tensor, swapped: bool) -> Codes:
        positive = (z[:, 0] > 0) != swapped
        return Codes(z, told=torch.nn.functional.one_hot(positive.long(), 3).to(z))

    accuracy = []
    for told in (3, 0):
        divergence = Adversarial(prior, hidden=(16,), told=told)
        initialise(divergence, Draws.seeded(0))
        optimiser = torch.optim.Adam(divergence.parameters(), 1e-2)
        for _ in range(150):
            q, p = (prior.sample(256, generator=generator) for _ in range(2))
            optimiser.zero_grad()
            divergence.critic_loss(halves(q, True), halves(p, False)).backward()
            optimiser.step()
        q, p = (prior.sample(4000, generator=generator) for _ in range(2))
        accuracy.append(float(divergence.accuracy(halves(q, True), halves(p, False))))
    assert accuracy[0] > 0.9
    assert accuracy[1] < 0.55


def test_one_cloud_is_shown_to_every_member() -> None:
    prior = Gaussian(2)
    stacked = Adversarial(prior, stack=(2,), hidden=(8,)).double()
    initialise(stacked, Draws.seeded([3, 4], dtype=torch.float64))
    z = normal(5, 2, seed=1)
    for i, seed in enumerate((3, 4)):
        torch.testing.assert_close(stacked.log_ratio(z)[i], drawn(prior, seed, hidden=(8,)).log_ratio(z))


@pytest.mark.parametrize(
    ("settings", "told", "problem"),
    [
        ({"told": 3}, None, "come without"),
        ({"told": 3}, torch.zeros(4, 2), "2 columns"),
        ({"input_noise": 0.1}, None, "need draws"),
        ({"dropout": 0.1}, None, "need draws"),
    ],
)
def test_what_a_setting_needs_is_asked_for(settings: dict[str, Any], told: Tensor | None, problem: str) -> None:
    divergence, codes = Adversarial(Gaussian(2), hidden=(4,), **settings), Codes(torch.zeros(4, 2), told=told)
    for loss in (divergence, divergence.critic_loss):
        with pytest.raises(ValueError, match=problem):
            loss(codes, codes)


@pytest.mark.parametrize(
    "settings",
    [{"loss": "wasserstein"}, {"r1": -1.0}, {"input_noise": -0.1}, {"told": -1}, {"dropout": 1.0}],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"neither|negative"):
        Adversarial(Gaussian(2), **settings)
