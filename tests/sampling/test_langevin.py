"""Langevin walks reproduce the closed form, and the comparison fails whatever does not."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cryoaae.physics.fourier import irfft, rfft
from cryoaae.sampling.agreement import ChainAgreement, chain_agreement
from cryoaae.sampling.diagnostics import diagnose
from cryoaae.sampling.langevin import LangevinRun, Scheme, Temper, WedgePosterior, anneal, walk
from cryoaae.sampling.oracle import Oracle

CHAINS, BURN_IN, STEPS = 64, 120, 240
# Of 9 spreads none lies further off in a right sampler; the mean square over 45 directions scatters by a fifth.
Z_MAX, MEAN_SQUARE_MAX = 5.0, 1.9


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def posterior_of(oracle: Oracle, y: Tensor) -> WedgePosterior:
    """The oracle's posterior: a stationary reference, and the window as the further energy."""
    basis, model = oracle.basis, oracle.model
    more = model.precision - torch.diag(1 / oracle.stationary_power)

    def further(volume: Tensor) -> Tensor:
        x = basis.coefficients(volume)
        return 0.5 * ((x @ more) * x).sum(dim=-1)

    noise = basis.on_half_spectrum(model.noise_power)
    return WedgePosterior(
        basis.volume(y), basis.on_half_spectrum(model.measured.double()) > 0, torch.where(noise > 0, noise, 1.0),
        basis.on_half_spectrum(oracle.stationary_power), further,
    )  # fmt: skip


def data(oracle: Oracle) -> Tensor:
    return oracle.model.measure(oracle.model.truths(1, generator=seeded(0)), generator=seeded(1))[0]


def inflated(oracle: Oracle, y: Tensor, count: int = CHAINS) -> Tensor:
    mean = oracle.model.mean(y)
    draws = oracle.model.draws(y[None], count, generator=seeded(2))[0]
    return oracle.basis.volume(mean + 1.5 * (draws - mean))


def walked(oracle: Oracle, posterior: WedgePosterior, y: Tensor, *, seed: int = 3, **how: object) -> LangevinRun:
    settings = {"burn_in": BURN_IN, "steps": STEPS, **how}
    start = inflated(oracle, y)
    return walk(posterior, start, generator=seeded(seed), functionals=oracle.basis.coefficients, **settings)  # type: ignore[arg-type]


def against(oracle: Oracle, run: LangevinRun, y: Tensor, gamma: float = 1.0, temper: Temper = "data") -> ChainAgreement:
    exact = oracle.model.tempered(gamma, temper)
    return chain_agreement(run.records, exact.mean(y), exact.posterior_covariance, oracle.basis.cells()[0])


def agrees(found: ChainAgreement) -> bool:
    return float(found.std_z.abs().max()) < Z_MAX and found.mean_square_z < MEAN_SQUARE_MAX


# -- exactness --------------------------------------------------------------------------------------


def test_the_gradient_is_that_of_the_energy(plane: Oracle) -> None:
    posterior = replace(posterior_of(plane, data(plane)), gamma=1.7)
    g = seeded(4)
    for temper in ("data", "posterior"):
        target = replace(posterior, temper=temper)
        x, step = (plane.basis.volume(torch.randn(2, plane.basis.size, generator=g, dtype=torch.float64)) for _ in "ab")
        slope = irfft(target.energy_and_gradient(x)[1], plane.basis.shape)
        h = 1e-4
        ends = [target.energy_and_gradient(x + s * h * step)[0] for s in (1, -1)]
        torch.testing.assert_close((slope * step).sum(dim=(1, 2, 3)), (ends[0] - ends[1]) / (2 * h), rtol=1e-6, atol=0)


def test_energies_differ_as_log_densities_do(plane: Oracle) -> None:
    """Up to its constant the energy is that of the Gaussian with the oracle's mean and covariance."""
    y, model = data(plane), plane.model
    x = model.draws(y[None], 20, generator=seeded(5))[0]
    apart = x - model.mean(y)
    exact = 0.5 * ((apart @ torch.linalg.inv(model.posterior_covariance)) * apart).sum(dim=1)
    energy = posterior_of(plane, y).energy_and_gradient(plane.basis.volume(x))[0]
    torch.testing.assert_close(energy - energy[0], exact - exact[0])


@pytest.mark.parametrize("scheme", ["euler", "exact"])
def test_corrected_walks_are_exact_within_their_error(plane: Oracle, scheme: Scheme) -> None:
    y = data(plane)
    run = walked(plane, posterior_of(plane, y), y, scheme=scheme)
    found = against(plane, run, y)
    assert agrees(found), (found.std_z, found.mean_square_z)
    # Honest and narrow: a wrong spread of a few per cent would show.
    assert float(found.std_error.max()) < 0.025
    assert 0.4 < run.acceptance < 0.75
    told = plane.basis.volume(plane.model.mean(y))
    scale = float(plane.model.posterior_covariance.diagonal().mean().sqrt())
    assert float((run.mean - told).square().mean().sqrt()) < 0.15 * scale
    basis = plane.basis.volume(torch.eye(plane.basis.size, dtype=torch.float64)).flatten(1)
    variance = (basis * (plane.model.posterior_covariance @ basis)).sum(dim=0).reshape(plane.basis.shape)
    torch.testing.assert_close(run.variance.sqrt(), variance.sqrt(), rtol=0.12, atol=0.0)


