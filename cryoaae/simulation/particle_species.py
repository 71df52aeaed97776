"""Kinds of particles of one size: relatives of known maps, and procedural assemblies, as large as a stated diameter.

Size is told by the radius of gyration, which is sqrt(3 / 5) of the radius for a ball; a density is resampled as if its
voxels were larger or smaller.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError
from cryoaae.io.mrc import open_volume
from cryoaae.simulation.assemblies import random_assembly
from cryoaae.simulation.maps import density_from_map
from cryoaae.simulation.relatives import relative_of
from cryoaae.simulation.specimen import Species

Density = NDArray[np.float32]

GYRATION = math.sqrt(3 / 5)
# Voxels of procedural assemblies before they are brought to their size.
DRAWN_ANGSTROM = 10.0
# Of the logarithm of the diameter.
SPREAD = 0.08
# Reach from the centre of mass at most, in diameters: what is longer is a filament or a piece of membrane.
LONGEST = 0.75
TRIES = 20


def draw_particle_species(
    rng: np.random.Generator,
    maps: Sequence[Path],
    *,
    count: int,
    diameter_angstrom: float,
    voxel_size_angstrom: float,
) -> list[Species]:
    """Draw kinds of particles: every second one a relative of a map, the others procedural; without maps all of them.

    Parameters
    ----------
    maps : sequence of paths
        Density maps with the molecule bright.
    count : int
    diameter_angstrom : float
        That of a ball with the same radius of gyration, up to a few percent.

    Raises
    ------
    InputError
        When a map cannot be read, or nothing compact comes of the maps.
    """
    models = [(path.name, open_volume(path)) for path in maps]
    found = []
    for i in range(count):
        for _ in range(TRIES):
            diameter = diameter_angstrom * math.exp(SPREAD * rng.standard_normal())
            if models and i % 2 == 0:
                name, volume = models[int(rng.integers(len(models)))]
                density, voxel = relative_of(volume.numpy(), rng), volume.voxel_size_angstrom
            else:
                name, voxel = "assembly", DRAWN_ANGSTROM
                density = random_assembly(rng, name).density(voxel)
            radius, reach = _extent(density)
            if reach <= LONGEST * radius / GYRATION * 2:
                factor = diameter * GYRATION / 2 / (radius * voxel)
                sized = density_from_map(density, voxel * factor, voxel_size_angstrom)
                found.append(Species(f"{name}_{i}", _centred(sized)))
                break
        else:
            raise InputError("--maps", f"nothing compact came of {name}", "give maps of compact particles")
    return found


def _extent(density: Density) -> tuple[float, float]:
    """Radius of gyration, and distance from the centre of mass to the furthest density, voxels."""
    positive = np.clip(density, 0, None).astype(np.float64)
    places = np.moveaxis(np.indices(positive.shape), 0, -1)
    centre = (positive[..., None] * places).sum(axis=(0, 1, 2)) / positive.sum()
    distance = np.linalg.norm(places - centre, axis=-1)
    bright = positive > 0.1 * positive.max()
    return math.sqrt(float((positive * distance**2).sum() / positive.sum())), float(distance[bright].max())


def _centred(density: Density) -> Density:
    """The same with its centre of mass in voxel n // 2, to half a voxel."""
    places = np.moveaxis(np.indices(density.shape), 0, -1)
    centre = (density[..., None].astype(np.float64) * places).sum(axis=(0, 1, 2)) / density.sum(dtype=np.float64)
    half = [max(round(c), n - 1 - round(c)) for c, n in zip(centre, density.shape, strict=True)]
    room = [(h - round(c), h - (n - 1 - round(c))) for h, c, n in zip(half, centre, density.shape, strict=True)]
    return np.pad(density, room)
