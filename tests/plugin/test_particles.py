"""Particle lists as points in angstrom, whatever the file counts in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest

from cryoaae.errors import InputError
from napari_cryoaae.facts import KEY
from napari_cryoaae.particles import ROW, place_particles
from napari_cryoaae.readers import get_reader

OPTICS = "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnTomoTiltSeriesPixelSize #2\n1 2.5\n2 5.0\n\n"


def star(columns: list[str], rows: list[str], optics: str = "") -> str:
    head = "".join(f"_rln{name} #{i + 1}\n" for i, name in enumerate(columns))
    return f"{optics}data_particles\n\nloop_\n{head}" + "".join(f"{row}\n" for row in rows) + "\n"


def tomogram(path: Path, voxel: float = 10.0, shape: tuple[int, int, int] = (20, 30, 40)) -> None:
    with mrcfile.new(path, np.zeros(shape, np.float32)) as file:
        file.voxel_size = voxel


XYZ = ["CoordinateX", "CoordinateY", "CoordinateZ"]


def sets(path: Path) -> Any:
    return place_particles(path).sets()


def test_voxels_times_the_pixel_size_of_their_optics_group(tmp_path: Path) -> None:
    path = tmp_path / "p.star"
    rows = ["TS_1 1 10 20 30 1", "TS_1 2 10 20 30 2", "TS_2 3 1 2 3 1"]
    path.write_text(star(["TomoName", "ClassNumber", *XYZ, "OpticsGroup"], rows, OPTICS))
    first, second = sets(path)
    assert (first.tomogram, second.tomogram) == ("TS_1", "TS_2")
    assert np.allclose(first.positions_angstrom_zyx, [[75, 50, 25], [150, 100, 50]])
    assert np.allclose(second.positions_angstrom_zyx, [[7.5, 5, 2.5]])
    assert first.features["rlnClassNumber"].tolist() == [1, 2]
    assert not {f"rln{name}" for name in XYZ} & set(first.features)
    assert [found.features[ROW].tolist() for found in (first, second)] == [[0, 1], [2]]


def test_without_a_pixel_size_the_tomogram_beside_gives_it(tmp_path: Path) -> None:
    path = tmp_path / "p.star"
    path.write_text(star(XYZ, ["1 2 3"]))
    with pytest.raises(InputError, match="does not state a pixel size"):
        sets(path)
    tomogram(tmp_path / "even.mrc")
    tomogram(tmp_path / "odd.mrc")
    (found,) = sets(path)
    assert np.allclose(found.positions_angstrom_zyx, [[30, 20, 10]])
    tomogram(tmp_path / "other.mrc", 5.0)
    with pytest.raises(InputError, match="does not state a pixel size"):
        sets(path)


def test_each_tomogram_counts_by_its_own_file(tmp_path: Path) -> None:
    path = tmp_path / "p.star"
    centred = [f"CenteredCoordinate{axis}Angst" for axis in "XYZ"]
    path.write_text(star([*centred, "TomoName"], ["0 0 0 TS_1", "0 0 0 TS_2"]))
    tomogram(tmp_path / "TS_1_10.00Apx.mrc")
    tomogram(tmp_path / "TS_2.mrc", 20.0, (8, 10, 12))
    first, second = sets(path)
    assert np.allclose(first.positions_angstrom_zyx, [[100, 150, 200]])
    assert np.allclose(second.positions_angstrom_zyx, [[80, 100, 120]])


def test_centred_coordinates_count_from_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "p.star"
    path.write_text(star([f"CenteredCoordinate{axis}Angst" for axis in "XYZ"], ["-200 -150 -100", "0 0 0"]))
    tomogram(tmp_path / "t.mrc")
    (found,) = sets(path)
    assert np.allclose(found.positions_angstrom_zyx, [[0, 0, 0], [100, 150, 200]])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "0 bytes"),
        (star(["AngleRot"], ["1", "2"]), "has neither rlnCenteredCoordinateXAngst nor rlnCoordinateX"),
        (star([*XYZ, "PixelSize"], ["1 1 1 2", "nan 1 1 2"]), "row 2: rlnCoordinateX is nan"),
        (None, "no such file"),
    ],
)
def test_bad_lists_are_refused_by_name(tmp_path: Path, text: str | None, problem: str) -> None:
    path = tmp_path / "p.star"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=f"p.star.*{problem}"):
        sets(path)


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


def test_dynamo_tables_are_points_too(tmp_path: Path) -> None:
    row = ["0"] * 26
    row[19], row[21], row[23:26] = "4", "2", ["10", "20", "3"]
    path = tmp_path / "p.tbl"
    path.write_text(" ".join(row) + "\n")
    tomogram(tmp_path / "4.mrc")
    reader: Any = get_reader(str(path))
    ((points, look, _),) = reader(str(path))
    assert np.allclose(points, [[30, 200, 100]])
    assert look["name"] == "4 particles"


def test_store_is_points_of_its_particles(clustered: Any) -> None:
    from cryoaae.io.store import SubtomogramStore

    reader: Any = get_reader(str(clustered.store))
    layers = reader(str(clustered.store))
    store = SubtomogramStore(clustered.store)
    for points, look, _ in layers:
        known = look["metadata"][KEY]
        own = [i for i, name in enumerate(store.facts.tomograms) if name == known.tomogram]
        assert np.allclose(points, store.facts.positions_zyx[own] * 10.0)
        assert look["features"][ROW].tolist() == store.facts.rows[own].tolist()
        assert all(str(kept).startswith("kept") for kept in look["features"]["myColumn"])
    assert sum(len(points) for points, *_ in layers) == len(store)


def test_other_hdf5_files_are_left_to_others_and_damaged_stores_are_named(clustered: Any, tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["numbers"] = [1, 2]
    (tmp_path / "text.h5").write_text("no HDF5")
    assert get_reader(str(tmp_path / "other.h5")) is None
    assert get_reader(str(tmp_path / "text.h5")) is None
    (tmp_path / "half.h5").write_bytes(clustered.store.read_bytes())
    with h5py.File(tmp_path / "half.h5", "r+") as file:
        file.attrs["complete"] = False
    reader: Any = get_reader(str(tmp_path / "half.h5"))
    with pytest.raises(InputError, match=r"half\.h5.*interrupted"):
        reader(str(tmp_path / "half.h5"))
