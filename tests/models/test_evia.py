"""EVIA: exact posteriors where they are known, an aggregate that is the prior, and its limits."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import ot
import pytest
import torch
from torch import Tensor, nn

from cryoaae.divergences.mmd import mmd2
from cryoaae.divergences.sinkhorn import potentials
from cryoaae.draws import Draws
from cryoaae.models.autoencoder import Objective
from cryoaae.models.candidates import Candidates
from cryoaae.models.evia import EVIA
from cryoaae.models.image_batch import ImageBatch
from cryoaae.nets.encoders import Encoder
from cryoaae.nets.stacked import MLP, initialise
from cryoaae.priors.gaussian import Gaussian

NOISE, STEPS, BATCH = 0.5, 500, 128
# Codes of 2 numbers are seen through these 3 x 2 numbers.
MAP = torch.tensor([[1.0, 0.3], [-0.4, 0.8], [0.2, -0.5]], dtype=torch.float64)
# Colder than the noise, as the noise (where the posterior is that of Bayes), hotter.
GAMMAS = (0.12, NOISE**2, 0.6)
READINGS, CANDIDATES = 10, 512


class Linear(nn.Module):
    """Decoder x = A z."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)

    def forward(self, z: Tensor, draws: Draws | None = None) -> Tensor:
        return z @ self.matrix.T


def evia(gamma: float, seed: int = 0, decoder: nn.Module | None = None) -> EVIA:
    """A model whose decoder is known and fixed, unless one is given: posterior and potential are what is fitted."""
    draws = Draws.seeded(seed, dtype=torch.float64)
    encoder = Encoder(MLP(3, [32]), 2).double()
    potential = MLP(2, [32, 32], 1, activation="softplus").double()
    shown = Linear(MAP) if decoder is None else decoder
    model = EVIA(encoder, shown, potential, Gaussian(2), Objective("squared"), gamma=gamma, linear=True)
    initialise(model, draws)
    return model


def data(n: int, draws: Draws, *, two_heaps: bool = False) -> Tensor:
    """x = A z + noise, z normal or in two heaps."""
    z = draws.normal(n, 2)
    if two_heaps:
        z = torch.tensor([1.5, 0.0]) * z[:, :1].sign() + 0.3 * z
    return z @ MAP.T + NOISE * draws.normal(n, 3)


