"""Entropic transport against closed forms, POT and its own optimality."""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from cryoaae.divergences.clouds import squared_distances
from cryoaae.divergences.divergence import Codes
from cryoaae.divergences.sinkhorn import Sinkhorn, coupling, entropic_plan, potentials
from cryoaae.priors.gaussian import Gaussian


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cloud(n: int, mean: Tensor, covariance: Tensor, seed: int) -> Tensor:
    """Normal points whose mean and covariance are exact, so that only their shape has a sampling error."""
    x = normal(n, len(mean), seed=seed)
    x = x - x.mean(dim=0)
    own = torch.linalg.cholesky(x.T @ x / n)
    return mean + torch.linalg.solve_triangular(own, x.T, upper=False).T @ torch.linalg.cholesky(covariance).T


def entropic_gaussians(m: Tensor, a: Tensor, k: Tensor, b: Tensor, gamma: float) -> float:
    """OT of N(m, a) and N(k, b) at cost |x - y|^2 / 2 + gamma KL: half of Janati et al. 2020, theorem 1."""
    root, one = torch.tensor(sqrtm(a.numpy())), torch.eye(len(m), dtype=torch.float64)
    d = torch.tensor(sqrtm((4 * root @ b @ root + gamma**2 * one).numpy()))
    log_det = float(torch.linalg.slogdet(d + gamma * one)[1])
    bures = float(a.trace() + b.trace() - d.trace()) + len(m) * gamma * (1 - math.log(2 * gamma)) + gamma * log_det
    return float((m - k).square().sum() + bures) / 2


@pytest.mark.parametrize("gamma", [0.2, 2.0])
def test_gaussians(gamma: float) -> None:
    m, k = torch.tensor([0.0, 0.0], dtype=torch.float64), torch.tensor([0.5, -1.0], dtype=torch.float64)
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    b = torch.tensor([[3.0, 0.8], [0.8, 0.5]], dtype=torch.float64)
    exact = entropic_gaussians(m, a, k, b, gamma)
    debiased = exact - entropic_gaussians(m, a, m, a, gamma) / 2 - entropic_gaussians(k, b, k, b, gamma) / 2
    x, y = cloud(500, m, a, seed=1), cloud(500, k, b, seed=2)
    assert float(Sinkhorn(Gaussian(2), gamma=gamma)(Codes(x), Codes(y))) == pytest.approx(debiased, rel=0.02)
    first, second, _ = entropic_plan(x, y, gamma)
    assert float(first.mean() + second.mean()) == pytest.approx(exact, rel=0.02)


def test_diracs() -> None:
    x, y = torch.tensor([[1.0, 2.0]], dtype=torch.float64), torch.tensor([[4.0, -2.0]], dtype=torch.float64)
    assert float(Sinkhorn(Gaussian(2))(Codes(x), Codes(y))) == pytest.approx(12.5, rel=1e-12)


@pytest.mark.parametrize("far", [10.0, 1e4])
def test_a_shift_costs_half_its_square(far: float) -> None:
    """However far, against a cloud of equal shape: the temperatures need not start there."""
    x = normal(30, 3, seed=1)
    shift = torch.tensor([0.6, 0.0, -0.8], dtype=torch.float64) * far
    assert float(Sinkhorn(Gaussian(3))(Codes(x + shift), Codes(x))) == pytest.approx(far**2 / 2, rel=1e-9)


def test_temperature_is_in_units_of_the_prior() -> None:
    """Hot, only the means count; and hot is measured in the prior's scale."""
    x, y = normal(200, 2, seed=1), 3 * normal(200, 2, seed=2) + 1
    between_means = float((x.mean(dim=0) - y.mean(dim=0)).square().sum()) / 2
    hot = float(Sinkhorn(Gaussian(2, std=20.0), gamma=50.0)(Codes(x), Codes(y)))
    mild = float(Sinkhorn(Gaussian(2, std=0.1), gamma=50.0)(Codes(x), Codes(y)))
    assert hot == pytest.approx(between_means, rel=0.01)
    assert mild > 2 * between_means


