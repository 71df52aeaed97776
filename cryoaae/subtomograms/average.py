"""Averages of particles by known poses, aware of every particle's wedge.

    A(k) = sum_i (R_i^T v_i)(k) / ( sum_i (R_i^T M_i)(k) + tau )

Whitened particles v_i, turned into the frame of their reference; the denominator counts how often a coefficient was
measured, so that no wedge is left in the average where the poses fill it. tau is the noise-to-signal ratio, one
particle's noise being 1: coefficients that few particles measured are damped, not amplified. The whitening is taken
off at the end, which leaves the particles' own units.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoaae.metrics.fsc import fsc_curve
from cryoaae.patches.particle_spectra import sphere
from cryoaae.physics.fourier import irfft
from cryoaae.subtomograms.copies import in_reference_frame
from cryoaae.subtomograms.standard import Particles

# Noise-to-signal ratio of one particle and coefficient.
NOISE_TO_SIGNAL = 10.0


@dataclass(frozen=True)
class Average:
    """Average of a class.

    Parameters
    ----------
    volume : (z, y, x) float32
        On the working grid, in units of the particles' background noise.
    particles : int
    fsc : (shells,) float64
        Between the averages of two halves of the particles, up to Nyquist of the working grid.
    """

    volume: NDArray[np.float32]
    particles: int
    fsc: NDArray[np.float64]


def average(particles: Particles, members: Iterable[int]) -> Average:
    """Average particles by the poses of their store, read one at a time.

    Halves are the half sets of the store, or where there are none every second particle.
    """
    members = list(members)
    sums, counts = _sums(particles, members)
    window, standard = sphere(particles.box), particles.standard
    halves = [standard.unwhitened(_solved(s, c)) * window for s, c in zip(sums, counts, strict=True)]
    whole = standard.unwhitened(_solved(sums.sum(dim=0), counts.sum(dim=0))) * window
    return Average(whole.numpy(), len(members), fsc_curve(halves[0], halves[1], particles.box // 2).numpy())


def class_averages(particles: Particles, classes: Tensor, count: int) -> Tensor:
    """Averages of the particles of each class as the model sees them, whitened, (count, z, y, x) float32.

    Parameters
    ----------
    particles : Particles
    classes : (n,) int64
        -1: in no average. A class that no particle is of has the average 0.
    count : int
        Classes.
    """
    members = (torch.nonzero(classes == k).flatten().tolist() for k in range(count))
    return torch.stack([_solved(*(s.sum(dim=0) for s in _sums(particles, own))) for own in members])


def _sums(particles: Particles, members: Iterable[int]) -> tuple[Tensor, Tensor]:
    """Spectra in the frame of the reference, and how often each coefficient was measured, of two halves."""
    shape = (particles.box, particles.box, particles.box // 2 + 1)
    sums = torch.zeros(2, *shape, dtype=torch.complex128)
    counts = torch.zeros(2, *shape, dtype=torch.float64)
    for order, i in enumerate(members):
        turned, half = in_reference_frame(particles, i), _half_set(particles, i, order)
        sums[half] += turned.spectrum
        counts[half] += turned.seen
    return sums, counts


def _half_set(particles: Particles, index: int, order: int) -> int:
    store, i = particles.place(index)
    stated = int(particles.stores[store].facts.half_sets[i])
    return stated - 1 if stated in (1, 2) else order % 2


def _solved(total: Tensor, count: Tensor) -> Tensor:
    """Whitened average, (z, y, x) float32."""
    return irfft(total / (count + NOISE_TO_SIGNAL), (len(total),) * 3).float()
