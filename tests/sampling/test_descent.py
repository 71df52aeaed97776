"""Descent ends where the closed form says, and never climbs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cryoaae.physics.fourier import irfft, radius, rfft
from cryoaae.physics.wedge import MissingWedge
from cryoaae.sampling.descent import descend, misfit
from cryoaae.sampling.langevin import WedgePosterior
from cryoaae.sampling.oracle import Oracle

SIZE = 12


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(seed: int) -> Tensor:
    return torch.randn(SIZE, SIZE, SIZE, generator=seeded(seed), dtype=torch.float64)


def stationary() -> WedgePosterior:
    """Data of a stationary Gaussian with noise of a third of its power, in float64."""
    ring = radius((SIZE,) * 3).double()
    power = torch.where(ring < 0.45, 1 / (1 + (ring / 0.15) ** 2), 0.0)
    support = MissingWedge((-50.0, 60.0)).support((SIZE,) * 3)
    level = torch.where(power > 0, power / 3, 1.0)
    truth = irfft(rfft(noise(0)) * power.sqrt(), (SIZE,) * 3)
    measured = irfft((rfft(truth) + rfft(noise(1)) * level.sqrt()) * support, (SIZE,) * 3)
    return WedgePosterior(measured, support, level, power)


def test_without_a_further_energy_one_step_from_anywhere_is_the_wiener_filter() -> None:
    posterior = stationary()
    gain = posterior.support * posterior.reference_power / (posterior.reference_power + posterior.noise_power)
    exact = irfft(rfft(posterior.measured) * gain, (SIZE,) * 3)
    found = descend(posterior, 5 * noise(2), steps=1)
    torch.testing.assert_close(found.volume, exact, rtol=0, atol=1e-12)
    more = descend(posterior, 5 * noise(2), steps=20)
    torch.testing.assert_close(more.volume, exact, rtol=0, atol=1e-12)
    # Of a coefficient off by its noise the misfit is 1; a Wiener filter stays nearer, by N / (S + N).
    assert found.misfit == pytest.approx(0.25, abs=0.05)


def test_the_mode_of_a_posterior_that_is_not_stationary_is_its_mean_in_the_wedge_too(plane: Oracle) -> None:
    basis, model = plane.basis, plane.model
    y = model.measure(model.truths(1, generator=seeded(0)), generator=seeded(1))[0]
    more = model.precision - torch.diag(1 / plane.stationary_power)

    def further(volume: Tensor) -> Tensor:
        x = basis.coefficients(volume)
        return 0.5 * ((x @ more) * x).sum(dim=-1)

    level = basis.on_half_spectrum(model.noise_power)
    posterior = WedgePosterior(
        basis.volume(y), basis.on_half_spectrum(model.measured.double()) > 0, torch.where(level > 0, level, 1.0),
        basis.on_half_spectrum(plane.stationary_power), further,
    )  # fmt: skip
    exact = basis.volume(model.mean(y))
    found = descend(posterior, torch.zeros_like(exact), steps=400, flat=0.0)
    assert float((found.volume - exact).norm() / exact.norm()) < 1e-3
    wedge = ~posterior.support & posterior.band
    assert float((rfft(exact) * wedge).abs().square().sum()) > 1e-3 * float(rfft(exact).abs().square().sum())
    assert all(later <= earlier for earlier, later in zip(found.energies, found.energies[1:], strict=False))


@pytest.mark.parametrize("weight", [0.3, 30.0])
def test_an_energy_full_of_hollows_never_rises_and_the_data_hold_what_they_hold(weight: float) -> None:
    posterior = replace(stationary(), further=lambda x: weight * torch.cos(4 * x).sum(dim=(-3, -2, -1)))
    found = descend(posterior, noise(3), steps=40)
    assert len(found.energies) > 3
    assert all(later <= earlier for earlier, later in zip(found.energies, found.energies[1:], strict=False))
    assert found.misfit == pytest.approx(misfit(posterior, found.volume))
    # A prior that is as strong as the data overrules them, and the misfit says so.
    assert (found.misfit < 1) == (weight < 1)


def test_a_start_at_the_mode_stays_and_content_beyond_the_band_is_dropped() -> None:
    posterior = stationary()
    mode = descend(posterior, noise(4), steps=3)
    again = descend(posterior, mode.volume, steps=5)
    assert again.energies[-1] <= again.energies[0]
    torch.testing.assert_close(again.volume, mode.volume, rtol=0, atol=1e-10)
    assert float((rfft(mode.volume) * ~posterior.band).abs().max()) < 1e-12
    assert math.isfinite(again.misfit)
