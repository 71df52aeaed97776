"""Labels, and what the classes of each law are."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chisquare, multivariate_normal

from cryoaae.errors import InputError
from cryoaae.priors import PRIORS
from cryoaae.priors.categorical import Categorical
from cryoaae.priors.gaussian import Gaussian
from cryoaae.priors.mixture import Mixture
from cryoaae.priors.product import Product
from cryoaae.priors.swiss_roll import SwissRoll
from cryoaae.priors.uniform import Uniform

DRAWS = 20_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def repeated(classes, each):
    return torch.arange(classes).repeat_interleave(each)


def test_a_component_s_draws_have_its_mean_and_covariance():
    prior = Mixture(components=5, radius=2.0, radial_std=0.5, tangential_std=0.1)
    z = prior.sample(5 * DRAWS, generator=generator(), labels=repeated(5, DRAWS), dtype=torch.float64)
    for k, own in enumerate(z.reshape(5, DRAWS, 2)):
        out = torch.tensor([math.cos(2 * math.pi * k / 5), math.sin(2 * math.pi * k / 5)], dtype=torch.float64)
        turned = torch.stack([out, torch.stack([-out[1], out[0]])])
        assert torch.allclose(own.mean(dim=0), 2 * out, atol=0.02)
        expected = torch.diag(torch.tensor([0.25, 0.01], dtype=torch.float64))
        assert torch.allclose(turned @ own.T.cov() @ turned.T, expected, atol=0.01)


def test_the_mixture_s_density_and_responsibilities_are_those_of_its_gaussians():
    prior = Mixture(components=4, radius=1.0, radial_std=0.6, tangential_std=0.2)
    z = 1.5 * torch.randn(200, 2, generator=generator(), dtype=torch.float64)
    densities = []
    for k in range(4):
        c, s = math.cos(math.pi * k / 2), math.sin(math.pi * k / 2)
        turn = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
        covariance = turn @ torch.diag(torch.tensor([0.36, 0.04], dtype=torch.float64)) @ turn.T
        densities.append(torch.from_numpy(multivariate_normal([c, s], covariance.numpy()).pdf(z.numpy())))
    joint = torch.stack(densities, dim=-1) / 4
    assert torch.allclose(prior.log_density(z), joint.sum(dim=-1).log())
    assert torch.allclose(prior.responsibilities(z), joint / joint.sum(dim=-1, keepdim=True))


def test_responsibilities_find_the_component_a_draw_was_labelled_with():
    prior, labels = Mixture(), repeated(10, 2000)
    z = prior.sample(len(labels), generator=generator(), labels=labels)
    # The tails of neighbours overlap near the origin.
    assert float((prior.responsibilities(z).argmax(dim=-1) == labels).double().mean()) > 0.95


@pytest.mark.parametrize("prior", [SwissRoll(), SwissRoll(radius=1.0, turns=1.2)])
def test_a_decile_s_draws_are_found_in_it(prior):
    labels = repeated(10, 500)
    z = prior.sample(len(labels), generator=generator(), labels=labels)
    assert float((prior.decile(z) != labels).double().mean()) < 1e-3
    near = z + 0.02 * prior.radius * torch.randn(z.shape, generator=generator(1))
    assert float((prior.decile(near) != labels).double().mean()) < 0.1
    assert torch.equal(prior.decile(z.reshape(10, 500, 2)), prior.decile(z).reshape(10, 500))


def test_a_draw_on_the_roll_is_where_the_formula_puts_it():
    z = SwissRoll().sample(1000, generator=generator(), labels=repeated(10, 100), dtype=torch.float64)
    s = torch.linalg.vector_norm(z, dim=-1) / 3
    assert torch.equal((10 * s**2).long(), repeated(10, 100))
    angle = 4 * math.pi * s
    assert torch.allclose(z, 3 * s[:, None] * torch.stack([angle.cos(), angle.sin()], dim=-1))
    # Even in u = s^2: Kolmogorov-Smirnov at the level of 1e-4.
    u = (SwissRoll().sample(DRAWS, generator=generator(), dtype=torch.float64) / 3).square().sum(dim=-1).sort().values
    assert float((u - torch.linspace(0, 1, DRAWS)).abs().max()) < 2.23 / math.sqrt(DRAWS)


def test_the_roll_has_no_density():
    with pytest.raises(NotImplementedError):
        SwissRoll(noise=0.1).log_density(torch.zeros(1, 2))


def test_a_roll_s_noise_is_that_of_its_keyword():
    clean, noisy = (SwissRoll(noise=s).sample(DRAWS, generator=generator(), dtype=torch.float64) for s in (0.0, 0.3))
    assert float((noisy - clean).std()) == pytest.approx(0.3, rel=0.02)


@pytest.mark.parametrize(
    ("prior", "shares", "part"),
    [
        (Mixture(components=6, tangential_std=0.02), [1 / 6] * 6, lambda p, z: p.responsibilities(z).argmax(dim=-1)),
        (SwissRoll(), [0.1] * 10, lambda p, z: p.decile(z)),
        (Categorical(3, [0.2, 0.3, 0.5]), [0.2, 0.3, 0.5], lambda p, z: z.argmax(dim=-1)),
        (Categorical(3, [0.0, 0.7, 0.3]), [0.0, 0.7, 0.3], lambda p, z: z.argmax(dim=-1)),
        (Product([Gaussian(1), Categorical(4)]), [0.25] * 4, lambda p, z: p.split(z)[1].argmax(dim=-1)),
    ],
)
def test_without_labels_parts_come_as_often_as_they_should(prior, shares, part):
    z = prior.sample(DRAWS, generator=generator(), labels=torch.full((DRAWS,), -1))
    counts = part(prior, z).bincount(minlength=len(shares)).double()
    expected = DRAWS * torch.tensor(shares, dtype=torch.float64)
    assert not counts[expected == 0].any()
    assert chisquare(counts[expected > 0], expected[expected > 0]).pvalue > 1e-4


def test_a_label_is_the_one_that_is_hot_even_where_its_probability_is_zero():
    labels = repeated(4, 5)
    z = Categorical(4, [0.5, 0.5, 0.0, 0.0]).sample(20, generator=generator(), labels=labels)
    assert torch.equal(z, torch.eye(4)[labels])


def test_the_probabilities_of_one_hot_codes_are_theirs_and_no_other_code_has_any():
    prior = Categorical(3, [0.2, 0.3, 0.5])
    assert prior.log_density(torch.eye(3)).exp().tolist() == pytest.approx([0.2, 0.3, 0.5])
    soft = torch.tensor([[0.2, 0.3, 0.5], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [2.0, -1.0, 0.0], [0.5, 0.5, 0.0]])
    assert bool((prior.log_density(soft) == -math.inf).all())


def test_nothing_lies_outside_the_cube():
    prior = Uniform(3, half_width=0.5)
    z = prior.sample(DRAWS, generator=generator())
    assert bool((z.abs() <= 0.5).all()) and float(z.abs().max()) > 0.499
    assert float(prior.log_density(z[:1])) == pytest.approx(0.0)
    assert float(prior.log_density(torch.tensor([0.0, 0.0, 0.51]))) == -math.inf


def test_labels_of_a_product_go_to_the_part_that_has_classes():
    prior, labels = Product([Gaussian(2), Mixture(), Uniform(1)]), repeated(10, 300)
    assert (prior.dim, prior.classes) == (5, 10)
    _, ring, _ = prior.split(prior.sample(3000, generator=generator(), labels=labels))
    assert float((Mixture().responsibilities(ring).argmax(dim=-1) == labels).double().mean()) > 0.95


def test_parts_of_a_product_are_independent_and_its_density_is_the_sum():
    prior = Product([Gaussian(1, std=2.0), Uniform(2), Mixture()])
    z = prior.sample(DRAWS, generator=generator(), dtype=torch.float64)
    coupling = z.T.corrcoef()
    assert float(coupling[:1, 1:].abs().max()) < 0.03 and float(coupling[1:3, 3:].abs().max()) < 0.03
    one, two, three = prior.split(z)
    expected = Gaussian(1, std=2.0).log_density(one) + Uniform(2).log_density(two) + Mixture().log_density(three)
    assert torch.allclose(prior.log_density(z), expected)


def test_two_parts_with_classes_must_be_told_which_is_labelled():
    parts = [Mixture(components=3), Categorical(5)]
    with pytest.raises(ValueError, match="labelled"):
        Product(parts)
    for wrong in (2, -1):
        with pytest.raises(ValueError, match="labelled"):
            Product(parts, labelled=wrong)
    with pytest.raises(ValueError, match="labelled"):
        Product([Gaussian(1), Categorical(5)], labelled=0)
    prior, labels = Product(parts, labelled=1), repeated(5, 200)
    ring, hot = prior.split(prior.sample(1000, generator=generator(), labels=labels))
    assert prior.classes == 5 and torch.equal(hot.argmax(dim=-1), labels)
    drawn = Mixture(components=3).responsibilities(ring).argmax(dim=-1).bincount(minlength=3)
    assert int(drawn.min()) > 250


@pytest.mark.parametrize(
    ("part", "message"),
    [({"dim": 2}, "has no name"), ({"name": "gausian"}, "gaussian"), ({"name": "gaussian", "sd": 2}, "std")],
)
def test_a_part_that_cannot_be_made_is_answered_with_what_is_meant(part, message):
    with pytest.raises(InputError, match=message):
        PRIORS.make("product", parts=[part])
