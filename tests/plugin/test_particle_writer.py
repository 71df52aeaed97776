"""Points as STAR: of what was read nothing is lost, and what was changed is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cryoaae.errors import InputError
from cryoaae.io.particle_files import read_particles
from cryoaae.io.star import read_star
from cryoaae.runs.progress import NullProgress
from napari_cryoaae.latent_map import LatentMap, read_latent_map
from napari_cryoaae.particle_writer import CLASS_NAME, CLASS_NUMBER, OUTLIER, write_classes, write_points_layers
from napari_cryoaae.readers import get_reader

Layers = list[tuple[Any, dict[str, Any], str]]


def opened(path: Path) -> Layers:
    """Layers as the viewer hands them to a writer."""
    reader: Any = get_reader(str(path))
    layers = []
    for data, look, kind in reader(str(path)):
        layers.append((np.array(data), look | {"features": pd.DataFrame(look["features"])}, kind))
    return layers


def drop(layer: Any, points: list[int]) -> Any:
    data, look, kind = layer
    return np.delete(data, points, axis=0), look | {"features": look["features"].drop(index=points)}, kind


@pytest.mark.parametrize("source", ["particles", "store"])
def test_what_was_read_is_written_as_it_was(clustered: Any, tmp_path: Path, source: str) -> None:
    layers = opened(getattr(clustered, source))
    assert write_points_layers(str(tmp_path / "out.star"), layers) == [str(tmp_path / "out.star")]
    before, after = read_star(clustered.particles), read_star(tmp_path / "out.star")
    kept = np.sort(np.concatenate([look["features"]["row"] for _, look, _ in layers]))
    assert len(kept) == (30 if source == "particles" else 28)
    pd.testing.assert_frame_equal(
        after.blocks["particles"].reset_index(drop=True), before.blocks["particles"].iloc[kept].reset_index(drop=True)
    )
    assert before.version == after.version == "50001"
    assert str(after.blocks["optics"]) == str(before.blocks["optics"])


def test_points_taken_out_and_features_changed_are_all_that_changes(clustered: Any, tmp_path: Path) -> None:
    first, second = opened(clustered.particles)
    lost = set(first[1]["features"]["row"].iloc[[0, 3]])
    first = drop(first, [0, 3])
    for _, look, _ in (first, second):
        look["features"].loc[look["features"]["row"] == 4, "myColumn"] = "new name"
        look["features"]["myScore"] = look["features"]["row"] / 4
    write_points_layers(str(tmp_path / "out.star"), [second, first])
    before, after = (read_star(path).blocks["particles"] for path in (clustered.particles, tmp_path / "out.star"))
    kept = sorted({*range(30)} - lost)
    assert 4 in kept
    expected = before.iloc[kept].copy()
    expected.loc[expected.index == 4, "myColumn"] = "new_name"
    expected["myScore"] = [str(row / 4) for row in kept]
    pd.testing.assert_frame_equal(after.reset_index(drop=True), expected.reset_index(drop=True))


def _moved(layer: Any) -> Any:
    data = layer[0].copy()
    data[2, 1] += 0.5
    return data, *layer[1:]


def _added(layer: Any) -> Any:
    data, look, kind = layer  # a point that is added gets the features of the one before
    more = pd.concat([look["features"], look["features"].tail(1)])
    return np.vstack([data, data[-1] + 30]), look | {"features": more}, kind


def _in_pixels(layer: Any) -> Any:
    return layer[0], layer[1] | {"units": ("pixel",) * 3}, layer[2]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_moved, "1 points were moved or added"),
        (_added, "1 points were moved or added"),
        (_in_pixels, "units of length"),
        (lambda layer: drop(layer, list(range(len(layer[0])))), "no points"),
        (lambda layer: (layer[0][:, 1:], *layer[1:]), "does not hold points"),
    ],
)
def test_what_is_no_part_of_its_list_is_refused(clustered: Any, tmp_path: Path, change: Any, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        write_points_layers(str(tmp_path / "out.star"), [change(opened(clustered.particles)[0])])
    assert not list(tmp_path.iterdir())


def test_list_or_store_itself_is_never_overwritten(clustered: Any, tmp_path: Path) -> None:
    for source in (clustered.particles, clustered.store):
        before = source.read_bytes()
        link = tmp_path / f"{source.stem}.star"
        link.symlink_to(source)
        with pytest.raises(InputError, match="also an input"):
            write_points_layers(str(link), opened(source))
        assert source.read_bytes() == before
    with pytest.raises(InputError, match="one list"):
        write_points_layers(str(tmp_path / "x.star"), [opened(clustered.particles)[0], opened(clustered.store)[0]])


def test_points_of_the_users_own_come_back_where_they_were(tmp_path: Path) -> None:
    points = np.array([[1.0, 2.0, 3.0], [40.5, 50.0, 60.0]])
    look = {
        "name": "Points", "scale": (2.0,) * 3, "translate": (0.0, 10.0, 0.0), "units": ("nanometer",) * 3,
        "features": pd.DataFrame({"good": [True, False], "a note": ["x", "y"], "rlnClassNumber": [3, 1]}),
    }  # fmt: skip
    write_points_layers(str(tmp_path / "picks.star"), [(points, look, "points")])
    found = read_particles(tmp_path / "picks.star")
    assert found.units == "angstrom"
    assert np.allclose(found.points_zyx, 10 * (2 * points + [0, 10, 0]))
    assert found.classes == ("3", "1")
    assert found.tomograms == ("", "")
    assert found.table["good"].tolist() == ["True", "False"]
    assert "a note" not in found.table


# -- classes edited on the map ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def latent(clustered: Any) -> LatentMap:
    return read_latent_map(clustered.run, NullProgress())


def test_edited_classes_are_written_with_all_that_the_list_said(
    clustered: Any, latent: LatentMap, tmp_path: Path
) -> None:
    members = np.array([1, 4, 7, 20])
    groups = latent.found.split(members, latent.codes["features"][members], 1).renamed(0, "the big one")
    assert write_classes(tmp_path / "all.star", latent, groups) == [tmp_path / "all.star"]
    before, after = (read_star(path) for path in (clustered.particles, tmp_path / "all.star"))
    table = after.blocks["particles"]
    rows = latent.codes["row"]
    same = before.blocks["particles"].iloc[rows].reset_index(drop=True)
    pd.testing.assert_frame_equal(table[same.columns].reset_index(drop=True), same)
    assert [float(v) for v in table[OUTLIER]] == pytest.approx(latent.codes["outlier_score"], abs=1e-4)
    assert table[CLASS_NUMBER].tolist() == [str(groups.numbers[k]) for k in groups.assigned]
    assert table[CLASS_NAME].tolist() == [groups.names[k].replace(" ", "_") for k in groups.assigned]
    assert str(after.blocks["optics"]) == str(before.blocks["optics"])


def test_selection_alone_is_written_and_can_be_extracted(clustered: Any, latent: LatentMap, tmp_path: Path) -> None:
    import cryoaae

    members = np.arange(3, 17)
    write_classes(tmp_path / "some.star", latent, latent.found, members)
    found = read_particles(tmp_path / "some.star")
    assert np.allclose(found.points_zyx, latent.positions_angstrom_zyx[members])
    assert found.classes == tuple(latent.found.names[k] for k in latent.found.assigned[members])
    made = cryoaae.extract(
        list(clustered.tomograms), tmp_path / "s.h5", particles=tmp_path / "some.star", box=12, tilt_range=(-60, 60)
    )
    assert made.particles == len(members)


def test_two_stores_give_two_files(clustered: Any, tmp_path: Path) -> None:
    import shutil

    import cryoaae

    one, two = tmp_path / "one.h5", tmp_path / "two.h5"
    shutil.copy(clustered.store, one)
    shutil.copy(clustered.store, two)
    run = cryoaae.cluster([one, two], tmp_path / "run", clusters=2, model=clustered.run, device="cpu")
    latent = read_latent_map(run, NullProgress())
    first, second = write_classes(tmp_path / "out.star", latent, latent.found, np.array([0, 2, 28, 29, 30]))
    assert (first.name, second.name) == ("out_one.star", "out_two.star")
    assert [len(read_particles(path)) for path in (first, second)] == [2, 3]
    own, index = latent.of_store("two.h5")
    placed = latent.placed["two.h5"]
    assert np.array_equal(latent.positions_angstrom_zyx[own], placed.positions_angstrom_zyx[index])


def test_empty_selection_and_lost_list_are_refused(latent: LatentMap, tmp_path: Path) -> None:
    from dataclasses import replace

    with pytest.raises(InputError, match="nothing is selected"):
        write_classes(tmp_path / "x.star", latent, latent.found, np.empty(0, np.int64))
    with pytest.raises(InputError, match="list of its particles was not found"):
        write_classes(tmp_path / "x.star", replace(latent, placed={}), latent.found)
    assert not list(tmp_path.iterdir())
