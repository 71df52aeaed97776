"""Particle densities from maps and atomic models, brought to the voxel size of the simulation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cryoaae.errors import InputError
from cryoaae.physics.resample import fourier_resample
from cryoaae.simulation.assemblies import ANGSTROM3_PER_DALTON, Assembly

if TYPE_CHECKING:
    import gemmi

Density = NDArray[np.float32]
# Voxels count as inside a particle from this share of the bulk density.
INSIDE = 0.3
# What is fainter than this share of the peak is ringing or solvent.
FAINT = 0.02
# Blur before sampling more coarsely, in voxels of the coarse grid.
BLUR_VOXEL = 0.45


def density_from_map(data: Density, map_voxel_angstrom: float, voxel_size_angstrom: float) -> Density:
    """Resample a map (z, y, x) to the voxel size and scale its bulk to 1.

    Maps come on any intensity scale and in either contrast's offset: values below zero are solvent.

    Raises
    ------
    ValueError
        When the map holds no positive density.
    """
    positive = np.clip(np.asarray(data, np.float32), 0, None)
    if not positive.any():
        raise ValueError("the map holds no positive density")
    positive = _cropped(positive, FAINT * float(positive.max()))
    ratio = voxel_size_angstrom / map_voxel_angstrom
    padded, new_shape = _padded_for(positive, ratio)
    if ratio > 1.02:  # cutting a sharp spectrum would ring far from the molecule
        padded = np.asarray(gaussian_filter(padded, BLUR_VOXEL * ratio), np.float32)
    resampled = fourier_resample(torch.from_numpy(padded), new_shape).numpy()
    resampled[resampled < FAINT * resampled.max()] = 0
    bulk = resampled[resampled > INSIDE * resampled.max()]
    return np.asarray(resampled / bulk.mean(), np.float32)


def _cropped(density: Density, level: float) -> Density:
    """Cut away faces that hold nothing above `level`."""
    where = np.argwhere(density > level)
    low, high = where.min(axis=0), where.max(axis=0) + 1
    return density[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]


def _padded_for(density: Density, ratio: float) -> tuple[Density, tuple[int, ...]]:
    """Pad so that each size divided by the ratio of voxel sizes is whole within a thousandth."""
    sizes, new_sizes = [], []
    for n in density.shape:
        candidates = range(n + math.ceil(4 * ratio), 2 * n + math.ceil(16 * ratio) + 2)
        best = min(candidates, key=lambda m: (abs(round(m / ratio) * ratio / m - 1) > 1e-3, m))
        sizes.append(best)
        new_sizes.append(max(4, round(best / ratio)))
    room = [((m - n) // 2, m - n - (m - n) // 2) for m, n in zip(sizes, density.shape, strict=True)]
    return np.pad(density, room), tuple(new_sizes)


def assembly_from_structure(structure: gemmi.Structure, name: str) -> Assembly:
    """Turn an atomic model into weighted points, in its first biological assembly if it states one.

    Each atom weighs by its electrons, so that nucleic acid stands out from protein as it does in
    the microscope; waters are left out.

    Raises
    ------
    InputError
        When the model holds no atoms.
    """
    import gemmi

    structure.setup_entities()
    structure.remove_waters()
    if len(structure) == 0:
        raise InputError(name, "the model holds no atoms", "give a PDB or mmCIF file with coordinates")
    model = structure[0]
    if len(structure.assemblies) > 0:
        how = gemmi.HowToNameCopiedChain.Short
        model = gemmi.make_assembly(structure.assemblies[0], model, how)
    atoms = [(*cra.atom.pos.tolist(), float(cra.atom.element.atomic_number)) for cra in model.all()]
    if not atoms:
        raise InputError(name, "the model holds no atoms", "give a PDB or mmCIF file with coordinates")
    table = np.array(atoms, np.float64)
    # Protein has about 6.6 electrons of heavy atoms for 13.3 dalton with hydrogens.
    weights = table[:, 3] * (13.3 / 6.6) * ANGSTROM3_PER_DALTON
    centre = np.average(table[:, :3], axis=0, weights=weights)
    return Assembly(name, table[:, :3] - centre, weights)
