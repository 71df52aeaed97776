"""Columns of a particle list that say where found poses put the particles, in the words of RELION.

With A_s the matrix of rlnTomoSubtomogramRot, Tilt, Psi and o the old origin, a particle that was found turned by R, and
moved by d from the centre of its box, has

    A_p = A_s^-1 R,      A_s o' = A_s o - d        (`io.particles_star` reads them back)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cryoaae.io.euler import relion_from_rotation, rotation_from_relion
from cryoaae.io.particles import ANGSTROM, Particles
from cryoaae.io.particles_star import ANGLES, BOX_ANGLES, ORIGIN_ANGSTROM, ORIGIN_PIXELS
from cryoaae.io.star import numbers

Columns = dict[str, list[str]]


def pose_columns(
    particles: Particles,
    rows: NDArray[np.int64],
    rotations: NDArray[np.float64],
    moved_voxels_zyx: NDArray[np.float64],
    voxel_size_angstrom: float,
    *,
    boxes_at_origin: bool = True,
) -> Columns:
    """Angles and origin of particles of a list, label to values.

    Parameters
    ----------
    particles : Particles
    rows : (n,)
        Which of the list they are.
    rotations : (n, 3, 3)
        Found; on (z, y, x) vectors, reference onto particle.
    moved_voxels_zyx : (n, 3)
        From the centre of a particle's box to where it was found.
    voxel_size_angstrom : float
        Of these voxels.
    boxes_at_origin : bool
        Whether boxes were cut about the listed position less the origin, or about the coordinate alone.
    """
    turned, origin = np.broadcast_to(np.eye(3), (len(rows), 3, 3)), np.zeros((len(rows), 3))
    if particles.star is not None:
        turned = rotation_from_relion(numbers(particles.source, particles.table, BOX_ANGLES, default=0.0))[rows]
        origin = -particles.shifts_zyx[rows] * boxes_at_origin
    unit = voxel_size_angstrom if particles.units == ANGSTROM else 1.0
    origin = np.einsum("nji,nj->ni", turned, origin - moved_voxels_zyx * unit)  # A_s^-1
    angles = relion_from_rotation(np.einsum("nji,njk->nik", turned, rotations))
    labels, scale = _origin_labels(particles, rows, voxel_size_angstrom)
    columns = {label: [f"{value:.4f}" for value in angles[:, i]] for i, label in enumerate(ANGLES)}
    scaled = origin[:, ::-1] * scale
    return columns | {label: [f"{value:.4f}" for value in scaled[:, i]] for i, label in enumerate(labels)}


def _origin_labels(
    particles: Particles, rows: NDArray[np.int64], voxel: float
) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Labels of the origin as this list has them, and one of their units over the unit of its points, (n, 1)."""
    pixel = particles.image_pixel_angstrom[rows, None]
    known = bool(np.isfinite(pixel).all())
    table = () if particles.table is None or particles.star is None else particles.table
    in_pixels = ORIGIN_ANGSTROM[0] not in table and (
        ORIGIN_PIXELS[0] in table or (particles.units != ANGSTROM and not known)
    )
    if particles.units == ANGSTROM:
        return (ORIGIN_PIXELS, 1 / pixel) if in_pixels and known else (ORIGIN_ANGSTROM, np.ones_like(pixel))
    return (ORIGIN_PIXELS, np.ones_like(pixel)) if in_pixels else (ORIGIN_ANGSTROM, np.full_like(pixel, voxel))
