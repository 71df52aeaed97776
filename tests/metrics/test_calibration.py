"""Coverage of a normal law, and local contrast."""

from __future__ import annotations

import math

import pytest
import torch

from cryoaae.metrics.calibration import coverage, coverage_if_right, local_rms, mean_crps


@pytest.mark.parametrize(("nominal", "factor", "expected"), [(0.9, 1.0, 0.9), (0.5, 1.0, 0.5), (0.9, 0.5, 0.589)])
def test_normal_errors_are_covered_as_stated(nominal: float, factor: float, expected: float) -> None:
    """Also where the spread varies; a spread half as large covers P(|z| < 1.645 / 2)."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.rand(200_000, generator=generator) + 0.1
    error = spread * torch.randn(200_000, generator=generator)
    assert coverage(error, factor * spread, nominal=nominal) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("draws", [2, 8])
def test_a_right_spread_from_few_draws_covers_less(draws: int) -> None:
    generator = torch.Generator().manual_seed(2)
    spread = torch.randn(draws, 200_000, generator=generator).square().mean(dim=0).sqrt()
    found = coverage(torch.randn(200_000, generator=generator), spread)
    assert found < 0.87 and coverage_if_right(draws) == pytest.approx(found, abs=0.005)
    error = torch.randn(200_000, generator=generator)
    assert coverage(error, spread, draws=draws) == pytest.approx(0.9, abs=0.005)


def test_the_score_of_a_normal_law_is_its_closed_form_and_best_for_the_right_spread() -> None:
    generator = torch.Generator().manual_seed(3)
    spread = torch.rand(100_000, generator=generator) + 0.5
    error = spread * torch.randn(100_000, generator=generator)
    # E|X - y| - E|X - X'| / 2 over draws X of the law.
    first, second = (spread * torch.randn(40, 100_000, generator=generator) for _ in range(2))
    drawn = (first - error).abs().mean() - (first - second).abs().mean() / 2
    assert mean_crps(error, spread) == pytest.approx(float(drawn), rel=0.01)
    assert mean_crps(error, spread) == pytest.approx(float(spread.mean()) / math.sqrt(math.pi), rel=0.01)
    for other in (0.6 * spread, 1.6 * spread, spread.flip(0)):
        assert mean_crps(error, other) > 1.02 * mean_crps(error, spread)
    assert mean_crps(error, torch.zeros_like(error)) == pytest.approx(float(error.abs().mean()))


def test_local_rms_is_that_of_the_cube_and_of_what_is_there_of_it_at_a_face() -> None:
    volume = torch.randn(7, 8, 9, generator=torch.Generator().manual_seed(1))
    found = local_rms(volume, 3)
    assert float(found[3, 4, 5]) == pytest.approx(float(volume[2:5, 3:6, 4:7].square().mean().sqrt()), rel=1e-5)
    assert float(found[0, 0, 0]) == pytest.approx(float(volume[:2, :2, :2].square().mean().sqrt()), rel=1e-5)
