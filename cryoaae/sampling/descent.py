"""Descent to the mode of a posterior of a tomogram, preconditioned in Fourier space (CryoGEN-I's volume mode).

    x' = x - h P grad E(x),     P = (M / N + 1 / S)^-1,     E as in `sampling.langevin`

P is the inverse curvature of likelihood and reference: without a further energy one step of h = 1 from anywhere is
the Wiener filter. With one, h is halved until the energy has fallen by a share of what the gradient foretells (Armijo
1966), so it never rises, and grows again after. What is found is a local mode, that of the start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cryoaae.physics.fourier import irfft, multiplicity, rfft
from cryoaae.sampling.langevin import WedgePosterior

# Share of the foretold fall that a step must give; halvings before a start is called a mode.
SUFFICIENT, HALVINGS = 1e-4, 12
# Largest step: that of the Wiener filter.
LARGEST = 1.0
FLAT = 1e-5


@dataclass(frozen=True)
class Descent:
    """Where a descent ends.

    Parameters
    ----------
    volume : (z, y, x)
    energies : list of float
        At the start and after every step; never rising.
    misfit : float
        Mean of |x - y|^2 / N over measured coefficients: 1 where x is off by the noise. Truth has 1, a Wiener
        filter less; more than 1 contradicts the data.
    """

    volume: Tensor
    energies: list[float]
    misfit: float


def descend(
    posterior: WedgePosterior,
    start: Tensor,
    *,
    steps: int,
    flat: float = FLAT,
    advance: Callable[[float], Any] = lambda _: None,
) -> Descent:
    """Descend the energy of a posterior.

    Parameters
    ----------
    posterior : WedgePosterior
        Of one volume; its temperature moves the mode with ``temper="data"``.
    start : (z, y, x)
        What lies outside the posterior's band is dropped.
    steps : int
        At most.
    flat : float
        A step that lowers the energy by less than this share of what all did is the last.
    advance : callable
        Told of the share done after each step; may raise to stop.
    """
    shape = start.shape
    volume = irfft(rfft(start) * posterior.band, shape)
    energy, gradient = (found[0] for found in posterior.energy_and_gradient(volume[None]))
    energies, size = [float(energy)], LARGEST
    for _ in range(steps):
        direction = posterior.preconditioner * gradient
        fall = float((multiplicity(shape, device=gradient.device) * (gradient.conj() * direction).real).sum())
        for _ in range(HALVINGS):
            moved = volume - irfft(size * direction, shape)
            new, slope = (found[0] for found in posterior.energy_and_gradient(moved[None]))
            if float(new) <= energies[-1] - SUFFICIENT * size * fall:
                break
            size /= 2
        else:
            break  # nothing below is to be had within rounding
        volume, gradient = moved, slope
        energies.append(float(new))
        size = min(2 * size, LARGEST)
        advance(1 / steps)
        if energies[-2] - energies[-1] <= flat * (energies[0] - energies[-1]):
            break
    return Descent(volume, energies, misfit(posterior, volume))


def misfit(posterior: WedgePosterior, volume: Tensor) -> float:
    """Mean of |x - y|^2 / N over the measured coefficients of the band."""
    weight = (posterior.support & posterior.band) * multiplicity(volume.shape, device=volume.device)
    apart = (rfft(volume) - rfft(posterior.measured)).abs().square().double()
    return float((weight * apart / torch.where(weight > 0, posterior.noise_power, 1.0)).sum() / weight.sum())
