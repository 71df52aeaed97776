"""Found poses written into lists of every kind and read back: the particle is where, and turned as, it was found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoaae.io.particle_files import read_particles, write_particles
from cryoaae.io.particle_poses import pose_columns

VOXEL = 10.0
ROWS = np.array([2, 0])


def star(columns: list[str], row: str, optics: str = "") -> str:
    heads = [f"_{name} #{i + 1}" for i, name in enumerate(columns)]
    return "\n".join([optics, "data_particles", "", "loop_", *heads, *[row] * 3]) + "\n"


OPTICS = "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnImagePixelSize #2\n1 5.0\n"
COORDINATES = ["rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ"]
ANGLES = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
LISTS = {
    "relion5.star": star(
        [*(f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"), *ANGLES,
         "rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi",
         "rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst", "rlnOpticsGroup"],
        "30 -40 50 10 20 30 40 50 60 3 -2 7 1", OPTICS),
    "relion3.star": star(
        [*COORDINATES, "rlnOriginX", "rlnOriginY", "rlnOriginZ", "rlnOpticsGroup"], "30 40 50 1 2 -3 1", OPTICS),
    "plain.star": star([*COORDINATES, "myColumn"], "30 40 50 kept"),
    "list.csv": "x,y,z\n" + "30,40,50\n" * 3,
    "angstrom.csv": "x_angstrom,y_angstrom,z_angstrom\n" + "300,400,500\n" * 3,
}  # fmt: skip


@pytest.mark.parametrize("name", LISTS)
def test_what_is_written_is_read_back(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(LISTS[name])
    listed = read_particles(path)
    rng = np.random.default_rng(0)
    turns, moved = Rotation.random(2, rng=rng).as_matrix(), rng.normal(size=(2, 3))
    columns = pose_columns(listed, ROWS, turns, moved, VOXEL)
    write_particles(tmp_path / "found.star", listed, rows=ROWS, columns=columns)
    again = read_particles(tmp_path / "found.star")
    assert again.rotations == pytest.approx(turns, abs=1e-5)
    unit = VOXEL if listed.units == "angstrom" else 1.0
    assert again.points_zyx == pytest.approx(listed.points_zyx[ROWS] + moved * unit, abs=1e-3)


def test_a_box_about_the_coordinate_forgets_the_old_origin(tmp_path: Path) -> None:
    path = tmp_path / "relion3.star"
    path.write_text(LISTS["relion3.star"])
    listed = read_particles(path)
    turns, moved = np.broadcast_to(np.eye(3), (2, 3, 3)), np.full((2, 3), 0.5)
    columns = pose_columns(listed, ROWS, turns, moved, VOXEL, boxes_at_origin=False)
    # Half a voxel of 10 angstrom is one pixel of 5, and an origin is taken off.
    assert columns["rlnOriginX"] == ["-1.0000"] * 2
