"""The noise-matched energy score: smallest at the true law, unbiased, differentiable; functionals lose nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cryoaae.physics.fourier import irfft, radius, rfft
from cryoaae.physics.wedge import MissingWedge
from cryoaae.sampling.energy_score import BandPatches, energy_score, noise_matched_score

SHAPE = (8, 8, 8)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def expected_score(shift: float, spread: float, noise: float) -> float:
    """On a line, of N(shift, spread^2) draws with noise, for an outcome N(0, 1) with noise: closed form.

    E|X - Y| of a Gaussian difference is the mean of a folded normal; E|X - X'| = 2 s / sqrt(pi).
    """
    s, total = math.sqrt(spread**2 + noise**2), math.sqrt(spread**2 + 1 + 2 * noise**2)
    folded = total * math.sqrt(2 / math.pi) * math.exp(-(shift**2) / (2 * total**2))
    return folded + shift * math.erf(shift / (total * math.sqrt(2))) - s / math.sqrt(math.pi)


def simulated(shift: float, spread: float, noise: float, draws: int, n: int, *, seed: int = 0) -> Tensor:
    g = seeded(seed)
    x = shift + spread * torch.randn(draws, n, 1, generator=g, dtype=torch.float64)
    x = x + noise * torch.randn(x.shape, generator=g, dtype=torch.float64)
    truth, of_half = torch.randn(2, n, 1, generator=g, dtype=torch.float64)
    return energy_score(x, truth + noise * of_half)


@pytest.mark.parametrize("draws", [2, 3, 6])
@pytest.mark.parametrize(("shift", "spread", "noise"), [(0.0, 1.0, 0.0), (0.7, 0.5, 1.0), (0.0, 2.0, 0.5)])
def test_unbiased_for_every_number_of_draws(shift: float, spread: float, noise: float, draws: int) -> None:
    scores = simulated(shift, spread, noise, draws, 40000)
    error = float(scores.std()) / 200
    assert float(scores.mean()) == pytest.approx(expected_score(shift, spread, noise), abs=4.5 * error)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_smallest_at_the_true_mean_and_spread(noise: float) -> None:
    best = expected_score(0.0, 1.0, noise)
    for shift, spread in ((0.3, 1.0), (-0.3, 1.0), (0.0, 0.7), (0.0, 1.4), (0.3, 0.7)):
        assert expected_score(shift, spread, noise) > best + 1e-3
    # And measured, with the same random numbers for both.
    right, wide, narrow = (simulated(0.0, s, noise, 4, 60000) for s in (1.0, 1.5, 0.5))
    for wrong in (wide, narrow):
        gap = wrong - right
        assert float(gap.mean()) > 4 * float(gap.std()) / math.sqrt(len(gap))


def test_without_fresh_noise_a_spread_is_learnt_that_holds_the_noise() -> None:
    """Noisy outcomes want draws as wide as themselves: sqrt(1 + noise^2), not 1."""
    noise = 1.0
    g = seeded(1)
    y = math.sqrt(1 + noise**2) * torch.randn(40000, 1, generator=g, dtype=torch.float64)
    white = torch.randn(4, 40000, 1, generator=g, dtype=torch.float64)
    true, blown = (float(energy_score(s * white, y).mean()) for s in (1.0, math.sqrt(2.0)))
    assert blown < true - 0.01
    fresh = torch.randn(4, 40000, 1, generator=g, dtype=torch.float64)
    true, blown = (float(energy_score(s * white + noise * fresh, y).mean()) for s in (1.0, math.sqrt(2.0)))
    assert true < blown - 0.001


def test_the_joint_law_counts_not_the_marginals_alone() -> None:
    g = seeded(2)
    y = torch.randn(60000, 1, generator=g, dtype=torch.float64).expand(-1, 2)  # fully dependent
    joint = torch.randn(4, 60000, 1, generator=g, dtype=torch.float64).expand(-1, -1, 2)
    apart = torch.randn(4, 60000, 2, generator=g, dtype=torch.float64)
    assert float((energy_score(apart, y) - energy_score(joint, y)).mean()) > 0.02


def test_the_gradient_is_that_of_finite_differences() -> None:
    g = seeded(3)
    functionals = BandPatches((4, 4, 4), freq_edges=(0.2, 0.5), patch=2)
    draws, noise = (torch.randn(3, 2, 4, 4, 4, generator=g, dtype=torch.float64) for _ in "ab")
    target = torch.randn(2, 4, 4, 4, generator=g, dtype=torch.float64)
    support = MissingWedge().support((4, 4, 4))

    def score(x: Tensor) -> Tensor:
        return noise_matched_score(x, noise, target, functionals, support)

    assert torch.autograd.gradcheck(score, draws.requires_grad_())
    same = torch.zeros(2, 1, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    noise_matched_score(same, torch.zeros_like(same), torch.zeros(1, 4, 4, 4), functionals).sum().backward()
    assert bool(same.grad.isfinite().all()), "two draws alike have a gradient too"  # type: ignore[union-attr]


def test_one_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="two draws"):
        energy_score(torch.zeros(1, 4, 3), torch.zeros(4, 3))


# -- functionals ------------------------------------------------------------------------------------


def test_bands_add_up_and_patches_keep_every_voxel() -> None:
    functionals = BandPatches(SHAPE, freq_edges=(0.15, 0.3, 0.6), patch=4)
    x = torch.randn(2, *SHAPE, generator=seeded(4), dtype=torch.float64)
    found = functionals(x)
    assert found.shape == (2, 3 * 8, 64)
    whole = found.unflatten(1, (3, 8)).sum(dim=1)
    # All of the band below the last soft edge is there, once.
    low = irfft(rfft(x) * functionals.windows.sum(dim=0), SHAPE)
    torch.testing.assert_close(whole.square().sum(), low.square().sum())
    inside = radius(SHAPE) < 0.6 - 0.5 * 0.3 / 2
    torch.testing.assert_close(functionals.windows.sum(dim=0)[inside], torch.ones(int(inside.sum())).double())
    first = low[0, :4, :4, :4].flatten()
    torch.testing.assert_close(whole[0, 0], first)
    torch.testing.assert_close(whole[0, 1], low[0, :4, :4, 4:].flatten())
    torch.testing.assert_close(whole[0, 2], low[0, :4, 4:, :4].flatten())


def test_what_was_not_measured_does_not_count() -> None:
    wedge = MissingWedge()
    functionals = BandPatches(SHAPE, freq_edges=(0.3, 0.6), power=torch.full((8, 8, 5), 4.0))
    g = seeded(5)
    draws, noise = (torch.randn(2, 3, *SHAPE, generator=g, dtype=torch.float64) for _ in "ab")
    target = torch.randn(3, *SHAPE, generator=g, dtype=torch.float64)
    support = wedge.support(SHAPE)
    plain = noise_matched_score(draws, noise, target, functionals, support)
    filled = draws + 5 * wedge.complement(torch.randn(2, 3, *SHAPE, generator=g, dtype=torch.float64))
    torch.testing.assert_close(noise_matched_score(filled, noise, target, functionals, support), plain)
    assert float((noise_matched_score(filled, noise, target, functionals) - plain).min()) > 1
    unweighted = BandPatches(SHAPE, freq_edges=(0.3, 0.6))
    torch.testing.assert_close(2 * plain, noise_matched_score(draws, noise, target, unweighted, support))


@pytest.mark.parametrize(
    ("edges", "patch", "problem"),
    [((), 4, "edges"), ((0.3, 0.2), 4, "edges"), ((0.0, 0.2), 4, "edges"), ((0.2,), 3, "patches")],
)
def test_functionals_that_make_no_sense_are_refused(edges: tuple[float, ...], patch: int, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        BandPatches(SHAPE, freq_edges=edges, patch=patch)
