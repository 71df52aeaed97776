"""The comparison itself: it passes the exact law, and its error bars are honest."""

from __future__ import annotations

import pytest
import torch

from cryoaae.sampling.agreement import agreement, chain_agreement
from cryoaae.sampling.oracle import Oracle


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("draws", [2, 16])
def test_exact_draws_pass_whatever_their_number(plane: Oracle, draws: int) -> None:
    model, g = plane.model, seeded(0)
    cell, names = plane.basis.cells()
    variance = model.posterior_covariance.diagonal()
    z = []
    for _ in range(30):
        y = model.measure(model.truths(24, generator=g), generator=g)
        found = agreement(model.draws(y, draws, generator=g), model.mean(y), variance, cell)
        of_mean = torch.tensor([found.excess / found.excess_error])
        z.append(torch.cat([(found.std_ratio - 1) / found.std_error, of_mean]))
    mean_square = torch.stack(z).square().mean()
    assert len(names) == len(found.std_ratio)
    assert 0.6 < float(mean_square) < 1.6


def test_bias_and_spread_are_read_off(plane: Oracle) -> None:
    model, g = plane.model, seeded(1)
    cell, _ = plane.basis.cells()
    variance = model.posterior_covariance.diagonal()
    y = model.measure(model.truths(200, generator=g), generator=g)
    draws = model.draws(y, 16, generator=g)
    mean = model.mean(y)
    off = 0.2 * variance.sqrt()
    wrong = mean[:, None] + off + 1.3 * (draws - mean[:, None])
    found = agreement(wrong, mean, variance, cell)
    assert found.excess == pytest.approx(0.04, abs=4 * found.excess_error)
    torch.testing.assert_close(found.std_ratio, torch.full_like(found.std_ratio, 1.3), atol=0.06, rtol=0.0)
    assert found.worst_std == pytest.approx(0.3, abs=0.06)
    with pytest.raises(ValueError, match="no error bar"):
        agreement(draws[:1], mean[:1], variance, cell)


def test_correlated_chains_have_wider_bars_not_wrong_ones(plane: Oracle) -> None:
    """Every draw ten times over says no more than once."""
    model, g = plane.model, seeded(2)
    cell, _ = plane.basis.cells()
    y = model.measure(model.truths(1, generator=g), generator=g)
    draws = model.draws(y, 60 * 20, generator=g)[0].reshape(60, 20, -1)
    exact = model.mean(y)[0], model.posterior_covariance, cell
    once, again = (chain_agreement(c, *exact) for c in (draws, draws.repeat_interleave(10, dim=1)))
    torch.testing.assert_close(once.std_error, again.std_error)
    assert 0.5 < once.mean_square_z < 1.6
    assert float(once.std_z.abs().max()) < 4
