"""Every first variation keeps the laws of its kind: it is the derivative of the divergence it is named after."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cryoaae.divergences import DIVERGENCES
from cryoaae.divergences.divergence import Codes
from cryoaae.divergences.witnesses import WITNESSES
from cryoaae.priors.gaussian import Gaussian

DIM, CAPACITY = 3, 400
each = pytest.mark.parametrize("name", list(WITNESSES))


def normal(n: int, seed: int) -> Tensor:
    return torch.randn(n, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


# Laws are exact only where the potentials are.
EXACT: dict[str, dict[str, Any]] = {"sinkhorn": {"tolerance": 1e-4}}


def made(name: str, capacity: int = CAPACITY) -> Any:
    return WITNESSES.make(name, DIM, capacity, **EXACT.get(name, {})).double()


def solved(name: str, again: Tensor, real: Tensor) -> Any:
    witness = made(name)
    witness.solve(again, real, generator=generator())
    return witness


@pytest.mark.parametrize("sizes", [(60, 60), (60, 45), (45, 60)])
@each
def test_its_slope_is_that_of_the_divergence_in_the_points(name: str, sizes: tuple[int, int]) -> None:
    x, y = normal(sizes[0], 0), 1.3 * normal(sizes[1], 1) + 0.4
    witness = solved(name, x, y)
    points = x.clone().requires_grad_()
    (ours,) = torch.autograd.grad(witness(points).sum() / len(x), points)
    points = x.clone().requires_grad_()
    if name == "sinkhorn":  # by another solver, slowly
        divergence = DIVERGENCES.make(name, Gaussian(DIM), gamma=witness.gamma, scaling=0.995).double()
        value = divergence(Codes(points), Codes(y))
    else:
        value = witness.between(points, y, generator=generator())
    (wanted,) = torch.autograd.grad(value, points)
    assert float((ours - wanted).norm() / wanted.norm()) < 0.04


@each
def test_it_tells_how_the_divergence_changes_as_mass_moves(name: str) -> None:
    """A thousandth of the mass is moved from all of q to one place."""
    x, y, copies = normal(33, 0), 1.3 * normal(40, 1) + 0.4, 990
    witness = solved(name, x, y)
    for place in normal(3, 2):
        moved = torch.cat([x.repeat(copies // 33, 1), place[None]])
        change = witness.between(moved, y, generator=generator()) - witness.between(x, y, generator=generator())
        foretold = (witness(place[None]) - witness(x).mean()) / (copies + 1)
        assert float(change) == pytest.approx(float(foretold), rel=0.12, abs=5e-5)


@each
def test_zero_is_the_mean_over_the_real_cloud_and_what_is_far_from_it_lies_higher(name: str) -> None:
    real, again = normal(200, 0), normal(200, 1) + 0.5
    witness = solved(name, again, real)
    assert float(witness(real).mean()) == pytest.approx(0.0, abs=1e-9)
    assert float(witness(again).mean()) > 0.05
    away = torch.linspace(0, 8, 9, dtype=torch.float64)[:, None] * torch.ones(DIM, dtype=torch.float64)
    assert bool((witness(away).diff() > 0).all())


@each
def test_one_law_is_not_apart_and_the_divergence_grows_with_a_shift(name: str) -> None:
    witness = made(name)
    one, other = normal(200, 0), normal(200, 1)
    values = [float(witness.between(one, other + shift, generator=generator())) for shift in (0.0, 0.3, 0.9)]
    assert values[0] < values[1] / 2 < values[1] < values[2]
    assert values[2] - values[0] > 5 * (values[1] - values[0])  # as the square


@each
def test_what_is_solved_for_is_its_state(name: str) -> None:
    witness, other = solved(name, normal(50, 0), normal(70, 1)), made(name)
    other.load_state_dict(witness.state_dict())
    points = normal(20, 2)
    assert torch.equal(witness(points), other(points))


@each
def test_clouds_that_cannot_be_are_refused(name: str) -> None:
    witness = made(name, 10)
    for again in (normal(11, 0), normal(0, 0), normal(5, 0)[:, :2]):
        with pytest.raises(ValueError, match="a cloud"):
            witness.solve(again, normal(5, 1), generator=generator())