def fitted(
    gamma: float, *, two_heaps: bool = False, decoder: nn.Module | None = None, steps: int = STEPS
) -> tuple[EVIA, Tensor]:
    """Fit on the data and return the model and further data of the same law."""
    model, draws = evia(gamma, decoder=decoder), Draws.seeded(1, dtype=torch.float64)
    (phase,) = model.phases()
    optimiser = torch.optim.Adam(phase.parameters, lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        batch = ImageBatch(data(BATCH, draws, two_heaps=two_heaps), draws, fraction=step / steps)
        terms = phase.losses(batch)
        optimiser.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimiser.step()
        schedule.step()
    model.eval().fit_potential(data(8000, draws, two_heaps=two_heaps), draws, candidates=CANDIDATES)
    return model, data(1000, draws, two_heaps=two_heaps)


@pytest.fixture(scope="module")
def by_gamma() -> dict[float, tuple[EVIA, Tensor]]:
    return {gamma: fitted(gamma) for gamma in GAMMAS}


@pytest.fixture(scope="module")
def well_specified(by_gamma: dict[float, tuple[EVIA, Tensor]]) -> tuple[EVIA, Tensor]:
    return by_gamma[NOISE**2]


@pytest.fixture(scope="module")
def spread_by_gamma(by_gamma: dict[float, tuple[EVIA, Tensor]]) -> dict[float, tuple[Tensor, Tensor]]:
    """Posterior mean (200, 2) and mean covariance (2, 2)."""
    return {gamma: moments(model, x[:200]) for gamma, (model, x) in by_gamma.items()}


def moments(model: EVIA, x: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior mean (n, 2) and mean covariance (2, 2), from many draws."""
    drawn, _ = model.sample_posterior(
        x, Draws.seeded(2, dtype=torch.float64), count=2000, candidates=8192, local_draws=8
    )
    mean = drawn.mean(dim=1)
    apart = drawn - mean[:, None]
    return mean, torch.einsum("nki,nkj->ij", apart, apart) / (apart.shape[0] * (apart.shape[1] - 1))


def square_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.sqrt()) @ vectors.T


def entropic(gamma: float) -> tuple[Tensor, Tensor]:
    """Slope (2, 3) and covariance (2, 2) of q(z | x) in the entropic plan of N(0, S) and N(0, 1), S = A A' + noise.

    Both potentials are quadratic, so q(z | x) = N(V A' x / gamma, V); that its aggregate is N(0, 1) says
    V + V M V = 1 with M = A' S A / gamma^2, so V commutes with M and V = 2 / (1 + sqrt(1 + 4 M))
    (Janati et al. 2020, theorem 1, for this cost).
    """
    identity = torch.eye(2, dtype=torch.float64)
    s = MAP @ MAP.T + NOISE**2 * torch.eye(3, dtype=torch.float64)
    v = 2 * torch.linalg.inv(identity + square_root(identity + 4 * MAP.T @ s @ MAP / gamma**2))
    return v @ MAP.T / gamma, v


def bayes() -> tuple[Tensor, Tensor]:
    """Slope and covariance of the posterior of z ~ N(0, 1) seen as A z + noise."""
    covariance = torch.linalg.inv(torch.eye(2, dtype=torch.float64) + MAP.T @ MAP / NOISE**2)
    return covariance @ MAP.T / NOISE**2, covariance


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())


def test_where_gamma_is_the_noise_the_closed_form_is_bayes() -> None:
    for ours, theirs in zip(entropic(NOISE**2), bayes(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_mean_and_spread_are_those_of_entropic_transport_within_five_percent(
    gamma: float, by_gamma: dict[float, tuple[EVIA, Tensor]], spread_by_gamma: dict[float, tuple[Tensor, Tensor]]
) -> None:
    """At gamma = noise: Bayes' posterior. Elsewhere the potential must do its part, or the means are wrong."""
    mean, covariance = spread_by_gamma[gamma]
    slope, expected = entropic(gamma)
    assert relative_error(mean, by_gamma[gamma][1][:200] @ slope.T) < 0.05
    torch.testing.assert_close(covariance.diag().sqrt(), expected.diag().sqrt(), rtol=0.05, atol=0)
    assert abs(covariance[0, 1] - expected[0, 1]) < 0.05 * expected.diag().prod().sqrt()


def test_spread_grows_with_gamma(spread_by_gamma: dict[float, tuple[Tensor, Tensor]]) -> None:
    spreads = torch.stack([covariance.diag() for _, covariance in spread_by_gamma.values()])
    assert (spreads.diff(dim=0) > 0).all()


def test_a_potential_for_a_well_specified_decoder_is_flat(well_specified: tuple[EVIA, Tensor]) -> None:
    model, _ = well_specified
    z = Draws.seeded(3, dtype=torch.float64).normal(500, 2)
    with torch.no_grad():
        assert model.dual_potential(z).std() < 0.1


def test_the_encoder_is_the_barycentre(well_specified: tuple[EVIA, Tensor]) -> None:
    model, x = well_specified
    with torch.no_grad():
        assert relative_error(model.encoder(x).style, x @ entropic(NOISE**2)[0].T) < 0.1


def aggregate_mmd2(model: EVIA, x: Tensor, *, with_potential: bool = True) -> float:
    """Unbiased MMD^2 between one draw from each posterior and the prior, mean over draws of both."""
    draws = Draws.seeded(4, dtype=torch.float64)
    drawn, _ = model.sample_posterior(
        x, draws, count=READINGS, candidates=8192, local_draws=0, with_potential=with_potential
    )
    read = [mmd2(drawn[:, k], draws.normal(len(x), 2), base=4.0) for k in range(READINGS)]
    return float(torch.stack(read).mean())


@pytest.fixture(scope="module")
def floor() -> float:
    """Standard deviation of one MMD^2 between two clouds of 1000 draws of the prior."""
    draws = Draws.seeded(5, dtype=torch.float64)
    return float(torch.stack([mmd2(draws.normal(1000, 2), draws.normal(1000, 2), base=4.0) for _ in range(30)]).std())


@pytest.fixture(scope="module")
def heaps() -> tuple[EVIA, Tensor]:
    """Data in two heaps for a decoder that is not theirs."""
    return fitted(NOISE**2, two_heaps=True)


def test_the_aggregate_is_the_prior_and_with_kappa_one_it_is_not(heaps: tuple[EVIA, Tensor], floor: float) -> None:
    """kappa = p_Z leaves the codes in two heaps, the potential spreads them to the prior."""
    model, x = heaps
    assert aggregate_mmd2(model, x) < 2 * floor
    assert aggregate_mmd2(model, x, with_potential=False) > 20 * floor
    with torch.no_grad():
        z = Draws.seeded(3, dtype=torch.float64).normal(500, 2)
        assert model.dual_potential(z).std() > 0.5  # flat where it need not do anything, see above


def test_a_free_decoder_makes_the_potential_superfluous(heaps: tuple[EVIA, Tensor], floor: float) -> None:
    """The same data, the decoder fitted too: the aggregate is the prior with kappa = p_Z as well."""
    decoder = MLP(2, [32, 32], 3, activation="tanh").double()
    model, x = fitted(NOISE**2, two_heaps=True, decoder=decoder, steps=1500)
    assert aggregate_mmd2(model, x) < 3 * floor
    assert aggregate_mmd2(model, x, with_potential=False) < 3 * floor


def test_a_potential_can_be_fitted_to_data_of_another_law(well_specified: tuple[EVIA, Tensor], floor: float) -> None:
    """Fitted on one heap's data with the decoder kept, it makes the prior of them what it was of all."""
    model = copy.deepcopy(well_specified[0])
    draws = Draws.seeded(6, dtype=torch.float64)
    x = data(8000, draws, two_heaps=True)
    assert aggregate_mmd2(model, x[:1000]) > 20 * floor
    before = [p.clone() for p in (*model.encoder.parameters(), *model.decoder.buffers())]
    model.fit_potential(x[1000:], draws, candidates=CANDIDATES)
    assert aggregate_mmd2(model, x[:1000]) < 3 * floor
    assert all(map(torch.equal, before, (*model.encoder.parameters(), *model.decoder.buffers())))


def test_gamma_to_zero_is_exact_transport() -> None:
    """On two clouds of points: the plan is that of POT's simplex solver, and its cost comes down to the exact one."""
    draws, model, n = Draws.seeded(8, dtype=torch.float64), evia(1.0), 40
    x, z = data(n, draws), draws.normal(n, 2)
    candidates, costs = Candidates(z, z.new_zeros(n)), model.costs(x, z)
    weights = np.full(n, 1 / n)
    exact = torch.from_numpy(ot.emd(weights, weights, costs.numpy()))
    above = []
    for gamma in (1.0, 0.1, 0.01, 0.003):
        _, b = potentials(costs, gamma, tolerance=1e-2, iterations=20_000)
        model.dual_potential = lambda codes, b=b, gamma=gamma: b / gamma  # type: ignore[method-assign, misc]
        plan = model.log_posterior(costs, candidates, gamma).exp() / n
        torch.testing.assert_close(plan.sum(dim=0), torch.full((n,), 1 / n).double(), rtol=0.01, atol=0)
        above.append(float((plan * costs).sum() - (exact * costs).sum()))
    # Columns are the prior's within one percent, so the cost may be below the exact one by as much.
    assert all(abs(a) > abs(b) for a, b in itertools.pairwise(above))
    assert abs(above[-1]) < 2e-3
    assert plan[exact > 0].sum() > 0.9


def test_gamma_to_zero_is_the_wasserstein_autoencoder() -> None:
    """Its optimum among encoders whose codes have the prior's law: the Monge map (A' S A)^-1/2 A' x of the closed
    form, and the Wasserstein distance |W|_2^2 / 2 between the data and the decoded prior."""
    s = MAP @ MAP.T + NOISE**2 * torch.eye(3, dtype=torch.float64)
    root = square_root(MAP.T @ s @ MAP)
    monge = torch.linalg.inv(root) @ MAP.T
    slope, covariance = entropic(1e-6)
    torch.testing.assert_close(slope, monge, rtol=1e-4, atol=1e-6)
    assert covariance.diag().max() < 1e-5
    model, x = fitted(0.03)
    with torch.no_grad():
        z = model.encoder(x).style
        cost = 0.5 * (x - model.decode(z)).square().sum(dim=-1).mean()
    assert relative_error(z, x @ monge.T) < 0.05
    torch.testing.assert_close(z.std(dim=0), torch.ones(2, dtype=torch.float64), rtol=0.05, atol=0)
    wasserstein = 0.5 * (s.trace() + MAP.square().sum()) - root.trace()
    torch.testing.assert_close(cost, wasserstein, rtol=0.1, atol=0)  # 1000 x: +- 0.04


def test_large_gamma_forgets_the_data(well_specified: tuple[EVIA, Tensor]) -> None:
    """The barycentre comes to the prior's mean, whatever x."""
    model, x = well_specified
    proposed = model.propose(x[:50], Draws.seeded(5, dtype=torch.float64), prior_draws=4000)
    with torch.no_grad():
        q = model.log_posterior(model.costs(x[:50], proposed.codes), proposed, 1e6, with_potential=False).exp()
    assert (q @ proposed.codes).abs().max() < 0.1


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
