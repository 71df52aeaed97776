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
from cryoaae.physics.fourier import irfft
from cryoaae.subtomograms.copies import in_reference_frame
from cryoaae.subtomograms.standard import Particles, Standard, sphere

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
    box, averaged = particles.box, 0
    shape = (box, box, box // 2 + 1)
    sums = torch.zeros(2, *shape, dtype=torch.complex128)
    counts = torch.zeros(2, *shape, dtype=torch.float64)
    for i in members:
        turned = in_reference_frame(particles, i)
        half = _half_set(particles, i, averaged)
        sums[half] += turned.spectrum
        counts[half] += turned.seen
        averaged += 1
    halves = [_solved(s, c, particles.standard) for s, c in zip(sums, counts, strict=True)]
    whole = _solved(sums.sum(dim=0), counts.sum(dim=0), particles.standard)
    return Average(whole.numpy(), averaged, fsc_curve(halves[0], halves[1], box // 2).numpy())


def _half_set(particles: Particles, index: int, order: int) -> int:
    store, i = particles.place(index)
    stated = int(particles.stores[store].facts.half_sets[i])
    return stated - 1 if stated in (1, 2) else order % 2


def _solved(total: Tensor, count: Tensor, standard: Standard) -> Tensor:
    whitened = total / (count + NOISE_TO_SIGNAL)
    return standard.unwhitened(irfft(whitened, (standard.working_box,) * 3).float()) * sphere(standard.working_box)
