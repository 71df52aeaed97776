"""How much work and memory a multi-reference alignment takes, told before it starts.

Nearly all of it is products of particles, moved by every shift, with turned references. Counted are their
multiplications; those that fetch a particle's own candidates one by one are slower, each counted as `FETCHED`. How many
a machine does in a second is measured on a product of the same shape.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from cryoaae.subtomograms.alignment_settings import AlignmentSettings
from cryoaae.subtomograms.band import Band
from cryoaae.subtomograms.held_out import CANDIDATES
from cryoaae.subtomograms.mixture import KEPT, STEPS_ANEW
from cryoaae.subtomograms.pose_search import COARSE_SHIFT, FINE_SHIFT, shift_grid
from cryoaae.subtomograms.rotation_grid import neighbours, rotation_count

# The program itself, and the matrices of scores that are held at a time; measured on 320 to 10,000 particles.
OVERHEAD_BYTES = 2.3e9
# Multiplications in the time of fetching a number for a product, of interpolating one, of spreading one to a grid.
FETCHED, INTERPOLATED, SPREAD = 4.0, 60.0, 200.0
# Edge of the product on which the machine's speed is measured.
TRIAL = 1024


@dataclass(frozen=True)
class Grid:
    """Size of a search: coefficients, rotations and shifts."""

    coefficients: int
    rotations: int
    shifts: int

    def search(self, particles: int, references: int) -> float:
        """Multiplications of all particles with all references in all poses."""
        products = 2.0 * self.coefficients * particles * references * self.rotations * self.shifts
        return products + INTERPOLATED * references * self.rotations * self.coefficients

    def fit(self, particles: int, references: int) -> float:
        """Multiplications of making references of particles, each in a few poses."""
        turned = min(references * self.rotations, particles * 2)
        return SPREAD * turned * self.coefficients


@dataclass(frozen=True)
class Effort:
    """Multiplications of the tasks of an alignment, and the memory that it takes.

    Parameters
    ----------
    seed, coarse, fine, merge : float
        Multiplications of one task of each kind.
    memory_bytes : float
        At the most.
    """

    seed: float
    coarse: float
    fine: float
    merge: float
    memory_bytes: float

    @classmethod
    def of(cls, particles: int, references: int, coarse: Grid, fine: Grid, near: int) -> Effort:
        """For particles and references at first, on two grids; `near` fine rotations lie about each coarse one."""

        def refined(count: int, candidates: int) -> float:
            pairs = 2.0 * fine.coefficients * count * candidates * near
            return pairs * (fine.shifts + FETCHED) + INTERPOLATED * fine.rotations * fine.coefficients

        n, k = particles, references
        whole = coarse.search(n, k) + refined(n, KEPT) + fine.fit(n, k)
        anew = coarse.search(n // 2, 1) + refined(n // 2, CANDIDATES) + STEPS_ANEW * fine.fit(n // 2, k) / k
        # Coefficients of the particles, and the turned references with where they are read from.
        memory = 8.0 * n * fine.coefficients + (8.0 * k + 64.0) * fine.rotations * fine.coefficients
        return cls(
            k * coarse.search(n, 1), coarse.search(n, k) + coarse.fit(n, k), whole, whole + 2 * k * anew,
            memory + OVERHEAD_BYTES,
        )  # fmt: skip

    @classmethod
    def expected(cls, particles: int, band: Band, settings: AlignmentSettings) -> Effort:
        """For so many particles in a band."""
        reach = settings.shift_voxels
        coarse = Grid(
            band.count_up_to(settings.coarse_freq), rotation_count(settings.coarse_step_deg),
            len(shift_grid(reach, COARSE_SHIFT)),
        )  # fmt: skip
        fine = Grid(len(band), rotation_count(settings.fine_step_deg), len(shift_grid(reach, FINE_SHIFT)))
        near = neighbours(settings.coarse_step_deg, settings.fine_step_deg)
        return cls.of(particles, settings.first_references(particles), coarse, fine, near)

    def of_task(self, name: str) -> float:
        """Multiplications of a task by its name."""
        known = {"seed": self.seed, "coarse": self.coarse, "merge": self.merge, "choose": 0.0}
        return known.get(name, self.fine)


def multiplications_a_second() -> float:
    """Speed of this machine, measured."""
    a = torch.ones(TRIAL, TRIAL)
    a @ a  # the first one also starts the threads
    best = min(_seconds(a) for _ in range(3))
    return TRIAL**3 / best


def _seconds(a: torch.Tensor) -> float:
    started = time.perf_counter()
    a @ a
    return max(time.perf_counter() - started, 1e-6)
