"""The equivariant bootstrap against its own closed form, and as the null that it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from cryoaae.physics.resample import band_limit
from cryoaae.physics.rotation import random_rotations, rotation_about
from cryoaae.physics.wedge import MissingWedge
from cryoaae.sampling.basis import grid_turns
from cryoaae.sampling.bootstrap import bootstrap_spread, equivariant_bootstrap, turned
from cryoaae.sampling.oracle import Oracle
from cryoaae.sampling.self_supervised import turn_matrices


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ball(size: int, reach: float) -> Tensor:
    i = torch.arange(size) - size // 2
    r2 = i[:, None, None] ** 2 + i[None, :, None] ** 2 + i[None, None, :] ** 2
    return r2 < reach**2


def local(size: int, *, seed: int) -> Tensor:
    """A field that is smooth enough to be turned and ends before the faces."""
    noise = torch.randn(size, size, size, generator=seeded(seed)) * ball(size, 0.25 * size)
    return band_limit(noise, 0.1, 0.25)


def test_there_and_back_is_where_it_was() -> None:
    x = local(24, seed=0)
    rotation = random_rotations(1, generator=seeded(1))[0]
    back = turned(turned(x, rotation), rotation.mT)
    assert float((back - x)[ball(24, 10)].square().mean() / x[ball(24, 10)].square().mean()) < 0.01
    once = turned(x, rotation)
    assert float((once - x).square().mean() / x.square().mean()) > 0.5


def test_a_quarter_turn_is_that_of_the_grid() -> None:
    x = local(24, seed=2)
    quarter = rotation_about((0.0, 1.0, 0.0), torch.pi / 2)
    rotations, sources = grid_turns(x.shape)
    which = [torch.allclose(r, quarter, atol=1e-5) for r in rotations].index(True)
    exact = x.flatten()[sources[which]].reshape(x.shape)
    # This pins the sense of R and the voxel that it turns about.
    inside = ball(24, 10)
    assert float((turned(x, quarter) - exact)[inside].square().mean() / x[inside].square().mean()) < 0.01


def test_of_a_linear_restorer_mean_and_spread_are_known(cube: Oracle) -> None:
    """x_b = R^-1 G (M R x_hat + n) has mean R^-1 G M R x_hat and covariance R^-1 G N G^T R."""
    basis, model, g = cube.basis, cube.model, seeded(3)
    rotations, sources = grid_turns(basis.shape)
    pick = 5
    inverse = [torch.equal(r, rotations[pick].mT) for r in rotations].index(True)

    def turn(volume: Tensor, rotation: Tensor) -> Tensor:
        which = pick if torch.equal(rotation, rotations[pick]) else inverse
        return volume.flatten()[sources[which]].reshape(volume.shape)

    def restorer(volume: Tensor) -> Tensor:
        return basis.volume(model.mean(basis.coefficients(volume)))

    count = 600
    estimate = basis.volume(model.mean(model.measure(model.truths(1, generator=g), generator=g)[0]))
    noise = basis.volume(model.measure(torch.zeros(count, basis.size, dtype=torch.float64), generator=g))
    found = equivariant_bootstrap(
        estimate, restorer, cube.wedge, rotations=rotations[pick].expand(count, -1, -1), noise=noise, turn=turn
    )
    draws = torch.stack([basis.coefficients(draw) for draw in found])
    units = basis.volume(torch.eye(basis.size, dtype=torch.float64))
    matrix = basis.coefficients(torch.stack([turn(u, rotations[pick]) for u in units])).mT
    mean = matrix.mT @ model.mean(basis.coefficients(turn(estimate, rotations[pick])) * model.measured)
    noisy = model.gain * model.noise_power @ model.gain.mT
    variance = (matrix.mT @ noisy @ matrix).diagonal()
    assert float(((draws.mean(dim=0) - mean) / variance.sqrt()).abs().max()) < 5 / count**0.5
    assert float((draws.var(dim=0) / variance - 1).abs().max()) < 5 * (2 / count) ** 0.5


def test_it_underestimates_the_spread_and_most_so_in_the_wedge(cube: Oracle) -> None:
    """With the best restorer there is: what it cannot recover is missing from x_hat, and so from the spread."""
    basis, model, g = cube.basis, cube.model, seeded(4)
    turns = turn_matrices(basis)
    y = model.measure(model.truths(12, generator=g), generator=g)
    squares = []
    for data in y:
        for _ in range(16):
            turn = turns[int(torch.randint(len(turns), (1,), generator=g))]
            fresh = model.measure(torch.zeros(basis.size, dtype=torch.float64), generator=g)
            again = turn.mT @ model.mean((turn @ model.mean(data)) * model.measured + fresh)
            squares.append((again - model.mean(data)).square())
    variance, exact = torch.stack(squares).mean(dim=0), model.posterior_covariance.diagonal()
    wedge, measured = (float(variance[m].mean() / exact[m].mean()) for m in (~model.measured, model.measured))
    assert 0.01 < wedge < 0.6 * measured
    assert measured < 1.0


def test_spread_is_taken_about_the_estimate_and_nothing_is_kept() -> None:
    x = local(12, seed=5)
    taken = 0

    def noise() -> Iterator[Tensor]:
        nonlocal taken
        for _ in range(3):
            taken += 1
            yield torch.zeros_like(x)

    wedge = MissingWedge()
    draws = equivariant_bootstrap(
        x, lambda v: v, wedge, rotations=[torch.eye(3)] * 3, noise=noise(), turn=lambda v, _: v
    )
    assert taken == 0, "lazy: one draw at a time"
    mean, spread = bootstrap_spread(x, draws)
    assert taken == 3
    # Without noise and turns what remains is the bias: the wedge that f does not fill.
    torch.testing.assert_close(mean.float(), wedge.measured(x))
    torch.testing.assert_close(spread.float(), wedge.complement(x).abs())
    with pytest.raises(ValueError, match="fewer samples of noise"):
        list(equivariant_bootstrap(x, lambda v: v, wedge, rotations=[torch.eye(3)] * 2, noise=[x], turn=lambda v, _: v))
    with pytest.raises(ValueError, match="no draws"):
        bootstrap_spread(x, [])
