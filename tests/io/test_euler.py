"""Euler conventions against their programs' own formulae and published pairs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoaae.io.euler import relion_from_rotation, rotation_from_dynamo, rotation_from_relion
from cryoaae.simulation.specimen import Particle

ANGLES = np.array([[30.0, 60.0, 75.0], [-120.0, 10.0, 200.0], [0.0, 0.0, 40.0], [10.0, 180.0, 0.0]])


def relion_matrix(rot: float, tilt: float, psi: float) -> np.ndarray:
    """RELION's Euler_angles2matrix, written out: particle to tomogram, (x, y, z)."""
    a, b, g = np.radians([rot, tilt, psi])
    (ca, cb, cg), (sa, sb, sg) = np.cos([a, b, g]), np.sin([a, b, g])
    return np.array(
        [
            [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
            [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
            [sb * ca, sb * sa, cb],
        ]
    )


def test_relion_as_it_is_written_out():
    wanted = np.array([relion_matrix(*angles)[::-1, ::-1] for angles in ANGLES])
    assert np.allclose(rotation_from_relion(ANGLES), wanted)


def test_there_and_back():
    rotations = Rotation.random(20, random_state=0).as_matrix()
    assert np.allclose(rotation_from_relion(relion_from_rotation(rotations)), rotations)


def test_dynamo_by_a_pair_that_gives_the_same_average_in_both_programs():
    dynamo = rotation_from_dynamo(np.array([[-47.2730, 1.1777, -132.3000]]))
    assert np.allclose(dynamo, rotation_from_relion(np.array([[137.7000, 1.1777, 42.7270]])), atol=1e-5)


def test_the_simulation_writes_the_same_convention():
    turn = Rotation.from_euler("XYZ", [20, 30, 40], degrees=True)
    angles = np.array([Particle("a", (0, 0, 0), turn).angles_zyz_deg])
    assert rotation_from_relion(angles)[0] == pytest.approx(turn.as_matrix()[::-1, ::-1])
