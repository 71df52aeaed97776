"""The oracle's closed form by other routes, and what makes it worth drawing from."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cryoaae.physics.wedge import MissingWedge
from cryoaae.sampling.basis import FourierBasis, grid_turns
from cryoaae.sampling.oracle import Oracle

SHAPES = [(6, 6, 6), (8, 1, 8), (7, 5, 6)]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- coordinates ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_coordinates_keep_lengths_and_come_back(shape: tuple[int, ...]) -> None:
    basis = FourierBasis(shape)
    x = torch.randn(3, basis.size, generator=seeded(0), dtype=torch.float64)
    volume = basis.volume(x)
    torch.testing.assert_close(basis.coefficients(volume), x)
    torch.testing.assert_close(volume.square().sum(dim=(-3, -2, -1)), x.square().sum(dim=-1))
    # Half of all coefficients inside the sphere of Nyquist, counted over the full spectrum.
    full = torch.stack(torch.meshgrid(*[torch.fft.fftfreq(n, dtype=torch.float64) for n in shape], indexing="ij"))
    assert basis.size == int((full.square().sum(dim=0).sqrt() < 0.5 - 1e-9).sum())


@pytest.mark.parametrize("shape", SHAPES)
def test_masking_coordinates_is_the_wedge(shape: tuple[int, ...]) -> None:
    basis, wedge = FourierBasis(shape), MissingWedge((-50.0, 62.0))
    measured = basis.each(wedge.support(shape))
    x = torch.randn(basis.size, generator=seeded(1), dtype=torch.float64)
    torch.testing.assert_close(basis.volume(x * measured), wedge.measured(basis.volume(x)))
    assert 0 < int(measured.sum()) < basis.size
    torch.testing.assert_close(basis.each(basis.on_half_spectrum(x.square() * 0 + measured)), measured.double())


@pytest.mark.parametrize(("shape", "count"), [((6, 6, 6), 24), ((8, 1, 8), 8), ((6, 6, 8), 8)])
def test_grid_turns_are_the_rotations_of_the_box_and_move_points_so(shape: tuple[int, ...], count: int) -> None:
    rotations, sources = grid_turns(shape)
    assert len(rotations) == count
    assert len({tuple(r.flatten().tolist()) for r in rotations}) == count
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(count))
    centre, point = torch.tensor([n // 2 for n in shape]), torch.tensor([2, 0, -1])
    volume = torch.zeros(shape)
    volume[tuple((centre + point).tolist())] = 1.0
    for rotation, source in zip(rotations, sources, strict=True):
        found = volume.flatten()[source].reshape(shape)
        at = torch.stack(torch.unravel_index(found.argmax(), shape)) - centre
        assert torch.equal(at.float(), rotation @ point.float())


# -- the closed form --------------------------------------------------------------------------------


def by_sums(shape: tuple[int, int, int], floor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Covariance of voxels without any FFT: k(r - r') as a sum of cosines, times the window at both ends."""
    n, m = shape[0], shape[2]
    points = [(z, x) for z in range(n) for x in range(m)]
    spectrum = {
        (a, b): (1 + ((a / n) ** 2 + (b / m) ** 2) / 0.15**2) ** -1.5
        for a in range(-(n // 2), n - n // 2)
        for b in range(-(m // 2), m - m // 2)
    }

    def window(z: int, x: int) -> float:
        r = math.hypot(z - n // 2, x - m // 2) / max(n, m)
        t = min(max((r - 0.25) / 0.25, 0.0), 1.0)
        return floor + (1 - floor) * (0.5 + 0.5 * math.cos(math.pi * t))

    covariance, fourier, kept = [], [], []
    for z, x in points:
        covariance.append([
            window(z, x) * window(v, w) / (n * m)
            * sum(s * math.cos(2 * math.pi * (a * (z - v) / n + b * (x - w) / m)) for (a, b), s in spectrum.items())
            for v, w in points
        ])  # fmt: skip
    for a, b in spectrum:
        if math.hypot(a / n, b / m) < 0.5 - 1e-9:
            # One row a coefficient: Hartley's, real and orthonormal, another basis than the oracle's.
            fourier.append([
                (math.cos(p := 2 * math.pi * (a * z / n + b * x / m)) + math.sin(p)) / math.sqrt(n * m)
                for z, x in points
            ])  # fmt: skip
            kept.append((a / n, b / m))
    return tuple(torch.tensor(v, dtype=torch.float64) for v in (covariance, fourier, kept))  # type: ignore[return-value]


def test_covariance_and_posterior_are_those_of_sums_of_cosines() -> None:
    shape = (6, 1, 8)
    oracle = Oracle.build(shape, window_floor=0.3, noise_power=0.2, noise_rise=2.0)
    voxels, hartley, k = by_sums(shape, 0.3)
    prior = hartley @ voxels @ hartley.mT
    prior = prior / prior.diagonal().mean()
    units = oracle.basis.volume(torch.eye(oracle.basis.size, dtype=torch.float64)).flatten(-3)
    between = hartley @ units.mT  # oracle's coordinates to Hartley's
    torch.testing.assert_close(between @ oracle.model.covariance @ between.mT, prior)
    # Bayes by the information form, with the wedge's support read from its angles.
    angle = torch.rad2deg(torch.atan2(k[:, 0].abs(), k[:, 1].abs()))
    distance = (k[:, 0].abs() * math.cos(math.radians(60)) - k[:, 1].abs() * math.sin(math.radians(60)))
    unit = math.hypot(math.cos(math.radians(60)) / 6, math.sin(math.radians(60)) / 8)
    seen = (angle <= 60) | (distance <= 0.5 * unit + 1e-9)
    noise = 0.2 * (1 + torch.linalg.vector_norm(k, dim=1) / 0.5)
    precision = torch.linalg.inv(prior) + torch.diag(seen / noise)
    exact = torch.linalg.inv(precision)
    torch.testing.assert_close(between @ oracle.model.posterior_covariance @ between.mT, exact)
    y = torch.randn(len(k), generator=seeded(2), dtype=torch.float64) * seen
    torch.testing.assert_close(between @ oracle.model.mean(y @ between), exact @ (y / noise))


def test_simulated_pairs_have_the_stated_moments(plane: Oracle) -> None:
    model, g = plane.model, seeded(3)
    truth = model.truths(40000, generator=g)
    y = model.measure(truth, generator=g)
    error = truth - model.mean(y)
    scale = (model.posterior_covariance.diagonal()[:, None] * model.data_covariance.diagonal()[model.measured]).sqrt()
    # The error is uncorrelated with the data, and its covariance is the posterior's.
    assert float((error.mT @ y[:, model.measured] / len(y) / scale).abs().max()) < 5 / math.sqrt(len(y))
    found = error.mT @ error / len(y)
    spread = model.posterior_covariance.diagonal().sqrt()
    apart = (found - model.posterior_covariance) / (spread[:, None] * spread)
    assert float(apart.abs().max()) < 5 * math.sqrt(2 / len(y))


def test_draws_scatter_about_the_mean_as_stated(plane: Oracle) -> None:
    model, g = plane.model, seeded(4)
    y = model.measure(model.truths(2, generator=g), generator=g)
    draws = model.draws(y, 20000, generator=g)
    spread = model.posterior_covariance.diagonal().sqrt()
    assert float(((draws.mean(dim=1) - model.mean(y)) / spread).abs().max()) < 5 / math.sqrt(20000)
    torch.testing.assert_close(draws.var(dim=1).sqrt(), spread.expand(2, -1), rtol=0.03, atol=0.0)


# -- what makes it an oracle ------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 1, 8), (6, 6, 6)])
def test_the_wedge_has_a_mean_that_only_the_data_tell(shape: tuple[int, int, int]) -> None:
    model = Oracle.build(shape).model
    told = (model.gain @ model.data_covariance @ model.gain.mT).diagonal()
    missing = ~model.measured
    # Share of the prior's power in the wedge that the posterior mean holds.
    assert float(told[missing].sum() / model.covariance.diagonal()[missing].sum()) > 0.25
    flat = Oracle.build(shape, window_floor=1.0).model
    told = (flat.gain @ flat.data_covariance @ flat.gain.mT).diagonal()
    assert float(told[missing].sum()) < 1e-12, "a stationary field is diagonal: there the wedge's mean is zero"


@pytest.mark.parametrize("shape", [(8, 1, 8), (6, 6, 6)])
def test_the_law_is_the_same_from_every_side_and_the_posterior_is_not(shape: tuple[int, int, int]) -> None:
    oracle = Oracle.build(shape)
    basis, model = oracle.basis, oracle.model
    units = basis.volume(torch.eye(basis.size, dtype=torch.float64)).flatten(-3)
    changed = 0.0
    for source in grid_turns(shape)[1]:
        turn = basis.coefficients(units[:, source].reshape(-1, *shape)).mT
        torch.testing.assert_close(turn @ model.covariance @ turn.mT, model.covariance)
        moved = turn @ model.posterior_covariance @ turn.mT - model.posterior_covariance
        changed = max(changed, float(moved.abs().max()))
    assert changed > 0.1


def test_temperature_acts_on_the_data_or_on_all(plane: Oracle) -> None:
    model = plane.model
    y = model.measure(model.truths(1, generator=seeded(5)), generator=seeded(6))
    whole = model.tempered(3.0, "posterior")
    torch.testing.assert_close(whole.mean(y), model.mean(y))
    torch.testing.assert_close(whole.posterior_covariance, 3 * model.posterior_covariance)
    cold = model.tempered(1e-6, "data").posterior_covariance.diagonal()
    assert float(cold[model.measured].max()) < 1e-5
    # In the wedge the prior's spread, given perfect data, is left.
    rows, rest = (torch.nonzero(part).flatten() for part in (model.measured, ~model.measured))
    known = model.covariance[rest][:, rest] - model.covariance[rest][:, rows] @ torch.linalg.solve(
        model.covariance[rows][:, rows], model.covariance[rows][:, rest]
    )
    torch.testing.assert_close(cold[rest], known.diagonal(), rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="temperature"):
        model.tempered(0.0, "data")


def test_stationary_power_is_the_mean_over_shells(cube: Oracle) -> None:
    k = cube.basis.each(cube.basis.radius)
    for value in k.unique()[:5]:
        shell = (k - value).abs() < 1e-9
        expected = cube.model.covariance.diagonal()[shell].mean()
        torch.testing.assert_close(cube.stationary_power[shell], expected.expand(int(shell.sum())))
