from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cryoaae.metrics.codes import (
    NEIGHBOURS,
    fresh_log_ratio,
    holes,
    jensen_shannon_bound,
    mmd_floor,
    spill,
    two_sample_accuracy,
)
from cryoaae.priors.gaussian import Gaussian
from cryoaae.priors.mixture import Mixture


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(n, d=2, seed=0):
    return torch.randn(n, d, generator=generator(seed))


def test_equal_laws_cannot_be_told_apart_even_at_unequal_sizes():
    # 0.5 within four standard errors; a bet on the larger cloud would have 0.75.
    assert two_sample_accuracy(normal(6000), normal(2000, seed=1), seed=0) == pytest.approx(0.5, abs=0.045)


@pytest.mark.parametrize("shift", [0.5, 1.0, 8.0])
def test_a_shift_is_seen_as_well_as_it_can_be(shift):
    one, two = normal(4000), normal(4000, seed=1)
    one[:, 0] += shift
    best = 0.5 * (1 + math.erf(shift / 2 / math.sqrt(2)))
    assert two_sample_accuracy(one, two, seed=0) == pytest.approx(best, abs=0.035)


def test_a_fresh_classifier_knows_the_ratio_of_two_gaussians():
    """log q/p of N(t, 1) and N(0, 1) is t.z - |t|^2 / 2, where there are points to learn it from."""
    shift = torch.tensor([1.0, -0.5])
    places = 0.5 * shift + 0.7 * normal(200, seed=2)
    found = fresh_log_ratio(normal(4000) + shift, normal(4000, seed=1), places, seed=0)
    exact = (places @ shift - shift.square().sum() / 2).double()
    assert (found - exact).square().mean().sqrt() < 0.25
    assert torch.corrcoef(torch.stack([found, exact]))[0, 1] > 0.97


def test_a_ring_is_told_from_a_gaussian_of_its_moments_in_whatever_order_codes_come():
    prior = Mixture()
    ring = prior.sample(3000, generator=generator())
    ring = ring[ring[:, 0].argsort()]
    assert two_sample_accuracy(ring, prior.scale * normal(3000, seed=1), seed=0) > 0.72


def test_a_test_is_its_seed_s_and_leaves_global_generators_alone():
    one, two, torch_state = normal(400), 1.3 * normal(400, seed=1), torch.get_rng_state()
    numpy_state = np.random.get_state()[1].tolist()  # noqa: NPY002
    first, again = (two_sample_accuracy(one, two, seed=5) for _ in range(2))
    assert first == again
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.random.get_state()[1].tolist() == numpy_state  # noqa: NPY002


def test_clouds_that_cannot_be_compared_are_refused():
    for one, two in ((normal(10, 2), normal(10, 3)), (normal(3), normal(10))):
        with pytest.raises(ValueError, match="clouds"):
            two_sample_accuracy(one, two, seed=0)


def test_the_floor_of_a_difference_of_means_is_known():
    def difference(x, y):
        return float(x.mean() - y.mean())

    floor = mmd_floor(Gaussian(1, std=3.0), 50, generator=generator(), repeats=800, distance=difference)
    sd = 3 * math.sqrt(2 / 50)
    assert floor.sd == pytest.approx(sd, rel=4 / math.sqrt(2 * 800))
    assert floor.mean == pytest.approx(0, abs=4 * sd / math.sqrt(800))
    with pytest.raises(ValueError, match="repeat"):
        mmd_floor(Gaussian(1), 50, generator=generator(), repeats=1, distance=difference)


@pytest.mark.parametrize(("codes", "draws"), [(1000, 1000), (2000, 700), (700, 2000)])
@pytest.mark.parametrize("dim", [1, 2, 6])
def test_a_cloud_of_the_prior_has_no_holes_and_spills_nothing(codes, draws, dim):
    found = []
    for seed in range(0, 30, 3):
        clouds = normal(codes, dim, seed), normal(draws, dim, seed + 1), normal(1000, dim, seed + 2)
        found.append((holes(*clouds), spill(*clouds)))
    mean = np.mean(found, axis=0)
    assert mean[0] == pytest.approx(0, abs=0.012)
    assert mean[1] == pytest.approx(0, abs=0.005)


