"""Where subtomograms come from: what every kind of source tells the extraction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError
from cryoaae.io.particles import Particles
from cryoaae.io.store import ParticleFacts, wedge_table
from cryoaae.physics.wedge import MissingWedge

VOXEL_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Source:
    """Particles that can be cut, one at a time.

    Parameters
    ----------
    kind : str
        For people: "tomograms", "subtomogram files" or "stacks of tilt images".
    voxel_size_angstrom : float
    facts : ParticleFacts
        Of the particles that will be cut.
    counts : dict
        How many particles of the list were left out or padded, by reason.
    files : tuple of Path
        Files that decide the result besides the particle list and its images.
    cut : callable
        Index into the facts -> box (z, y, x) float32.
    """

    kind: str
    voxel_size_angstrom: float
    facts: ParticleFacts
    counts: dict[str, int]
    files: tuple[Path, ...]
    cut: Callable[[int], NDArray[np.float32]]


def particle_facts(
    particles: Particles,
    rows: NDArray[np.int64],
    positions_zyx: NDArray[np.float64],
    wedges: list[MissingWedge],
) -> ParticleFacts:
    """Facts of the chosen rows of a list."""
    distinct, index = wedge_table(wedges)
    return ParticleFacts(
        tuple(particles.tomograms[i] for i in rows), tuple(particles.classes[i] for i in rows), positions_zyx,
        particles.rotations[rows], particles.half_sets[rows], rows, distinct, index,
    )  # fmt: skip


def one_voxel_size(sizes: dict[str, float]) -> float:
    """The voxel size that all inputs share.

    Raises
    ------
    InputError
        When they differ by more than a thousandth.
    """
    (first, size), *others = sizes.items()
    for name, other in others:
        if abs(other - size) > VOXEL_TOLERANCE * size:
            raise InputError(
                name, f"has voxels of {other:g} A, {first} of {size:g} A", "extract them into stores of their own"
            )
    return size
