"""What the particles of a store tell together of their density: mean and scale, signal, noise and working grid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from cryoaae.errors import InputError
from cryoaae.io.store import SIMULATION, SubtomogramStore
from cryoaae.patches.aligned_spectra import aligned_spectra
from cryoaae.patches.normalise import CONSTANT, Normalisation
from cryoaae.patches.particle_spectra import particle_spectra
from cryoaae.patches.spectra import Spectra, choose_working_bin
from cryoaae.physics.fourier import rfft
from cryoaae.physics.resample import to_working_grid
from cryoaae.physics.wedge import MissingWedge

# Particles over which density and noise are measured.
MEASURED = 400
# Poses that all differ by less than this from one another are none that anybody searched for.
TURNED = 1e-3


class ParticleDensity:
    """Measures the particles of a store, each number when it is asked for.

    Parameters
    ----------
    store : SubtomogramStore
    working_bin : int, optional
        Of a restorer that was fitted; chosen by the background otherwise.
    """

    def __init__(self, store: SubtomogramStore, working_bin: int | None = None) -> None:
        self.store, self._stated_bin = store, working_bin

    @cached_property
    def working_bin(self) -> int:
        """Voxels per working voxel."""
        if self._stated_bin is not None:
            return self._stated_bin
        box = (self.store.box,) * 3
        return choose_working_bin(self.by_background, box, voxel_size_angstrom=self.store.voxel_size_angstrom)

    @cached_property
    def normalisation(self) -> Normalisation:
        """Mean and scale over the store.

        Raises
        ------
        InputError
            When the density is constant.
        """
        factor, means, squares = self.working_bin, [], []
        for i in self._sample():
            voxels = torch.from_numpy(self.store.volume(i)).double()
            means.append(float(voxels.mean()))
            squares.append(float(to_working_grid((voxels - means[-1]).float(), factor).double().square().mean()))
        mean, scale = float(np.mean(means)), math.sqrt(float(np.mean(squares)))
        if not scale > CONSTANT * abs(mean):
            raise InputError(self.store.path, f"the density is constant ({mean:g})", "extract particles with contrast")
        return Normalisation(mean, scale)

    @cached_property
    def spectra(self) -> Spectra:
        """By what the particles share where their poses are known, else by their background.

        Raises
        ------
        InputError
            When they have no background.
        """
        return self.by_poses or self.by_background

    @cached_property
    def by_poses(self) -> Spectra | None:
        """What particles of a class share (`patches.aligned_spectra`); None where no poses are known.

        Simulated boxes are cut about coordinates off which their particles lie by some voxels.
        """
        facts = self.store.facts
        turns = torch.from_numpy(np.array(facts.rotations, np.float64))
        if self.store.about.get("kind") == SIMULATION or float((turns - turns[:1]).abs().max()) < TURNED:
            return None
        wedges = [facts.wedges[int(number)] for number in facts.wedge_index]
        particles = (
            (torch.from_numpy(self.store.volume(i)), wedges[i], turns[i], facts.classes[i]) for i in self._sample()
        )
        return aligned_spectra(particles, self.store.box)

    @cached_property
    def by_background(self) -> Spectra:
        """By what lies outside of the sphere that holds a particle (`patches.particle_spectra`).

        Raises
        ------
        InputError
            When there is nothing.
        """
        box, facts = (self.store.box,) * 3, self.store.facts

        def measured() -> Iterator[tuple[Tensor, Tensor, int]]:
            supports: dict[int, Tensor] = {}
            for i in self._sample():
                number, voxels = int(facts.wedge_index[i]), torch.from_numpy(self.store.volume(i))
                if number not in supports:
                    supports[number] = _without_mean(facts.wedges[number], box)
                yield rfft(voxels - voxels.mean()) * supports[number], supports[number], number

        found = particle_spectra(measured(), self.store.box)
        if found is None:
            raise InputError(self.store.path, "has no background to measure noise in", "extract larger boxes")
        return found

    def _sample(self) -> list[int]:
        """Particles that are measured, evenly over the store."""
        count = len(self.store)
        return np.unique(np.linspace(0, count - 1, min(MEASURED, count)).round().astype(int)).tolist()


def _without_mean(wedge: MissingWedge, box: tuple[int, int, int]) -> Tensor:
    support = wedge.support(box)
    support[0, 0, 0] = False
    return support
