"""KL divergence of codes' own laws against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from cryoaae.divergences.divergence import Codes
from cryoaae.divergences.kl import KL
from cryoaae.priors.gaussian import Gaussian

NOTHING = Codes(torch.zeros(0, 2))


class WithDensity:
    """A Gaussian that nobody knows to be one."""

    classes = 0

    def __init__(self, std: float) -> None:
        self.law, self.dim, self.scale = Gaussian(2, std), 2, std
        self.sample, self.log_density = self.law.sample, self.law.log_density


class WithoutDensity(WithDensity):
    def __init__(self) -> None:
        super().__init__(1.0)
        self.log_density = self.missing

    def missing(self, z: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


def laws(n: int = 1) -> Codes:
    generator = torch.Generator().manual_seed(0)
    mean = torch.tensor([[0.5, -2.0]], dtype=torch.float64).repeat(n, 1)
    log_std = torch.tensor([[0.3, -1.0]], dtype=torch.float64).repeat(n, 1)
    return Codes(mean + log_std.exp() * torch.randn(n, 2, generator=generator, dtype=torch.float64), mean, log_std)


def exact(q: Codes, std: float) -> torch.Tensor:
    return kl_divergence(Normal(q.mean, q.log_std.exp()), Normal(0.0, torch.tensor(std, dtype=torch.float64))).sum(-1)


@pytest.mark.parametrize("std", [1.0, 3.0])
def test_closed_form(std: float) -> None:
    q = laws()
    assert float(KL(Gaussian(2, std))(q, NOTHING)) == pytest.approx(float(exact(q, std)), rel=1e-12)


def test_zero_only_at_the_prior() -> None:
    at = torch.zeros(4, 2)
    divergence, log_std = KL(Gaussian(2, 3.0)), torch.full((4, 2), 3.0).log()
    assert float(divergence(Codes(at, at, log_std), NOTHING)) == pytest.approx(0, abs=1e-6)
    assert float(divergence(Codes(at, at, log_std - 1), NOTHING)) > 0.5
    assert float(divergence(Codes(at, at + 3, log_std), NOTHING)) > 0.5


def test_mean_over_samples_of_each_member() -> None:
    generator = torch.Generator().manual_seed(1)
    mean, log_std = (torch.randn(3, 5, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    q = Codes(mean, mean, log_std)
    torch.testing.assert_close(KL(Gaussian(2, 2.0))(q, NOTHING), exact(q, 2.0).mean(dim=-1))


def test_monte_carlo_agrees_with_the_closed_form() -> None:
    n, std = 20_000, 2.0
    q = laws(n)
    parts = zip(q.samples.split(200), q.mean.split(200), q.log_std.split(200), strict=True)
    each = torch.stack([KL(WithDensity(std))(Codes(*part), NOTHING) for part in parts])
    assert each.std() > 0
    assert float(each.mean() - exact(q, std)[0]) == pytest.approx(0, abs=3 * float(each.std()) / len(each) ** 0.5)


def test_monte_carlo_gradient_is_that_of_the_closed_form() -> None:
    """Through samples drawn as mean + std eps."""
    q = laws(20_000)
    eps = (q.samples - q.mean) / q.log_std.exp()

    def gradient(prior: object) -> torch.Tensor:
        at = torch.stack([q.mean[0], q.log_std[0]]).requires_grad_()
        mean, log_std = at[0].expand_as(eps), at[1].expand_as(eps)
        (slope,) = torch.autograd.grad(KL(prior)(Codes(mean + log_std.exp() * eps, mean, log_std), NOTHING), at)
        return slope

    torch.testing.assert_close(gradient(WithDensity(2.0)), gradient(Gaussian(2, 2.0)), rtol=0, atol=0.02)


def test_a_prior_without_density_is_refused() -> None:
    with pytest.raises(ValueError, match="WithoutDensity has no density"):
        KL(WithoutDensity())


@pytest.mark.parametrize(
    ("q", "problem"),
    [
        (Codes(torch.zeros(3, 2)), "mean and log_std"),
        (Codes(torch.zeros(3, 2), torch.zeros(3, 2)), "mean and log_std"),
        (Codes(torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0, 2)), "not"),
        (Codes(torch.zeros(3, 1), torch.zeros(3, 1), torch.zeros(3, 1)), "not"),
    ],
)
def test_codes_without_a_law_are_refused(q: Codes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        KL(Gaussian(2))(q, NOTHING)
