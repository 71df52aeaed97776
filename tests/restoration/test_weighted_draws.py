"""Draws given one half, weighted by the other: exact on a phantom of eight-dimensional codes, and seamless."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from cryoaae.physics.fourier import irfft, rfft
from cryoaae.physics.resample import band_limit
from cryoaae.physics.wedge import MissingWedge
from cryoaae.restoration.half_likelihood import HalfLikelihood
from cryoaae.restoration.weighted_draws import Weighted, sizes_by_other_half, weigh
from cryoaae.sampling.importance import Weights
from cryoaae.sampling.places import Places

CELL, CELLS, CODE = 8, 2, 8
EDGE = CELL * CELLS
NOISE, CANDIDATES = 3.0, 1500


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Phantom:
    """Cells whose structure is a linear map of an eight-dimensional code, seen through a wedge with white noise.

    Linear and Gaussian, so that posteriors given one half and given both are known: of all codes at once, for the
    wedge ties cells together.
    """

    def __init__(self) -> None:
        g, count = seeded(0), CELLS**3 * CODE
        self.decoder = torch.zeros(count, EDGE, EDGE, EDGE)
        patterns = band_limit(torch.randn(count, CELL, CELL, CELL, generator=g), 0.2, 0.3)
        for index, pattern in enumerate(patterns):
            cell = index // CODE
            z, y, x = (CELL * (cell // CELLS**axis % CELLS) for axis in (2, 1, 0))
            self.decoder[index, z : z + CELL, y : y + CELL, x : x + CELL] = pattern
        self.wedge = MissingWedge((-60.0, 60.0))
        support = self.wedge.solid().support((EDGE,) * 3)
        flat = torch.full(support.shape, NOISE**2)
        self.likelihood = HalfLikelihood(support, flat, torch.ones_like(flat))
        self.white = lambda volume: self.likelihood.white(volume)
        seen = torch.stack([self.white(part) for part in self.decoder]).flatten(1).double()
        self.precision, self.seen = seen @ seen.T, seen
        code = torch.randn(count, generator=g)
        self.truth = self.decoded(code)
        self.halves = [
            self.wedge.measured(self.truth + NOISE * torch.randn(EDGE, EDGE, EDGE, generator=g)) for _ in "eo"
        ]

    def decoded(self, codes: Tensor) -> Tensor:
        return torch.einsum("...c,czyx->...zyx", codes.float(), self.decoder)

    def posterior(self, *halves: int) -> tuple[Tensor, Tensor]:
        """Mean (codes,) and covariance of the codes given some halves."""
        told = sum(self.seen @ self.white(self.halves[half]).flatten().double() for half in halves)
        precision = torch.eye(len(self.precision), dtype=torch.float64) + len(halves) * self.precision
        covariance = torch.linalg.inv(precision)
        assert isinstance(told, Tensor)
        return covariance @ told, covariance

    def deviations(self, *halves: int) -> tuple[Tensor, Tensor]:
        """Mean volume, and draws about it, (m, z, y, x)."""
        mean, covariance = self.posterior(*halves)
        root = torch.linalg.cholesky(covariance)
        draws = torch.randn(CANDIDATES, len(mean), generator=seeded(1), dtype=torch.float64) @ root.T
        return self.decoded(mean), self.decoded(draws)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return Phantom()


@cache
def weighed(phantom: Phantom, by: int) -> tuple[Tensor, Weighted]:
    """Draws given half 0, weighed by half `by`, in places the size of a cell."""
    mean, draws = phantom.deviations(0)
    residual = phantom.white(phantom.halves[by]) - phantom.white(mean)
    return mean, weigh(draws, phantom.white, residual, Places((EDGE,) * 3, CELL, CELL))


def test_most_places_of_a_phantom_of_eight_dimensional_codes_pass(phantom: Phantom) -> None:
    """And their weighted means and spreads are those of the posterior given both halves."""
    mean, found = weighed(phantom, by=1)
    weights = found.weights
    passing = weights.calibrated & (weights.ess >= 50)
    assert float(passing.float().mean()) >= 0.5, weights.message
    even, (both, exact) = phantom.deviations(0)[0], phantom.deviations(0, 1)
    first, second = found.moments()
    before, after = ((volume - both).square().mean().sqrt() for volume in (even, mean + first))
    assert float(after) < 0.45 * float(before)
    spread = (second - first.square()).sum() / exact.square().mean(dim=0).sum()
    assert float(spread) == pytest.approx(1.0, abs=0.12)


def test_the_same_half_twice_is_found_out(phantom: Phantom) -> None:
    """Draws weighed by what they were drawn from pass the gate, keep to its noise, and are too narrow for its error."""
    errors = []
    for by in (1, 0):
        mean, found = weighed(phantom, by)
        first, second = found.moments()
        stated = (second - first.square()).sum().sqrt()
        errors.append(float(stated / (mean + first - phantom.truth).square().sum().sqrt()))
        assert bool((found.weights.ess > 30).all())
    honest, twice = errors
    assert 0.8 < honest < 1.2
    assert twice < 0.9 * honest


# -- draws --------------------------------------------------------------------------------------------


def with_weights(weights: Tensor, fallen: Tensor | None = None, candidates: int = 6) -> Weighted:
    places = Places((12, 12, 12), 4, 2)
    draws = torch.randn(candidates, 12, 12, 12, generator=seeded(3))
    count = len(places)
    rows = (weights.expand(count, -1) if weights.dim() == 1 else weights).double()
    nothing = torch.zeros(count, dtype=torch.bool)
    ones = torch.ones(count, dtype=torch.float64)
    return Weighted(places, draws, Weights(rows, ones, ones, ones, nothing if fallen is None else fallen))


def test_where_weights_agree_a_draw_is_one_candidate_whole() -> None:
    made = with_weights(torch.full((12,), 1 / 12))
    own = torch.zeros(12, 12, 12)
    draw = made.draw(own, generator=seeded(4))
    found = [index for index in range(12) if torch.allclose(draw, made.candidate(index), atol=1e-5)]
    assert len(found) == 1
    assert torch.equal(made.candidate(1), -made.candidate(7)), "either sign counts"


def test_where_all_fell_back_a_draw_is_the_samplers_own() -> None:
    fallen = torch.ones(5**3, dtype=torch.bool)
    made = with_weights(torch.full((12,), 1 / 12), fallen)
    own = torch.randn(12, 12, 12, generator=seeded(5))
    torch.testing.assert_close(made.draw(own, generator=seeded(6)), own)
    assert float(made.moments()[1].max()) == 0


def test_draws_have_the_blended_moments_without_seams() -> None:
    weights = (2 * torch.randn(5**3, 400, generator=seeded(7))).softmax(dim=1)
    made = with_weights(weights, candidates=200)
    own, generator = torch.zeros(12, 12, 12), seeded(8)
    draws = torch.stack([made.draw(own, generator=generator) for _ in range(150)])
    first, second = made.moments()
    variance = second - first.square()
    error = (draws.mean(dim=0) - first) / (variance / len(draws)).sqrt()
    assert float(error.square().mean()) < 1.4
    relative = draws.var(dim=0) / variance
    assert float(relative.mean()) == pytest.approx(1.0, abs=0.06)
    # Along an axis patches meet every second voxel: the spread is the same there.
    profile = relative.mean(dim=(1, 2))
    assert float(profile.std()) < 0.08
    plain = made.places.blended(torch.ones(5**3))
    torch.testing.assert_close(plain, torch.ones(12, 12, 12))


def test_the_other_half_brings_draws_to_the_size_of_the_error(phantom: Phantom) -> None:
    likelihood = replace(phantom.likelihood, signal=torch.ones_like(phantom.likelihood.signal))
    g, shape = seeded(9), (EDGE,) * 3
    error = torch.stack([torch.randn(shape, generator=g) for _ in range(30)])
    residual = error[0] + NOISE * torch.randn(shape, generator=g)
    drawn = torch.stack([rfft(3 * e).abs().square() for e in error[1:]]).mean(dim=0)
    gain = sizes_by_other_half(likelihood, residual, drawn)
    told = gain[likelihood.support & (gain != 1)]
    assert float(told.log().mean().exp()) == pytest.approx(1 / 3, rel=0.1)
    assert float((gain[~likelihood.support] - 1).abs().max()) == 0
    assert math.isfinite(float(irfft(gain + 0j, shape).sum()))
