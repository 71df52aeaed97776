"""Particles that lie in 3-D subtomogram files already."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError
from cryoaae.io.mrc import open_volume, peek_header
from cryoaae.io.names import file_beside
from cryoaae.io.particles import ANGSTROM, Particles
from cryoaae.physics.wedge import MissingWedge
from cryoaae.subtomograms.crop import cut_box
from cryoaae.subtomograms.source import Source, particle_facts


def image_path(particles: Particles, row: int) -> Path:
    """The image file of a particle.

    Raises
    ------
    InputError
        When the list names none, one image of a stack, or one that is not there.
    """
    entry = particles.images[row]
    found = file_beside(particles.source, entry)
    if found is None or "@" in entry:
        what = f"row {row + 1}: rlnImageName is {entry!r}, not the file of one particle"
        raise InputError(particles.source, what, "extract from the tomograms instead")
    if not found.is_file():
        raise InputError(found, "no such file (rlnImageName)", "keep images where the STAR file names them")
    return found


def image_shifts_voxels(particles: Particles, voxel: float) -> NDArray[np.float64]:
    """From the centre voxel of each image to the particle, (n, 3) z, y, x in voxels."""
    return np.asarray(particles.shifts_zyx / (voxel if particles.units == ANGSTROM else 1.0))


def file_source(
    particles: Particles, box: int, wedge: MissingWedge, *, voxel_size_angstrom: float | None = None
) -> Source:
    """Subtomograms in the MRC files that rlnImageName names; cut to the box, origin shifts applied.

    Parameters
    ----------
    particles : Particles
    box : int
        Edge in voxels, at most that of the files.
    wedge : MissingWedge
        Of all of them: they lie as in their tomograms.

    Raises
    ------
    InputError
        When files are missing, too small, or were cut in turned frames.
    """
    if particles.turned_boxes:
        raise InputError(
            particles.source, "its boxes are turned (rlnTomoSubtomogramRot, Tilt, Psi)", "extract from the tomograms"
        )
    paths = [image_path(particles, row) for row in range(len(particles))]
    voxel = _voxel_size(particles, paths[0], voxel_size_angstrom)
    shifts = image_shifts_voxels(particles, voxel)
    rows = np.arange(len(particles))
    scale = voxel if particles.units == ANGSTROM else 1.0
    positions = particles.points_zyx / scale if not particles.centred else np.full((len(particles), 3), np.nan)
    facts = particle_facts(particles, rows, positions, [wedge] * len(rows))

    def cut(index: int) -> NDArray[np.float32]:
        volume = open_volume(paths[index], voxel_size_angstrom=voxel)
        if min(volume.shape) < box:
            raise InputError(paths[index], f"{volume.shape} voxels are less than the box of {box}", "use --box")
        centre = np.array(volume.shape) // 2 + shifts[index]
        return cut_box([volume], centre, box, volume.header["statistics"].mean)

    return Source("subtomogram files", voxel, facts, {}, (), cut)


def _voxel_size(particles: Particles, first: Path, stated: float | None) -> float:
    """As stated, as the list says, or as the first file says."""
    if stated is not None:
        return stated
    pixels = np.unique(np.round(particles.image_pixel_angstrom, 4))
    if len(pixels) == 1 and np.isfinite(pixels[0]):
        return float(pixels[0])
    if np.isfinite(pixels).any():
        raise InputError(particles.source, f"images of {len(pixels)} pixel sizes", "extract them into own stores")
    size = peek_header(first).voxel_sizes_angstrom_xyz[0]
    if not size > 0:
        raise InputError(first, "states no voxel size", "state it: --voxel-size ANGSTROM")
    return size
