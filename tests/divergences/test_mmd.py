"""MMD against its definition."""

from __future__ import annotations

import itertools

import pytest
import torch

from cryoaae.divergences.divergence import Codes
from cryoaae.divergences.mmd import MMD, SCALES, mmd2
from cryoaae.priors.gaussian import Gaussian


def kernel(a: torch.Tensor, b: torch.Tensor, base: float) -> float:
    return sum(s * base / (s * base + float((a - b).square().sum())) for s in SCALES)


def test_equals_the_double_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(5, 3, generator=generator, dtype=torch.float64) * 2 + 1
    base = 2 * 3 * 1.5**2
    pairs = [list(itertools.permutations(cloud, 2)) for cloud in (x, y)]
    within = [sum(kernel(a, b, base) for a, b in some) / len(some) for some in pairs]
    between = sum(kernel(a, b, base) for a in x for b in y) / (len(x) * len(y))
    measured = MMD(Gaussian(3, std=1.5))(Codes(x), Codes(y))
    assert float(measured) == pytest.approx(sum(within) - 2 * between, abs=1e-10)


def test_two_places() -> None:
    """All of one cloud at one point: 2 sum_s (1 - C / (C + d^2)) = 2 sum_s d^2 / (s C + d^2)."""
    x, y = torch.zeros(4, 2, dtype=torch.float64), torch.tensor([[3.0, 4.0]] * 3, dtype=torch.float64)
    expected = 2 * sum(25 / (s * 8 + 25) for s in SCALES)
    assert float(mmd2(x, y, base=8.0)) == pytest.approx(expected, rel=1e-12)
    one_width = MMD(Gaussian(2, std=2**0.5), scales=(1.0,))(Codes(x), Codes(y))
    assert float(one_width) == pytest.approx(2 * 25 / 33, rel=1e-12)


@pytest.mark.parametrize("scales", [(), (1.0, 0.0)])
def test_widths_that_are_none_are_refused(scales: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="positive"):
        MMD(Gaussian(2), scales=scales)


def test_a_single_point_is_refused_by_the_function_too() -> None:
    with pytest.raises(ValueError, match="two in each"):
        mmd2(torch.zeros(1, 2), torch.zeros(5, 2), base=1.0)
