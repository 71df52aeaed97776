"""The latent map and volumes of its particles, without Qt: what the files say, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryoaae.errors import InputError, InterruptedRunError
from cryoaae.io.mrc import open_volume
from cryoaae.io.particle_files import read_particles
from cryoaae.runs.progress import NullProgress
from napari_cryoaae.facts import KEY, Role
from napari_cryoaae.latent_map import LatentMap, is_latent_folder, read_latent_map
from napari_cryoaae.latent_volumes import MOST_SHOWN, ParticleVolumes, montage
from napari_cryoaae.readers import get_reader


@pytest.fixture(scope="module")
def latent(clustered: Any) -> LatentMap:
    return read_latent_map(clustered.run, NullProgress())


@pytest.fixture
def moved(clustered: Any, tmp_path: Path) -> Path:
    """The run folder alone, in another place."""
    shutil.copytree(clustered.run, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["inputs"][0]["path"] = str(tmp_path / "gone" / "store.h5")
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    return tmp_path / "run"


def test_every_particle_is_where_its_list_has_it(clustered: Any, latent: LatentMap) -> None:
    listed = read_particles(clustered.particles)
    rows = latent.codes["row"]
    assert not (np.diff(rows) > 0).all()  # the store has another order than the list
    assert len(latent) == len(listed) - 2
    assert np.allclose(latent.positions_angstrom_zyx, listed.points_zyx[rows])
    assert latent.tomograms.tolist() == [listed.tomograms[row] for row in rows]
    columns = latent.columns
    assert columns["myColumn"].tolist() == listed.table["myColumn"].iloc[rows].tolist()
    assert columns["label"].tolist() == [listed.classes[row] for row in rows]
    assert columns["rlnAngleRot"].dtype == np.float64
    assert not {"rlnCoordinateX"} & set(columns)


def test_classes_and_axes_are_those_of_the_run(clustered: Any, latent: LatentMap) -> None:
    summary = json.loads((clustered.run / "clusters.json").read_text())
    with np.load(clustered.run / "codes.npz") as codes:
        assert latent.found.sizes == [size for size in summary["sizes"] if size]
        assert np.array_equal(latent.axes["map 2"], codes["plane"][:, 1])
        assert np.array_equal(latent.axes["style 3"], codes["style"][:, 2])
        assert np.array_equal(latent.columns["outlier score"], codes["outlier_score"])
        assert np.allclose(latent.columns["probability"], codes["cluster_probabilities"].max(axis=1))
    assert f"{summary['pose_agreement_kappa']:.2f}" in latent.remarks[0]


def test_codes_without_clusters_show_the_models_classes(clustered: Any, tmp_path: Path) -> None:
    import cryoaae

    folder = cryoaae.embed(clustered.store, tmp_path / "codes", model=clustered.run, device="cpu")
    assert is_latent_folder(folder)
    latent = read_latent_map(folder / "codes.npz", NullProgress())
    likeliest = latent.codes["class_probabilities"].argmax(axis=1)
    assert [latent.found.names[k] for k in latent.found.assigned] == [f"class {k + 1}" for k in likeliest]
    assert "map 1" not in latent.axes
    assert latent.model == clustered.run
    assert "no clusters" in latent.remarks[0]


def test_without_its_store_a_particle_keeps_its_code_and_its_place(moved: Path, latent: LatentMap) -> None:
    alone = read_latent_map(moved, NullProgress())
    assert any("is not where it was" in remark for remark in alone.remarks)
    assert np.allclose(alone.positions_angstrom_zyx, latent.positions_angstrom_zyx)
    assert alone.tomograms.tolist() == latent.tomograms.tolist()
    assert alone.columns["myColumn"].tolist() == latent.columns["myColumn"].tolist()
    with pytest.raises(InputError, match=r"store\.h5: the store is not there"):
        ParticleVolumes(alone).average(np.arange(3), NullProgress())
    assert ParticleVolumes(alone).decoded(np.arange(3), NullProgress()).data.shape == (12, 12, 12)


def test_a_store_is_found_beside_the_run_and_another_one_is_not_taken(moved: Path, clustered: Any) -> None:
    import cryoaae

    beside = moved.parent / "store.h5"
    shutil.copy(clustered.store, beside)
    assert read_latent_map(moved, NullProgress()).stores == {"store.h5": beside}
    cryoaae.extract(
        clustered.tomograms[0], beside, particles=clustered.particles, box=12, tilt_range=(-60, 60), overwrite=True
    )
    other = read_latent_map(moved, NullProgress())
    assert other.stores == {}
    assert any("other particles" in remark for remark in other.remarks)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda codes: codes.pop("style"), "has no style"),
        (lambda codes: codes.update(style=codes["style"][:-1]), "different lengths"),
        (lambda codes: codes.update({name: values[:0] for name, values in codes.items()}), "empty"),
        (None, "no codes that can be read"),
    ],
)
def test_codes_that_are_none_are_refused(moved: Path, change: Any, problem: str) -> None:
    file = moved / "codes.npz"
    if change is None:
        file.write_bytes(file.read_bytes()[:400])
    else:
        with np.load(file) as archive:
            codes = dict(archive)
        change(codes)
        np.savez(file, **codes)
    with pytest.raises(InputError, match=rf"codes\.npz.*{problem}"):
        read_latent_map(moved, NullProgress())


def test_run_folder_opens_as_points_that_name_their_map(clustered: Any, latent: LatentMap) -> None:
    reader: Any = get_reader(str(clustered.run))
    layers = reader(str(clustered.run))
    assert [look["name"] for _, look, _ in layers] == ["TS_1 particles", "TS_2 particles"]
    assert {look["metadata"][KEY].run for _, look, _ in layers} == {clustered.run}
    assert {look["metadata"][KEY].role for _, look, _ in layers} == {Role.PARTICLES}
    assert sum(len(points) for points, *_ in layers) == len(latent)


# -- volumes --------------------------------------------------------------------------------------


def test_average_of_a_whole_cluster_is_the_one_the_run_wrote(clustered: Any, latent: LatentMap) -> None:
    volumes = ParticleVolumes(latent)
    for number in range(len(latent.found.names)):
        made = volumes.average(np.flatnonzero(latent.codes["cluster"] == number), NullProgress())
        written = open_volume(clustered.run / "classes" / f"average_{number + 1:02d}.mrc")
        assert np.allclose(made.data, written.numpy(), atol=1e-6)
        assert made.voxel_size_angstrom == pytest.approx(written.voxel_size_angstrom)
        assert made.remark == ""


def test_decoded_class_is_the_librarys(clustered: Any, latent: LatentMap) -> None:
    from cryoaae.subtomograms.generate import decoded
    from cryoaae.subtomograms.model_files import FittedModel

    likeliest = latent.codes["class_probabilities"].argmax(axis=1)
    members = np.flatnonzero(likeliest == likeliest[0])
    made = ParticleVolumes(latent).decoded(members, NullProgress())
    expected = decoded(FittedModel.load(clustered.run), np.arange(4) == likeliest[0])
    assert np.array_equal(made.data, expected)


def test_gallery_shows_each_particle_once_and_says_how_many_of_more(latent: LatentMap) -> None:
    volumes = ParticleVolumes(latent)
    four = volumes.gallery(np.array([3, 5, 8, 9]), NullProgress())
    assert four.data.shape == (12, 25, 25)
    alone = volumes.gallery(np.array([8]), NullProgress())
    assert np.array_equal(four.data[:, 13:, :12], alone.data)  # the third: second row, first column
    assert alone.data.std() > 0
    assert four.remark == ""
    many = np.arange(MOST_SHOWN + 4) % len(latent)
    assert f"{MOST_SHOWN} of {len(many)}" in volumes.gallery(many, NullProgress()).remark


def test_montage_leaves_gaps_and_empty_places_at_zero() -> None:
    shown = montage([np.full((2, 2, 2), value, np.float32) for value in (1, 2, 3)])
    assert shown[0].tolist() == [[1, 1, 0, 2, 2], [1, 1, 0, 2, 2], [0] * 5, [3, 3, 0, 0, 0], [3, 3, 0, 0, 0]]


def test_averaging_stops_when_asked_to(latent: LatentMap) -> None:
    progress = NullProgress()
    volumes = ParticleVolumes(latent)
    volumes.average(np.arange(2), progress)
    progress.cancel()
    with pytest.raises(InterruptedRunError):
        volumes.average(np.arange(len(latent)), progress)


def test_without_poses_the_average_says_that_it_is_of_particles_as_they_lie(clustered: Any, tmp_path: Path) -> None:
    import cryoaae

    table = clustered.particles.read_text().splitlines()
    columns = [line.split()[0] for line in table if line.startswith("_rlnAngle")]
    assert len(columns) == 3
    plain = [_without_angles(line) for line in table if not line.startswith("_rlnAngle")]
    (tmp_path / "plain.star").write_text("\n".join(plain) + "\n")
    tomograms = list(clustered.tomograms)
    cryoaae.extract(tomograms, tmp_path / "s.h5", particles=tmp_path / "plain.star", box=12, tilt_range=(-60, 60))
    folder = cryoaae.embed(tmp_path / "s.h5", tmp_path / "codes", model=clustered.run, device="cpu")
    latent = read_latent_map(folder, NullProgress())
    made = ParticleVolumes(latent).average(np.arange(len(latent)), NullProgress())
    assert "as they lie" in made.remark
    assert made.data[6, 6, 6] > 3 * made.data[:, :3].std()  # bright particles, all in the middle of their boxes


def _without_angles(line: str) -> str:
    words = line.split()
    return " ".join(words[:3] + words[6:]) if len(words) == 10 else line
