"""Euler angles as particle lists write them, and rotation matrices on (z, y, x) vectors.

A particle's rotation R takes its reference into the tomogram: the density at p (from the reference's
centre) lies at R p from the particle's.

    RELION, Warp   (rot, tilt, psi)        R = [Rz(rot) Ry(tilt) Rz(psi)]^T      (x, y, z), degrees
    Dynamo         (tdrot, tilt, narot)    R = [Rz(narot) Rx(tilt) Rz(tdrot)]^T

Sources: RELION's `Euler_angles2matrix`, which "maps coordinates from particle space to tomogram space";
for Dynamo the pair of angles known to be equivalent in both programs (tests/io/test_euler.py).

scipy.spatial is loaded by the first of them: it takes longer than to open a volume in a viewer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Angles = NDArray[np.float64]
Matrices = NDArray[np.float64]


def rotation_from_relion(rot_tilt_psi_deg: Angles) -> Matrices:
    """Rotations (n, 3, 3) on (z, y, x) vectors from RELION's angles (n, 3) in degrees."""
    from scipy.spatial.transform import Rotation

    return _swap_axes(Rotation.from_euler("ZYZ", rot_tilt_psi_deg, degrees=True).inv().as_matrix())


def relion_from_rotation(rotations: Matrices) -> Angles:
    """RELION's rot, tilt and psi (n, 3) in degrees of rotations (n, 3, 3) on (z, y, x) vectors."""
    from scipy.spatial.transform import Rotation

    inverse = Rotation.from_matrix(_swap_axes(rotations)).inv()
    return np.asarray(inverse.as_euler("ZYZ", degrees=True, suppress_warnings=True))


def rotation_from_dynamo(tdrot_tilt_narot_deg: Angles) -> Matrices:
    """Rotations (n, 3, 3) on (z, y, x) vectors from Dynamo's angles (n, 3) in degrees."""
    from scipy.spatial.transform import Rotation

    return _swap_axes(Rotation.from_euler("zxz", tdrot_tilt_narot_deg, degrees=True).inv().as_matrix())


def _swap_axes(matrices: Matrices) -> Matrices:
    """Matrices on (x, y, z) vectors as matrices on (z, y, x) vectors, and back."""
    return np.ascontiguousarray(np.asarray(matrices, dtype=np.float64)[..., ::-1, ::-1])
