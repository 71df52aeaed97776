"""Weighted candidates reproduce the closed form in few dimensions, and say when they do not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cryoaae.sampling.importance import (
    Weights,
    boltzmann_weights,
    gated_weights,
    resampled,
    squared_cost,
    weighted_moments,
)
from cryoaae.sampling.oracle import LinearGaussian, Oracle

PLACES, CANDIDATES = 8, 20000


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blocks(oracle: Oracle, size: int, count: int, *, seed: int) -> list[Tensor]:
    """Blocks that hold missing coordinates and the measured ones that tell most of them."""
    model = oracle.model
    strength = model.gain.abs() * model.data_covariance.diagonal().sqrt()
    missing = torch.nonzero(~model.measured).flatten()
    first = missing[torch.randperm(len(missing), generator=seeded(seed))[: count * (size // 2)]].reshape(count, -1)
    return [torch.cat([m, strength[m].sum(dim=0).topk(size - len(m)).indices]) for m in first]


def other_half(oracle: Oracle, block: Tensor, *, seed: int) -> tuple[Tensor, Tensor, LinearGaussian, Tensor]:
    """Candidates given the even half, costs of the odd one, and the exact posterior from both in a block."""
    model, g = oracle.model, seeded(seed)
    truth = model.truths(PLACES, generator=g)
    even, odd = (model.measure(truth, generator=g) for _ in range(2))
    candidates = model.draws(even, CANDIDATES, generator=g)[..., block]
    given = LinearGaussian(
        model.posterior_covariance[block][:, block], model.noise_power[block], model.measured[block]
    )
    centre = model.mean(even)[:, block]
    mean = centre + given.mean((odd[:, block] - centre) * given.measured)
    return candidates, squared_cost(candidates, odd[:, block], given.noise_power, given.measured), given, mean


def mean_square_z(found: Tensor, mean: Tensor, exact: LinearGaussian, weights: Weights) -> float:
    error = (exact.posterior_covariance.diagonal() / weights.ess[:, None]).sqrt()
    return float(((found - mean) / error).square().mean())


@pytest.mark.parametrize("size", [4, 8])
def test_draws_given_one_half_weighted_by_the_other_are_exact_in_small_blocks(cube: Oracle, size: int) -> None:
    for seed, block in enumerate(blocks(cube, size, 2, seed=0)):
        candidates, costs, exact, mean = other_half(cube, block, seed=10 + seed)
        weights = boltzmann_weights(costs)
        assert float(weights.ess.min()) >= 100
        assert float(weights.khat.max()) < 0.7
        found, variance = weighted_moments(candidates, weights.weights)
        assert mean_square_z(found, mean, exact, weights) < 1.6
        relative = variance / exact.posterior_covariance.diagonal()  # of each place: their scatter is the error bar
        error = relative.std(dim=0) / math.sqrt(PLACES)
        assert float(((relative.mean(dim=0) - 1) / error).abs().max()) < 6
        assert float(error.max()) < 0.04


def test_the_same_half_twice_is_too_narrow_and_found_out(cube: Oracle) -> None:
    """Weighting draws by the y they were drawn from counts the data twice: std lower by sqrt((1 + s) / (1 + 2 s))."""
    model, g, block = cube.model, seeded(3), torch.nonzero(cube.model.measured).flatten()[:6]
    even = model.measure(model.truths(PLACES, generator=g), generator=g)
    candidates = model.draws(even, CANDIDATES, generator=g)[..., block]
    costs = squared_cost(candidates, even[:, block], model.noise_power[block], model.measured[block])
    variance = weighted_moments(candidates, boltzmann_weights(costs).weights)[1].mean(dim=0)
    assert float((variance / model.posterior_covariance.diagonal()[block]).max()) < 0.9


def test_candidates_from_the_prior_are_exact_where_they_suffice(cube: Oracle) -> None:
    block = blocks(cube, 4, 1, seed=4)[0]
    small, g = cube.model.block(block), seeded(5)
    y = small.measure(small.truths(PLACES, generator=g), generator=g)
    candidates = small.truths(CANDIDATES, generator=g)
    weights = boltzmann_weights(squared_cost(candidates, y, small.noise_power, small.measured))
    assert float(weights.ess.min()) >= 100
    found, variance = weighted_moments(candidates, weights.weights)
    assert mean_square_z(found, small.mean(y), small, weights) < 1.6
    missing = ~small.measured
    assert float(small.mean(y)[:, missing].square().mean()) > 0.05, "the wedge's mean is not zero"
    drawn = resampled(candidates, weights.weights, 4000, generator=g)
    torch.testing.assert_close(drawn.mean(dim=1), found, atol=0.15, rtol=0.0)
    torch.testing.assert_close(drawn.std(dim=1), variance.sqrt(), rtol=0.15, atol=0.0)


def test_in_many_dimensions_weights_collapse_and_the_gate_says_so(cube: Oracle) -> None:
    model, g = cube.model, seeded(6)
    y = model.measure(model.truths(PLACES, generator=g), generator=g)
    candidates = model.truths(2000, generator=g)
    costs = squared_cost(candidates, y, model.noise_power, model.measured)
    assert float(boltzmann_weights(costs).ess.median()) < 5
    gated = gated_weights(costs, gamma_max=2.0)
    assert bool(gated.fallen_back.all())
    torch.testing.assert_close(gated.weights, torch.full_like(gated.weights, 1 / 2000))
    assert "8 fell back" in gated.message
    assert not bool(gated.calibrated.any())


def test_the_gate_widens_the_places_that_need_it_and_no_others(cube: Oracle) -> None:
    g = seeded(7)
    easy, hard = torch.rand(3, 1000, generator=g), 8 * torch.randn(3, 1000, generator=g)
    gated = gated_weights(torch.cat([easy, hard]).double(), gamma_max=50.0)
    assert gated.calibrated.tolist() == [True] * 3 + [False] * 3
    assert not bool(gated.fallen_back.any())
    assert float(gated.ess.min()) >= 30
    steps = gated.gamma[3:].log() / math.log(1.5)
    torch.testing.assert_close(steps, steps.round())
    assert "3 of 6 places calibrated" in gated.message
    assert "not calibrated" in gated.message
    # One step less wide would not have passed.
    tried = boltzmann_weights(hard.double(), gamma=gated.gamma[3:] / 1.5)
    assert bool(((tried.ess < 30) | (tried.khat > 0.7)).all())


def test_potential_and_temperature_enter_as_in_the_plan() -> None:
    g = seeded(8)
    costs, b = torch.rand(2, 500, generator=g, dtype=torch.float64), torch.rand(500, generator=g, dtype=torch.float64)
    found = boltzmann_weights(costs, gamma=0.8, potential=b)
    expected = ((b - costs) / 0.8).softmax(dim=-1)
    # Smoothing moves the largest weights a little where the tail is light.
    torch.testing.assert_close(found.weights, expected, rtol=0.25, atol=0.0)
    torch.testing.assert_close(found.weights.sum(dim=-1), torch.ones(2, dtype=torch.float64))
    wide = boltzmann_weights(costs, gamma=torch.tensor([0.8, 80.0]))
    assert float(wide.ess[1]) > float(wide.ess[0])
    with pytest.raises(ValueError, match="temperature"):
        boltzmann_weights(costs, gamma=0.0)
