"""EVIA: exact posteriors where they are known, an aggregate that is the prior, and its limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from cryoaae.divergences.mmd import mmd2
from cryoaae.draws import Draws
from cryoaae.models.autoencoder import Objective
from cryoaae.models.evia import EVIA, Candidates
from cryoaae.models.image_batch import ImageBatch
from cryoaae.nets.encoders import Encoder
from cryoaae.nets.stacked import MLP, initialise
from cryoaae.priors.gaussian import Gaussian

NOISE, STEPS, BATCH = 0.5, 500, 128
# Codes of 2 numbers are seen through these 3 x 2 numbers.
MAP = torch.tensor([[1.0, 0.3], [-0.4, 0.8], [0.2, -0.5]], dtype=torch.float64)


class Linear(nn.Module):
    """Decoder x = A z."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)

    def forward(self, z: Tensor, draws: Draws | None = None) -> Tensor:
        return z @ self.matrix.T


def evia(gamma: float, seed: int = 0) -> EVIA:
    """A model whose decoder is known and fixed: the posterior and its potential are what is fitted."""
    draws = Draws.seeded(seed, dtype=torch.float64)
    encoder = Encoder(MLP(3, [32]), 2).double()
    potential = MLP(2, [32, 32], 1, activation="softplus").double()
    model = EVIA(encoder, Linear(MAP), potential, Gaussian(2), Objective("squared"), gamma=gamma, linear=True)
    initialise(model, draws)
    return model


