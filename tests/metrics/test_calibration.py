"""Coverage of a normal law, and local contrast."""

from __future__ import annotations

import pytest
import torch

from cryoaae.metrics.calibration import coverage, coverage_if_right, local_rms


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


def test_local_rms_is_that_of_the_cube_and_of_what_is_there_of_it_at_a_face() -> None:
    volume = torch.randn(7, 8, 9, generator=torch.Generator().manual_seed(1))
    found = local_rms(volume, 3)
    assert float(found[3, 4, 5]) == pytest.approx(float(volume[2:5, 3:6, 4:7].square().mean().sqrt()), rel=1e-5)
    assert float(found[0, 0, 0]) == pytest.approx(float(volume[:2, :2, :2].square().mean().sqrt()), rel=1e-5)