def without_data(posterior: WedgePosterior) -> WedgePosterior:
    return replace(posterior, measured=torch.zeros_like(posterior.measured), noise_power=posterior.noise_power * 1e6)


def without_window(posterior: WedgePosterior) -> WedgePosterior:
    return replace(posterior, further=None)


@pytest.mark.parametrize("wrong", [without_data, without_window, "temperature", "step"])
def test_the_comparison_fails_a_wrong_sampler(plane: Oracle, wrong: object) -> None:
    y, how = data(plane), {}
    posterior = posterior_of(plane, y)
    if callable(wrong):
        posterior = wrong(posterior)
    elif wrong == "temperature":
        posterior = replace(posterior, gamma=1.3)
    else:
        how = {"corrected": False, "step": 0.3, "burn_in": 0}
    found = against(plane, walked(plane, posterior, y, **how), y)
    assert not agrees(found)
    assert float(found.std_z.abs().max()) > 2 * Z_MAX


def test_an_uncorrected_walk_is_off_by_the_order_of_its_step(plane: Oracle) -> None:
    """On a Gaussian the spread comes out as that of 1 / (1 - h lambda / 2); here lambda is near 1."""
    y = data(plane)
    posterior = replace(posterior_of(plane, y), further=None)
    # Without the window the preconditioner is the exact covariance: lambda = 1 everywhere.
    exact = plane.basis.each(posterior.preconditioner)
    for step in (0.1, 0.4):
        run = walked(plane, posterior, y, corrected=False, step=step, burn_in=0, steps=200)
        spread = run.records[:, 60:].var(dim=(0, 1))
        assert float((spread / exact).mean()) == pytest.approx(1 / (1 - step / 2), rel=0.05)


def test_without_a_further_energy_the_exact_scheme_accepts_all_and_forgets_at_once(plane: Oracle) -> None:
    """Its law is then the Gaussian that likelihood and reference make, coefficient by coefficient."""
    y = data(plane)
    posterior = replace(posterior_of(plane, y), further=None)
    run = walked(plane, posterior, y, scheme="exact", steps=100)
    assert run.acceptance == 1.0
    each = plane.basis.each
    variance = run.records.var(dim=(0, 1)) / each(posterior.preconditioner)
    assert float((variance - 1).abs().max()) < 5 * math.sqrt(2 / (CHAINS * 100))
    mean = run.records.mean(dim=(0, 1)) - plane.basis.coefficients(irfft(posterior.centre, plane.basis.shape))
    assert float((mean / each(posterior.preconditioner).sqrt()).abs().max()) < 5 / math.sqrt(CHAINS * 100)
    assert float(diagnose(run.records[:4]).ess.min()) > 200


# -- temperature ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("temper", "scheme"), [("data", "euler"), ("posterior", "euler"), ("posterior", "exact")])
def test_the_spread_grows_with_temperature_as_the_closed_form_does(
    plane: Oracle, temper: Temper, scheme: Scheme
) -> None:
    y = data(plane)
    posterior, spreads = replace(posterior_of(plane, y), temper=temper), []
    for gamma in (0.3, 3.0):
        burn_in = 300 if scheme == "exact" else 160
        run = walked(plane, replace(posterior, gamma=gamma), y, burn_in=burn_in, scheme=scheme)
        found = against(plane, run, y, gamma, temper)
        assert agrees(found), (gamma, found.std_z, found.mean_square_z)
        spreads.append(float(run.variance.mean()))
    assert spreads[1] > 1.5 * spreads[0]


@pytest.mark.parametrize("scheme", ["euler", "exact"])
def test_cooling_gives_the_map_estimate(plane: Oracle, scheme: Scheme) -> None:
    """Of a Gaussian the MAP estimate is the mean."""
    y = data(plane)
    gammas = [10 ** (-0.5 * i) for i in range(9)]
    cold = anneal(posterior_of(plane, y), inflated(plane, y, 4), gammas, steps=40, generator=seeded(6), scheme=scheme)
    apart = (plane.basis.coefficients(cold) - plane.model.mean(y)).square().sum(dim=1)
    assert float(apart.max()) < 3 * gammas[-1] * float(plane.model.posterior_covariance.trace())
    assert gammas[-1] <= 1e-4


# -- chains -----------------------------------------------------------------------------------------


def test_chains_are_judged_and_repeatable(plane: Oracle) -> None:
    y = data(plane)
    runs = [walked(plane, posterior_of(plane, y), y, steps=60, burn_in=40, seed=7) for _ in range(2)]
    assert torch.equal(runs[0].records, runs[1].records)
    short = diagnose(runs[0].records[:4, :10])
    assert not short.converged
    thinned = walk(
        posterior_of(plane, y), inflated(plane, y, 4), burn_in=0, steps=9, step=0.2, record_every=4,
        functionals=plane.basis.coefficients, generator=seeded(8),
    )  # fmt: skip
    assert thinned.records.shape == (4, 3, plane.basis.size)
    assert thinned.step == 0.2, "without a burn-in the step is left alone"
    assert float(rfft(thinned.last).abs()[:, ~posterior_of(plane, y).band].max()) < 1e-12


def test_what_cannot_be_an_energy_is_refused(plane: Oracle) -> None:
    posterior = posterior_of(plane, data(plane))
    for gamma in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature"):
            replace(posterior, gamma=gamma)
    with pytest.raises(ValueError, match="noise power"):
        replace(posterior, noise_power=torch.zeros_like(posterior.noise_power))
