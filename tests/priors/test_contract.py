"""What every prior keeps: its density is its law, its scale its spread, its draws the generator's alone."""

from __future__ import annotations

import math

import pytest
import torch

from cryoaae.priors import PRIORS

CASES = {
    "categorical": {"classes": 4, "probabilities": [0.1, 0.2, 0.3, 0.4]},
    "gaussian": {"dim": 1, "std": 0.7},
    "gaussian/2": {"dim": 2, "std": 1.5},
    "gaussian/8": {"dim": 8, "std": 5.0},
    "mixture": {},
    "mixture/3": {"components": 3, "radius": 2.0, "radial_std": 0.3, "tangential_std": 0.6},
    "mixture/1": {"components": 1},
    "product": {"parts": [{"name": "categorical"}, {"name": "gaussian", "dim": 3, "std": 2.0}]},
    "product/2": {"parts": [{"name": "gaussian", "dim": 1}, {"name": "uniform", "dim": 1, "half_width": 2.0}]},
    "product/3": {"parts": [{"name": "mixture"}, {"name": "categorical", "classes": 3}], "labelled": 1},
    "swiss_roll": {},
    "swiss_roll/noisy": {"radius": 2.0, "turns": 1.3, "noise": 0.2},
    "uniform": {"dim": 1, "half_width": 2.5},
    "uniform/2": {"dim": 2},
}
# Their density is one with respect to volume, and a grid can hold them.
ON_A_GRID = ["gaussian", "gaussian/2", "mixture", "mixture/3", "mixture/1", "product/2", "uniform", "uniform/2"]
DRAWS = 20_000


def made(case):
    return PRIORS.make(case.split("/")[0], **CASES[case])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def grid(prior, points=801):
    """Midpoints of cells that hold the law, and the volume of a cell."""
    half = 4 + 6 * prior.scale
    axis = (torch.arange(points, dtype=torch.float64) + 0.5) / points * 2 * half - half
    axes = torch.meshgrid(*[axis] * prior.dim, indexing="ij")
    return torch.stack(axes, dim=-1).reshape(-1, prior.dim), (2 * half / points) ** prior.dim


def test_every_prior_has_a_case():
    assert {case.split("/")[0] for case in CASES} == set(PRIORS)


@pytest.mark.parametrize("case", ON_A_GRID)
def test_the_density_integrates_to_one_and_its_means_are_those_of_samples(case):
    prior = made(case)
    z, cell = grid(prior)
    weight = prior.log_density(z).exp() * cell
    assert float(weight.sum()) == pytest.approx(1, abs=0.01)
    draws = prior.sample(DRAWS, generator=generator(), dtype=torch.float64)
    direction = torch.tensor([0.9, -0.4], dtype=torch.float64)[: prior.dim] / prior.scale
    for law in (lambda z: torch.cos(1.3 * z @ direction + 0.4), lambda z: torch.tanh(z[:, 0] + 0.3)):
        integral, sample = float((weight * law(z)).sum()), law(draws)
        # Five standard errors, and what cells at the faces of a cube cost.
        assert float(sample.mean()) == pytest.approx(integral, abs=5 * float(sample.std()) / math.sqrt(DRAWS) + 2e-3)


@pytest.mark.parametrize("case", CASES)
def test_scale_is_the_root_mean_variance_of_a_coordinate(case):
    prior = made(case)
    draws = prior.sample(DRAWS, generator=generator(), dtype=torch.float64)
    assert float(draws.var(dim=0).mean().sqrt()) == pytest.approx(prior.scale, rel=0.02)


@pytest.mark.parametrize("case", CASES)
def test_a_sample_is_its_generator_s_and_leaves_the_global_one_alone(case):
    prior, before = made(case), torch.get_rng_state()
    first, again = (prior.sample(50, generator=generator(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, prior.sample(50, generator=generator(4)))
    shared = generator(3)
    assert not torch.equal(prior.sample(50, generator=shared), prior.sample(50, generator=shared))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_honoured_down_to_an_empty_sample(case, dtype):
    prior = made(case)
    for n in (0, 1, 7):
        z = prior.sample(n, generator=generator(), dtype=dtype)
        assert z.shape == (n, prior.dim) and z.dtype == dtype
        try:
            logs = prior.log_density(z)
        except NotImplementedError:
            continue
        assert logs.shape == (n,) and logs.dtype == dtype and bool(logs.isfinite().all())
        spread = prior.log_density(z[None].expand(2, n, prior.dim))
        assert torch.allclose(spread, logs.expand(2, n))


@pytest.mark.parametrize("case", CASES)
def test_double_precision_is_drawn_not_cast(case):
    z = made(case).sample(100, generator=generator(), dtype=torch.float64)
    one_hot = (z == z.round()).all(dim=0)
    assert bool(((z != z.float().double()).any(dim=0) | one_hot).all())


@pytest.mark.parametrize("case", [c for c in CASES if made(c).classes])
def test_labels_are_refused_out_of_range_or_in_the_wrong_number(case):
    prior = made(case)
    for wrong in ([prior.classes, 0], [0, -2], [0], [[0, 0]], [0.0, 0.0]):
        with pytest.raises(ValueError, match="labels"):
            prior.sample(2, generator=generator(), labels=torch.tensor(wrong))


@pytest.mark.parametrize("case", [c for c in CASES if not made(c).classes])
def test_laws_without_classes_refuse_labels(case):
    with pytest.raises(ValueError, match="classes"):
        made(case).sample(2, generator=generator(), labels=torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize("case", [c for c in CASES if made(c).classes])
def test_unlabelled_draws_are_from_the_whole_law_and_labelled_ones_change_no_other(case):
    prior = made(case)
    whole = prior.sample(300, generator=generator())
    unlabelled = torch.full((300,), -1)
    assert torch.equal(prior.sample(300, generator=generator(), labels=unlabelled), whole)
    mixed = unlabelled.clone()
    mixed[::3] = prior.classes - 1
    some = prior.sample(300, generator=generator(), labels=mixed)
    assert torch.equal(some[mixed == -1], whole[mixed == -1])
    if prior.classes > 1:
        assert not torch.equal(some, whole)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("gaussian", {"dim": 0}),
        ("gaussian", {"std": 0.0}),
        ("uniform", {"dim": 0}),
        ("uniform", {"half_width": -1.0}),
        ("mixture", {"components": 0}),
        ("mixture", {"radial_std": 0.0}),
        ("mixture", {"radius": -1.0}),
        ("swiss_roll", {"turns": 0.0}),
        ("swiss_roll", {"noise": -0.1}),
        ("categorical", {"classes": 0}),
        ("categorical", {"classes": 2, "probabilities": [0.5, 0.6]}),
        ("categorical", {"classes": 2, "probabilities": [1.5, -0.5]}),
        ("categorical", {"classes": 2, "probabilities": [math.nan, 1.0]}),
        ("categorical", {"classes": 3, "probabilities": [0.5, 0.5]}),
        ("product", {"parts": []}),
    ],
)
def test_laws_that_do_not_exist_are_refused(name, wrong):
    with pytest.raises(ValueError, match="not"):
        PRIORS.make(name, **wrong)
