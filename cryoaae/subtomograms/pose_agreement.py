"""Whether classes depend on the pose: particles are turned, put through another wedge and classified again.

A copy is made as for the autoencoder (`copies`): turned at random, moved, its own noise completed by fresh noise, seen
through the wedge of another particle. It is whitened then, on the grid of the standard; the particle's own coefficients
say by how much they differ from the aligned ones.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cryoaae.physics.rotation import random_rotations
from cryoaae.runs.progress import Progress
from cryoaae.subtomograms.band import Band, BandedParticles
from cryoaae.subtomograms.copies import Measured, as_it_is, completed, fine_grid, turned_particle
from cryoaae.subtomograms.standard import Particles

# Particles that are looked at again, evenly over the stores; each is seen in so many other poses.
SAMPLE, VIEWS = 200, 2
# Largest shift of a copy along an axis, working voxels.
SHIFT = 1.0


def sampled(count: int) -> Tensor:
    """Which of the particles are looked at again, (m,) int64."""
    return torch.from_numpy(np.unique(np.linspace(0, count - 1, min(SAMPLE, count)).round().astype(np.int64)))


def turned_copies(
    particles: Particles, banded: BandedParticles, rows: Tensor, generator: torch.Generator, progress: Progress
) -> BandedParticles:
    """Copies of particles in other poses and through other wedges, as `banded` holds the particles themselves.

    Parameters
    ----------
    particles : Particles
        All of them, on any grid that reaches beyond the band.
    banded : BandedParticles
        The same ones, in the same order.
    rows : (m,) int64
        Which are copied.
    generator : torch.Generator
        On the CPU.
    """
    box, count, device = particles.box, len(rows), banded.coefficients.device
    rotations = random_rotations(count, generator=generator)
    shifts = (2 * torch.rand(count, 3, generator=generator) - 1) * SHIFT
    through = torch.randint(len(particles), (count,), generator=generator)
    coloured = 1 / particles.standard.whitening()
    found = []
    for i, rotation, shift, other in zip(rows.tolist(), rotations, shifts, through.tolist(), strict=True):
        progress.check()
        own = as_it_is(particles, i)
        fine = fine_grid(completed(own, torch.randn(box, box, box, generator=generator)))
        copy = turned_particle(fine, particles.wedge(i), rotation, shift)[1] * particles.support(other)
        gain = _gain(_in_band(banded.band, own, coloured), banded.coefficients[i].cpu())
        found.append(_in_band(banded.band, Measured(copy, own.seen), coloured) * gain)
        progress.advance()
    support = banded.support_index[through.to(device)]
    kept = banded.only(rows.to(device))
    coefficients = torch.stack(found).to(kept.coefficients) * banded.supports[support]
    return BandedParticles(
        banded.band, coefficients, banded.supports, support, kept.contrast, banded.noise_bins, banded.noise_power
    )


def _in_band(band: Band, measured: Measured, coloured: Tensor) -> Tensor:
    """Coefficients (q,) of a whitened spectrum in a band, its origin moved to the centre of the box."""
    box = len(coloured)
    z, y, x = band.points_zyx.unbind(dim=1)
    turns = band.points_zyx.sum(dim=1).float() * (box // 2) / box
    return (measured.spectrum * coloured)[z % box, y % box, x] * torch.polar(torch.ones(len(z)), 2 * torch.pi * turns)


def _gain(own: Tensor, aligned: Tensor) -> float:
    """The factor between the two, by least squares over what both measure."""
    return float((own.conj() * aligned).real.sum() / own.abs().square().sum().clamp(min=1e-12))