def fitted(gamma: float, *, two_heaps: bool = False) -> tuple[EVIA, Tensor]:
    """Fit on x = A z + noise, z normal or in two heaps; return the model and further data of the same law."""
    model, draws = evia(gamma), Draws.seeded(1, dtype=torch.float64)

    def data(n: int) -> Tensor:
        z = draws.normal(n, 2)
        if two_heaps:
            z = torch.tensor([1.5, 0.0]) * z[:, :1].sign() + 0.3 * z
        return z @ MAP.T + NOISE * draws.normal(n, 3)

    (phase,) = model.phases()
    optimiser = torch.optim.Adam(phase.parameters, lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        terms = phase.losses(ImageBatch(data(BATCH), draws))
        optimiser.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimiser.step()
        schedule.step()
    return model.eval(), data(1000)


def exact(x: Tensor, variance: float) -> tuple[Tensor, Tensor]:
    """Posterior of z ~ N(0, 1) seen as A z + N(0, variance): means (n, 2) and covariance (2, 2)."""
    covariance = torch.linalg.inv(torch.eye(2, dtype=x.dtype) + MAP.T @ MAP / variance)
    return x @ MAP @ covariance / variance, covariance


@pytest.fixture(scope="module")
def well_specified() -> tuple[EVIA, Tensor]:
    return fitted(NOISE**2)


def moments(model: EVIA, x: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior mean (n, 2) and mean covariance (2, 2), from many draws."""
    drawn, _ = model.sample_posterior(x, Draws.seeded(2, dtype=torch.float64), count=400, candidates=8192)
    mean = drawn.mean(dim=1)
    apart = drawn - mean[:, None]
    return mean, torch.einsum("nki,nkj->ij", apart, apart) / (apart.shape[0] * (apart.shape[1] - 1))


def test_where_gamma_is_the_noise_the_posterior_is_that_of_bayes(well_specified: tuple[EVIA, Tensor]) -> None:
    model, x = well_specified
    mean, covariance = moments(model, x[:300])
    expected_mean, expected = exact(x[:300], NOISE**2)
    error = (mean - expected_mean).square().mean().sqrt() / expected_mean.square().mean().sqrt()
    assert error < 0.05
    torch.testing.assert_close(covariance.diag().sqrt(), expected.diag().sqrt(), rtol=0.05, atol=0)
    assert abs(covariance[0, 1] - expected[0, 1]) < 0.05 * expected.diag().prod().sqrt()


def test_there_the_potential_is_flat(well_specified: tuple[EVIA, Tensor]) -> None:
    model, _ = well_specified
    z = Draws.seeded(3, dtype=torch.float64).normal(500, 2)
    with torch.no_grad():
        assert model.dual_potential(z).std() < 0.1


def test_the_encoder_is_the_barycentre(well_specified: tuple[EVIA, Tensor]) -> None:
    model, x = well_specified
    expected, _ = exact(x, NOISE**2)
    with torch.no_grad():
        error = (model.encoder(x).style - expected).square().mean().sqrt()
    assert error < 0.1 * expected.square().mean().sqrt()


def entropic_gaussian(gamma: float) -> Tensor:
    """Covariance of q(z | x) in the entropic plan of N(0, A A' + noise) and N(0, 1), cost |x - A z|^2 / 2.

    The plan is Gaussian, exp(-(x - A z)' (x - A z) / 2 gamma + quadratic potentials); with Q the joint
    precision, Q_xz = -A / gamma is given, and its marginals fix Q_xx and Q_zz. Solved for the cross
    covariance C = S_x Lambda by iterating Q_zz = (1 + A' S A / gamma^2 ...) (Janati et al. 2020, theorem 1).
    """
    s_x = MAP @ MAP.T + NOISE**2 * torch.eye(3, dtype=torch.float64)
    # Scaling iterations on precisions: q(z | x) has precision P and slope P^-1 A' / gamma.
    precision = torch.eye(2, dtype=torch.float64)
    for _ in range(5000):
        inverse = torch.linalg.inv(precision)
        aggregate = inverse + inverse @ MAP.T @ s_x @ MAP @ inverse / gamma**2
        # The aggregate must be the prior, N(0, 1): move the precision by what is missing.
        precision = precision + 0.05 * (aggregate - torch.eye(2, dtype=torch.float64))
    return torch.linalg.inv(precision)


@pytest.mark.parametrize("gamma", [0.12, 0.6])
def test_elsewhere_it_is_the_closed_form_of_entropic_transport_and_spread_grows_with_gamma(gamma: float) -> None:
    model, x = fitted(gamma)
    _, covariance = moments(model, x[:300])
    expected = entropic_gaussian(gamma)
    torch.testing.assert_close(covariance.diag().sqrt(), expected.diag().sqrt(), rtol=0.05, atol=0)
    _, bayes = exact(x, NOISE**2)
    assert ((covariance.diag() > bayes.diag()) == (gamma > NOISE**2)).all()


def test_the_aggregate_is_the_prior_and_without_the_potential_it_is_not() -> None:
    """Data in two heaps: kappa = p_Z leaves codes in two heaps, the potential spreads them to the prior."""
    model, x = fitted(NOISE**2, two_heaps=True)
    draws = Draws.seeded(4, dtype=torch.float64)
    n = len(x)
    reference = draws.normal(n, 2)

    def distance(*, with_potential: bool) -> float:
        drawn, _ = model.sample_posterior(x, draws, with_potential=with_potential)
        return float(mmd2(drawn[:, 0], reference, base=4.0))

    floor = max(abs(float(mmd2(draws.normal(n, 2), reference, base=4.0))) for _ in range(5))
    assert distance(with_potential=True) < 3 * floor
    assert distance(with_potential=False) > 10 * floor
    with torch.no_grad():
        assert model.dual_potential(reference).std() > 0.5  # flat where it need not do anything, see above


def test_small_gamma_is_the_nearest_code(well_specified: tuple[EVIA, Tensor]) -> None:
    """gamma -> 0: all mass on the candidate of least cost, the transport of the Wasserstein autoencoder."""
    model, x = well_specified
    proposed = model.propose(x[:50], Draws.seeded(5, dtype=torch.float64), prior_draws=500)
    with torch.no_grad():
        costs = model.costs(x[:50], proposed.codes)
        q = model.log_posterior(costs, proposed, 1e-6).exp()
    assert (q.argmax(dim=-1) == costs.argmin(dim=-1)).all()
    assert q.amax(dim=-1).min() > 0.99


def test_proposals_near_the_codes_are_weighted_out_again(well_specified: tuple[EVIA, Tensor]) -> None:
    """Expectations under the prior do not depend on where candidates were proposed."""
    model, x = well_specified
    proposed = model.propose(x, Draws.seeded(6, dtype=torch.float64), prior_draws=4000, local_draws=4)
    weights = proposed.log_weights.softmax(dim=-1)
    assert len(weights) == 4000 + 4 * len(x)
    second = torch.einsum("m,mi,mj->ij", weights, proposed.codes, proposed.codes)
    torch.testing.assert_close(second, torch.eye(2, dtype=torch.float64), rtol=0, atol=0.1)
    unweighted = proposed.codes.T @ proposed.codes / len(weights)
    assert (second - torch.eye(2)).norm() < (unweighted - torch.eye(2)).norm()


def test_the_semi_dual_ascends_to_equal_marginals() -> None:
    """Its gradient at a candidate is the prior's mass minus the aggregate's, by finite differences."""
    model = evia(0.3)
    draws = Draws.seeded(7, dtype=torch.float64)
    x, z = draws.normal(20, 3), draws.normal(30, 2)
    candidates = Candidates(z, draws.normal(30) * 0.3)
    costs = model.costs(x, z)
    b = torch.zeros(30, dtype=torch.float64, requires_grad=True)
    model.dual_potential = lambda codes: b  # type: ignore[method-assign]
    value = model.semi_dual(costs, candidates, 0.3)
    (gradient,) = torch.autograd.grad(value, b)
    prior = candidates.log_weights.softmax(dim=-1)
    aggregate = model.log_posterior(costs, candidates, 0.3).exp().mean(dim=-2)
    torch.testing.assert_close(gradient, (prior - aggregate).detach())
    assert gradient.sum().abs() < 1e-12


def test_the_temperature_comes_down_to_its_own() -> None:
    model = evia(0.3)
    costs = torch.full((4, 5), 8.0, dtype=torch.float64)
    readings = [float(model.annealed(costs, f)) for f in (0.0, 0.25, 0.5, 1.0)]
    assert readings[0] == pytest.approx(2.0)
    assert readings[1] == pytest.approx(math.sqrt(2.0 * 0.3))
    assert readings[2] == readings[3] == pytest.approx(0.3)
