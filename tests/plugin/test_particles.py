"""Particle lists as points in angstrom, whatever the file counts in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest

from cryoaae.errors import InputError
from napari_cryoaae.facts import KEY
from napari_cryoaae.particles import read_particles
from napari_cryoaae.readers import get_reader

OPTICS = "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnTomoTiltSeriesPixelSize #2\n1 2.5\n2 5.0\n\n"


def star(columns: list[str], rows: list[str], optics: str = "") -> str:
    head = "".join(f"_rln{name} #{i + 1}\n" for i, name in enumerate(columns))
    return f"{optics}data_particles\n\nloop_\n{head}" + "".join(f"{row}\n" for row in rows) + "\n"


def tomogram(path: Path, voxel: float = 10.0, shape: tuple[int, int, int] = (20, 30, 40)) -> None:
    with mrcfile.new(path, np.zeros(shape, np.float32)) as file:
        file.voxel_size = voxel


XYZ = ["CoordinateX", "CoordinateY", "CoordinateZ"]


def test_voxels_times_the_pixel_size_of_their_optics_group(tmp_path: Path) -> None:
    path = tmp_path / "p.star"
    rows = ["TS_1 1 10 20 30 1", "TS_1 2 10 20 30 2", "TS_2 3 1 2 3 1"]
    path.write_text(star(["TomoName", "ClassNumber", *XYZ, "OpticsGroup"], rows, OPTICS))
    first, second = read_particles(path)
    assert (first.tomogram, second.tomogram) == ("TS_1", "TS_2")
    assert np.allclose(first.positions_angstrom_zyx, [[75, 50, 25], [150, 100, 50]])
    assert np.allclose(second.positions_angstrom_zyx, [[7.5, 5, 2.5]])
    assert first.features["rlnClassNumber"].tolist() == [1, 2]
    assert not {f"rln{name}" for name in XYZ} & set(first.features)


def test_without_a_pixel_size_the_tomogram_beside_gives_it(tmp_path: Path) -> None:
    path = tmp_path / "p.star"
    path.write_text(star(XYZ, ["1 2 3", "nan 2 3"]))
    with pytest.raises(InputError, match="does not state a pixel size"):
        read_particles(path)
    tomogram(tmp_path / "even.mrc")
    tomogram(tmp_path / "odd.mrc")
    (found,) = read_particles(path)
    assert np.allclose(found.positions_angstrom_zyx, [[30, 20, 10]])  # one is nowhere
    tomogram(tmp_path / "other.mrc", 5.0)
    with pytest.raises(InputError, match="does not state a pixel size"):
        read_particles(path)


def test_centred_coordinates_count_from_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "p.star"
    path.write_text(star([f"CenteredCoordinate{axis}Angst" for axis in "XYZ"], ["-200 -150 -100", "0 0 0"]))
    tomogram(tmp_path / "t.mrc")
    (found,) = read_particles(path)
    assert np.allclose(found.positions_angstrom_zyx, [[0, 0, 0], [100, 150, 200]])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "coordinates"),
        (star(["AngleRot"], ["1", "2"]), "has no table with coordinates"),
        (star([*XYZ, "PixelSize"], ["nan 1 1 2", "nan 1 1 2"]), "no particle with a finite position"),
        (None, "no such file"),
    ],
)
def test_bad_lists_are_refused_by_name(tmp_path: Path, text: str | None, problem: str) -> None:
    path = tmp_path / "p.star"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=f"p.star.*{problem}"):
        read_particles(path)


def test_simulated_particles_lie_on_their_tomogram(tmp_path: Path) -> None:
    from cryoaae.simulation.dataset import simulate

    folder = simulate(
        tmp_path / "data", shape_zyx=(24, 32, 28), count=6, membranes=0, filaments=0, tilt_step_deg=15.0, seed=3
    )
    reader: Any = get_reader(str(folder / "particles.star"))
    ((points, look, kind),) = reader(str(folder / "particles.star"))
    assert kind == "points"
    assert len(points) > 0
    assert (points >= 0).all()
    assert (points <= 10.0 * np.array([24, 32, 28])).all()
    assert len(look["features"]["rlnClassName"]) == len(points)
    assert look["metadata"][KEY].tomogram == "particles"
    truth = mrcfile.read(folder / "truth_structure.mrc")
    inside = np.mean([truth[tuple((p / 10).astype(int))] for p in points])
    assert abs(inside) > 1.5 * np.abs(truth).mean()  # a particle is where its point is
