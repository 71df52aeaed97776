from __future__ import annotations

import logging
import math
from itertools import pairwise

import pytest
import torch

from cryoaae.metrics import parzen
from cryoaae.metrics.parzen import SIGMAS, choose_sigma, mean_and_sem, parzen_log_likelihood


def normal(n, d, seed=0, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def images(n, seed):
    """Sparse points of MNIST's size and norm, from 0 to 1, in single precision."""
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, 784, generator=g) * (torch.rand(n, 784, generator=g) < 0.2)


def scikit(samples, test, sigma):
    from sklearn.neighbors import KernelDensity

    # One leaf: where its trees branch in many dimensions, scikit-learn's bounds lose all digits.
    estimate = KernelDensity(bandwidth=sigma, leaf_size=len(samples)).fit(samples.double().numpy())
    return torch.from_numpy(estimate.score_samples(test.double().numpy()))


@pytest.mark.parametrize(("samples", "test"), [(normal(700, 3), normal(90, 3, 1)), (images(1500, 0), images(60, 1))])
@pytest.mark.parametrize("sigma", [0.1, 0.5])
def test_agrees_with_scikit_learn(samples, test, sigma):
    expected = scikit(samples, test, sigma)
    assert torch.allclose(parzen_log_likelihood(samples.double(), test.double(), sigma), expected, rtol=1e-10)
    single = parzen_log_likelihood(samples.float(), test.float(), sigma)
    assert torch.allclose(single, expected, rtol=1e-4, atol=1e-4)
    assert float(single.mean()) == pytest.approx(float(expected.mean()), abs=1e-4 * abs(float(expected.mean())))


def test_tiles_change_nothing(monkeypatch):
    samples, test = normal(53, 4), normal(31, 4, 1)
    whole = parzen_log_likelihood(samples, test, 0.3)
    monkeypatch.setattr(parzen, "TILE_ROWS", 7)
    monkeypatch.setattr(parzen, "TILE_COLUMNS", 5)
    assert torch.allclose(parzen_log_likelihood(samples, test, 0.3), whole, rtol=1e-12)


def test_is_a_density():
    axis = torch.linspace(-8, 8, 321, dtype=torch.float64)
    plane = torch.cartesian_prod(axis, axis)
    mass = parzen_log_likelihood(normal(50, 2), plane, 0.4).exp().sum() * (16 / 320) ** 2
    assert float(mass) == pytest.approx(1, abs=1e-6)


def test_of_a_gaussian_is_near_the_wider_gaussian_it_estimates():
    sigma, test = 0.5, normal(2000, 1, 1)
    variance = 1 + sigma**2
    expected = -0.5 * (test[:, 0] ** 2 / variance + math.log(2 * math.pi * variance))
    found = parzen_log_likelihood(normal(20_000, 1), test, sigma)
    assert float((found - expected).mean()) == pytest.approx(0, abs=0.01)


def test_far_points_are_unlikely_not_impossible():
    found = parzen_log_likelihood(torch.zeros(3, 2), torch.full((1, 2), 1e3), 0.1)
    assert float(found) == pytest.approx(-2e6 / 0.02 - math.log(2 * math.pi * 0.01), rel=1e-6)


def test_points_far_from_the_origin_lose_no_digits():
    samples, test = normal(200, 3), normal(20, 3, 1)
    near = parzen_log_likelihood(samples, test, 0.3)
    far = parzen_log_likelihood((samples + 1024).float(), (test + 1024).float(), 0.3)
    assert torch.allclose(near, far, atol=0.05)


def test_the_chosen_width_is_the_likeliest_and_no_order_matters():
    samples, validation = 0.7 * normal(400, 2), 0.7 * normal(200, 2, 1)
    means = [float(parzen_log_likelihood(samples, validation, s).mean()) for s in SIGMAS]
    best = SIGMAS[means.index(max(means))]
    assert choose_sigma(samples, validation) == best
    assert choose_sigma(samples, validation, SIGMAS[::-1]) == best
    assert SIGMAS[0] < best < SIGMAS[-1]


def test_widths_are_ten_from_a_tenth_to_a_half():
    assert (len(SIGMAS), SIGMAS[0], SIGMAS[-1]) == (10, 0.1, pytest.approx(0.5))
    ratios = [b / a for a, b in pairwise(SIGMAS)]
    assert ratios == pytest.approx([ratios[0]] * 9)


@pytest.mark.parametrize("grid", [(0.001, 0.01), (5.0, 50.0)])
def test_a_best_width_at_the_end_is_warned_of(grid, caplog):
    with caplog.at_level(logging.WARNING, "cryoaae"):
        choose_sigma(normal(100, 2), normal(50, 2, 1), grid)
    assert "end of those tried" in caplog.text


def test_mean_and_its_standard_error():
    assert mean_and_sem(torch.tensor([1.0, 2.0, 3.0, 4.0])) == pytest.approx((2.5, math.sqrt(5 / 3) / 2))


@pytest.mark.parametrize(
    ("samples", "test", "sigma"),
    [
        (torch.zeros(3, 2), torch.zeros(3, 3), 0.1),
        (torch.zeros(0, 2), torch.zeros(3, 2), 0.1),
        (torch.zeros(3), torch.zeros(3), 0.1),
        (torch.zeros(3, 2), torch.zeros(3, 2), 0.0),
    ],
)
def test_what_cannot_be_estimated_is_refused(samples, test, sigma):
    with pytest.raises(ValueError, match=r"one space|positive"):
        parzen_log_likelihood(samples, test, sigma)
