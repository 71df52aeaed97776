"""Sliced transport against closed forms and POT."""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import torch

from cryoaae.divergences.divergence import Codes
from cryoaae.divergences.sliced import Sliced, wasserstein2
from cryoaae.draws import Draws
from cryoaae.priors.gaussian import Gaussian


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_diracs_on_a_line() -> None:
    """One direction, so no draws."""
    x, y = torch.tensor([[1.0]]), torch.tensor([[4.0]])
    assert float(Sliced(Gaussian(1))(Codes(x), Codes(y))) == 9.0


def test_diracs_in_space() -> None:
    """|t|^2 / dim on average over directions."""
    x, y = torch.zeros(1, 3, dtype=torch.float64), torch.tensor([[3.0, 0.0, 4.0]], dtype=torch.float64)
    directions = 20_000
    measured = Sliced(Gaussian(3), directions=directions)(Codes(x), Codes(y), Draws.seeded(0, dtype=torch.float64))
    # Var (u.t)^2 = |t|^4 (1/5 - 1/9) on the sphere.
    error = 25 * math.sqrt((1 / 5 - 1 / 9) / directions)
    assert float(measured) == pytest.approx(25 / 3, abs=3 * error)


@pytest.mark.parametrize("sizes", [(7, 5), (6, 4), (1, 8), (12, 12), (10, 100)])
def test_unequal_sizes_are_exact(sizes: tuple[int, int]) -> None:
    x, y = normal(sizes[0], 1, seed=1), 2 * normal(sizes[1], 1, seed=2) + 1
    expected = ot.wasserstein_1d(x.numpy(), y.numpy(), p=2)
    assert float(wasserstein2(x, y)) == pytest.approx(float(np.squeeze(expected)), rel=1e-10)


def test_gaussians_on_a_line() -> None:
    """(m - m')^2 + (s - s')^2."""
    n, m = 40_000, 30_000
    x, y = normal(n, 1, seed=1), 0.5 * normal(m, 1, seed=2) + 1.5
    # The mean's error alone is 2 |m - m'| sqrt(1/n + s'^2/m), about 0.017.
    assert float(Sliced(Gaussian(1))(Codes(x), Codes(y))) == pytest.approx(1.5**2 + 0.5**2, abs=0.05)


def test_gaussians_in_the_plane() -> None:
    """On each direction two Gaussians on a line; their mean over the half circle."""
    deviations, shift = torch.tensor([2.0, 0.5], dtype=torch.float64), torch.tensor([1.0, -2.0], dtype=torch.float64)
    angle = torch.linspace(0, math.pi, 2001, dtype=torch.float64)[:-1]
    direction = torch.stack([angle.cos(), angle.sin()])
    exact = ((shift @ direction).square() + (along(deviations, direction) - 1).square()).mean()
    x, y = normal(4000, 2, seed=1), normal(4000, 2, seed=2) * deviations + shift
    measured = Sliced(Gaussian(2), directions=800)(Codes(x), Codes(y), Draws.seeded(0, dtype=torch.float64))
    assert float(measured) == pytest.approx(float(exact), rel=0.06)


def along(deviations: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    return (deviations[:, None] * direction).square().sum(dim=0).sqrt()


def test_directions_are_drawn_and_cover_the_plane() -> None:
    """A shift along any axis is seen, and other draws give another number."""
    x = normal(50, 2, seed=1)
    divergence = Sliced(Gaussian(2), directions=4)
    shift = torch.tensor([0.0, 1.0], dtype=torch.float64)
    values = [float(divergence(Codes(x), Codes(x + shift), Draws.seeded(s, dtype=torch.float64))) for s in range(200)]
    assert len(set(values)) == 200
    # E u_y^2 = 1/2, Var of the mean of four = (3/8 - 1/4) / 4.
    assert np.mean(values) == pytest.approx(0.5, abs=3 * math.sqrt(0.125 / 4 / 200))


def test_nothing_to_draw_from_is_refused() -> None:
    x = Codes(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="draws"):
        Sliced(Gaussian(2))(x, x)
    with pytest.raises(ValueError, match="directions"):
        Sliced(Gaussian(2), directions=0)