@pytest.mark.parametrize("mass", [0.1, 0.25, 0.5])
def test_a_removed_sector_is_a_hole_of_nearly_its_mass(mass):
    many = normal(20_000)
    angle = torch.atan2(many[:, 1], many[:, 0]) / (2 * math.pi) + 0.5
    codes = many[angle > mass][:5000]
    draws, reference = normal(5000, seed=1), normal(5000, seed=2)
    # Its rim, a few spacings wide, is taken for filled.
    assert mass - 0.045 < holes(codes, draws, reference) < mass + 0.01
    assert spill(codes, draws, reference) < 0.01


def test_components_that_no_code_fills_are_holes_of_their_share():
    prior = Mixture()
    filled = torch.randint(3, 10, (4000,), generator=generator())
    codes = prior.sample(4000, generator=generator(), labels=filled)
    draws, reference = (prior.sample(4000, generator=generator(s)) for s in (1, 2))
    assert holes(codes, draws, reference) == pytest.approx(0.3, abs=0.03)
    assert spill(codes, draws, reference) == pytest.approx(0, abs=0.01)


def test_a_collapsed_cloud_is_all_hole_and_no_spill():
    draws, reference = normal(2000, seed=1), normal(2000, seed=2)
    codes = 0.01 * normal(2000)
    assert holes(codes, draws, reference) > 0.95
    assert -1 / 99 - 1e-9 <= spill(codes, draws, reference) < 0


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_codes_put_elsewhere_are_spilt(share):
    codes = normal(4000, 8)
    codes[: int(4000 * share), 0] += 12
    draws, reference = normal(4000, 8, 1), normal(4000, 8, 2)
    assert spill(codes, draws, reference) == pytest.approx(share, abs=0.01)


def test_codes_between_the_components_are_spilt():
    prior = Mixture(components=4, radius=3.0)
    draws, reference = (prior.sample(3000, generator=generator(s)) for s in (1, 2))
    codes = prior.sample(3000, generator=generator())
    turn = math.pi / 4
    between = codes @ torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    assert spill(between, draws, reference) > 0.95
    assert holes(between, draws, reference) > 0.95


def test_too_small_a_cloud_is_refused():
    few = normal(NEIGHBOURS - 1)
    for measure in (holes, spill):
        with pytest.raises(ValueError, match="too few"):
            measure(normal(100), few, normal(100, seed=1))


def test_the_bound_is_reached_by_the_log_ratio_and_by_nothing_else():
    n = 200_000
    p, q = normal(n, 1).double()[:, 0], normal(n, 1, 1).double()[:, 0] + 1

    def ratio(x):
        return 0.5 - x

    x = torch.linspace(-12, 13, 100_001, dtype=torch.float64)
    density_p, density_q = ((-0.5 * (x - m) ** 2).exp() / math.sqrt(2 * math.pi) for m in (0, 1))
    middle = (density_p + density_q) / 2
    terms = torch.xlogy(density_p, density_p / middle) + torch.xlogy(density_q, density_q / middle)
    truth = float(terms.nan_to_num().sum() * (x[1] - x[0]) / 2)
    assert float(jensen_shannon_bound(ratio(p), ratio(q))) == pytest.approx(truth, abs=2e-3)
    for worse in (lambda x: 3 * ratio(x), lambda x: 0.3 * ratio(x), lambda x: ratio(x) + 1, lambda x: -ratio(x)):
        assert float(jensen_shannon_bound(worse(p), worse(q))) < truth - 5e-3


def test_the_bound_s_ends():
    n = torch.zeros(10)
    assert float(jensen_shannon_bound(n, n)) == pytest.approx(0)
    assert float(jensen_shannon_bound(n + 1e4, n - 1e4)) == pytest.approx(math.log(2))
    assert math.isfinite(float(jensen_shannon_bound(n - 1e4, n + 1e4)))


def test_members_of_a_stack_are_bounded_each_by_itself():
    p, q = normal(3, 50), normal(3, 80, 1)
    alone = [float(jensen_shannon_bound(a, b)) for a, b in zip(p, q, strict=True)]
    assert jensen_shannon_bound(p, q).tolist() == pytest.approx(alone)