def test_divergence_and_its_gradient_are_those_of_the_potentials() -> None:
    """Two solvers of one problem; the gradient at x_i is (bary_xx(x_i) - bary_xy(x_i)) / n."""
    x, y, gamma = normal(30, 2, seed=1).requires_grad_(), 1.5 * normal(20, 2, seed=2) + 0.5, 1.0
    value = Sinkhorn(Gaussian(2), gamma=gamma, scaling=0.98)(Codes(x), Codes(y))
    (gradient,) = torch.autograd.grad(value, x)
    x = x.detach()
    plans = {k: entropic_plan(u, v, gamma, tolerance=1e-9) for k, u, v in (("xy", x, y), ("xx", x, x), ("yy", y, y))}
    cost = {k: float(a.mean() + b.mean()) for k, (a, b, _) in plans.items()}
    assert float(value.detach()) == pytest.approx(cost["xy"] - (cost["xx"] + cost["yy"]) / 2, rel=1e-3)
    exact = plans["xx"][2] @ x - plans["xy"][2] @ y
    assert torch.linalg.vector_norm(gradient - exact) < 0.02 * torch.linalg.vector_norm(exact)


@pytest.mark.parametrize("gamma", [0.1, 1.0])
def test_coupling_is_that_of_pot(gamma: float) -> None:
    x, y = normal(14, 3, seed=1), normal(9, 3, seed=2) + 0.5
    cost = squared_distances(x, y) / 2
    _, _, plan = entropic_plan(x, y, gamma, tolerance=1e-8, iterations=5000)
    weights = [np.full(n, 1 / n) for n in (14, 9)]
    expected = ot.bregman.sinkhorn_log(*weights, cost.numpy(), gamma, numItermax=20_000, stopThr=1e-12)
    np.testing.assert_allclose(plan.numpy(), expected, rtol=0, atol=1e-5 / (14 * 9))


@pytest.mark.parametrize("gamma", [0.05, 0.5, 5.0])
def test_marginals(gamma: float) -> None:
    x, y = normal(4, 14, 2, seed=1), 2 * normal(4, 9, 2, seed=2) + 0.5
    _, _, plan = entropic_plan(x, y, gamma, iterations=20_000)
    assert (14 * plan.sum(dim=-1) - 1).abs().max() < 1e-6
    assert (9 * plan.sum(dim=-2) - 1).abs().max() < 1e-6


def test_a_batch_is_solved_as_each_alone() -> None:
    """One problem needs hundreds of iterations, one a few."""
    size = torch.tensor([1e-3, 1.0, 30.0])[:, None, None]
    cost = squared_distances(normal(3, 8, 2, seed=1), normal(3, 6, 2, seed=2)) * size
    a, b = potentials(cost, 0.2, iterations=20_000)
    for i in range(3):
        alone = potentials(cost[i], 0.2, iterations=20_000)
        assert torch.equal(a[i], alone[0])
        assert torch.equal(b[i], alone[1])


def test_cold_plan_is_the_assignment() -> None:
    cost, gamma = squared_distances(normal(8, 2, seed=1), normal(8, 2, seed=2)) / 2, 0.003
    a, b = potentials(cost, gamma, tolerance=1e-3, iterations=20_000)
    plan = coupling(a, b, cost, gamma)
    rows, columns = linear_sum_assignment(cost.numpy())
    assert (8 * plan[rows, columns]).min() > 0.95
    assert float(a.mean() + b.mean()) == pytest.approx(float(cost[rows, columns].mean()), abs=gamma * math.log(8))


def test_hot_plan_is_independent() -> None:
    _, _, plan = entropic_plan(normal(8, 2, seed=1), normal(5, 2, seed=2), 1e5)
    assert torch.allclose(plan, torch.full_like(plan, 1 / 40), rtol=1e-3)


def test_potentials_in_single_precision_stop_at_its_rounding() -> None:
    cost = squared_distances(normal(30, 2, seed=1), normal(20, 2, seed=2))
    a, b = potentials(cost.float(), 0.1, iterations=3000)
    assert (30 * coupling(a, b, cost.float(), 0.1).sum(dim=-1) - 1).abs().max() < 1e-3


def test_too_few_iterations_are_told() -> None:
    cost = squared_distances(normal(8, 2, seed=1), normal(6, 2, seed=2))
    with pytest.warns(RuntimeWarning, match="not converged after 20"):
        potentials(cost, 1e-3, iterations=20)


def test_temperatures_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="temperature"):
        potentials(torch.zeros(2, 2), 0.0)
    for wrong in ({"gamma": 0.0}, {"scaling": 1.0}, {"scaling": 0.0}):
        with pytest.raises(ValueError, match="must be"):
            Sinkhorn(Gaussian(2), **wrong)
