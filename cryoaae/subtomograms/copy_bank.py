"""Particles and turned copies of them, kept for a while: to interpolate a box takes longer than to fit to it.

    copy = M' F Q R (v + (1 - M) n)

As in `copies`, but the turn R, the shift and the noise n are drawn once for several uses; the quarter turn Q, which
only makes voxels change places, and the wedge M' that the copy is seen through are drawn at each. What is kept is a
matter of time alone: R and n of a particle depend on the seed and the round, so that it can be made again.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoaae.physics.fourier import irfft, rfft
from cryoaae.physics.rotation import quarter_turned, random_rotations
from cryoaae.subtomograms.copies import (
    Measured,
    as_it_is,
    completed,
    fine_grid,
    in_reference_frame,
    turned_particle,
    turned_support,
)
from cryoaae.subtomograms.standard import Particles

# What may be kept, and how often a turn is used, each time with another of the 24 quarter turns as a rule.
KEPT_BYTES, USES = 4e8, 12
# A particle, its copy and what both are compared with, in numbers of four bytes a voxel of the working grid.
KEPT_NUMBERS = 4


@dataclass(frozen=True)
class Turned:
    """A particle and a copy of it in another pose.

    Parameters
    ----------
    own : Measured
        As it is.
    rotation : (3, 3)
        Of the copy.
    copy : (z, y, x)
        For a microscope to see.
    measured : (z, y, x)
        What was measured of the copy; without the noise that fills its wedge.
    reference : Measured or None
        The particle in the frame of its reference, where the bank keeps that.
    """

    own: Measured
    rotation: Tensor
    copy: Tensor
    measured: Tensor
    reference: Measured | None = None

    def seen(self, quarter: Tensor) -> Tensor:
        """Spectrum of the copy turned by quarters, but for the second wedge."""
        return rfft(quarter_turned(self.copy, quarter))


class CopyBank:
    """Turned copies by particle.

    Parameters
    ----------
    particles : Particles
    canonical : bool
        Particles are kept in the frames of their references, too.
    shift : float
        Largest shift of a copy along an axis, working voxels.
    seed : int
    """

    def __init__(self, particles: Particles, *, canonical: bool, shift: float, seed: int) -> None:
        self.particles, self.canonical, self.shift, self.seed = particles, canonical, shift, seed
        self.size = max(1, int(KEPT_BYTES / (4 * KEPT_NUMBERS * particles.box**3)))
        self._kept: OrderedDict[tuple[int, int], Turned] = OrderedDict()

    def get(self, index: int, turn: int) -> Turned:
        """A particle with its copy of a round."""
        key = (index, turn)
        if key not in self._kept:
            self._kept[key] = self._made(index, turn)
            if len(self._kept) > self.size:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def target(self, index: int, turned: Turned, quarter: Tensor) -> Measured:
        """What was measured of a copy that is turned by quarters, to be reconstructed in its own pose."""
        spectrum = rfft(quarter_turned(turned.measured, quarter))
        seen = turned_support(self.particles.wedge(index), quarter @ turned.rotation, self.particles.box)
        return Measured(spectrum * seen, seen)

    def _made(self, index: int, turn: int) -> Turned:
        particles, box = self.particles, self.particles.box
        state = np.random.SeedSequence([self.seed, turn, index]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))
        rotation = random_rotations(1, generator=generator)[0]
        shift = (2 * torch.rand(3, generator=generator) - 1) * self.shift
        own = as_it_is(particles, index)
        fine = fine_grid(completed(own, torch.randn(box, box, box, generator=generator)))
        target, copy = turned_particle(fine, particles.wedge(index), rotation, shift)
        reference = in_reference_frame(particles, index) if self.canonical else None
        seen, measured = (irfft(spectrum, (box,) * 3) for spectrum in (copy, target.spectrum))
        return Turned(own, rotation, seen, measured, reference)
