"""A run by alignment alone, as `cryoaae cluster` makes it: all that is there is shown, and what is not is said."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryoaae.errors import InputError
from cryoaae.io.mrc import open_volume
from cryoaae.io.star import read_star
from cryoaae.runs.progress import NullProgress
from napari_cryoaae.facts import LayerFacts, Role, facts_of
from napari_cryoaae.latent_decoding import StructureModel
from napari_cryoaae.latent_map import EXPLAINED, NO_DECODER, LatentMap, read_latent_map
from napari_cryoaae.latent_volumes import ParticleVolumes
from napari_cryoaae.provenance import provenance
from napari_cryoaae.readers import get_reader

Wait = Callable[..., None]


@pytest.fixture(scope="module")
def latent(aligned: Path) -> LatentMap:
    return read_latent_map(aligned, NullProgress())


def written(run: Path) -> dict[str, Path]:
    """Averages of a run by the name of their class."""
    summary = json.loads((run / "clusters.json").read_text())
    files = {name: run / "classes" / f"average_{k + 1:02d}.mrc" for k, name in enumerate(summary["names"])}
    return {name: file for name, file in files.items() if file.exists()}


# -- without Qt ------------------------------------------------------------------------------------


def test_the_map_is_there_and_says_what_is_not(aligned: Path, latent: LatentMap, clustered: Any) -> None:
    assert latent.by_alignment
    assert latent.model is None
    assert NO_DECODER in latent.remarks
    assert {"map 1", "map 2", "feature 1"} <= latent.axes.keys()
    assert not any(axis.startswith("style") for axis in latent.axes)
    assert {"outlier score", "label", "tomogram", "probability"} <= latent.columns.keys()
    assert latent.averages == written(aligned)
    other = read_latent_map(clustered.run, NullProgress())
    assert not other.by_alignment
    assert NO_DECODER not in other.remarks


def test_averages_are_those_of_the_run_by_the_poses_that_it_found(aligned: Path, latent: LatentMap) -> None:
    volumes = ParticleVolumes(latent)
    found = {made.kind: made for made in volumes.written(NullProgress())}
    for k, name in enumerate(latent.found.names):
        members = np.flatnonzero(latent.found.assigned == k)
        made, file = volumes.average(members, NullProgress()), open_volume(written(aligned)[name])
        assert np.allclose(made.data, file.numpy(), atol=1e-5)
        assert made.remark == ""
        again = found[f"average of class {name} as written"]
        assert np.array_equal(again.data, file.numpy())
        assert again.remark == f"{len(members)} particles"
        assert again.source == written(aligned)[name]
    # Frames of two classes have nothing to do with each other.
    assert "frame of its own" in volumes.average(np.arange(len(latent)), NullProgress()).remark


def test_averages_that_were_written_need_no_store(aligned: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(aligned, tmp_path / "run"))
    record = json.loads((moved / "run.json").read_text())
    record["inputs"][0]["path"] = str(tmp_path / "gone" / "store.h5")
    (moved / "run.json").write_text(json.dumps(record))
    volumes = ParticleVolumes(read_latent_map(moved, NullProgress()))
    assert len(volumes.written(NullProgress())) == len(written(moved))
    with pytest.raises(InputError, match="store is not there"):
        volumes.average(np.arange(3), NullProgress())


@pytest.mark.parametrize(("explained", "warned"), [(EXPLAINED - 1, True), (EXPLAINED + 1, False), (None, False)])
def test_what_noise_alone_may_explain_is_said(
    aligned: Path, tmp_path: Path, explained: float | None, warned: bool
) -> None:
    from cryoaae.subtomograms import page

    assert page.EXPLAINED == EXPLAINED
    copied = Path(shutil.copytree(aligned, tmp_path / "run"))
    summary = json.loads((copied / "clusters.json").read_text())
    (copied / "clusters.json").write_text(json.dumps({**summary, "explained": explained}))
    remarks = " ".join(read_latent_map(copied, NullProgress()).remarks)
    assert ("found in noise" in remarks) == warned


def test_there_is_no_structure_to_walk_through(aligned: Path) -> None:
    with pytest.raises(InputError, match="fits no model: no sliders.*--by both"):
        StructureModel.load(aligned, NullProgress())


def test_provenance_says_how_it_was_clustered(
    aligned: Path, clustered: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from cryoaae.cli import run

    layer = LayerFacts(Role.PARTICLES, "t", run=aligned)
    said = {title: dict(lines) for title, lines in provenance(layer)}["Model of particles"]
    assert said["clustered by"] == "alignment"
    assert said["voxel size"].startswith("10 Å, box 12; works on ")
    words = shlex.split(said["same again"])
    assert words[words.index("--by") + 1] == "alignment"
    assert run([*words[1:], "--dry-run", "--overwrite"]) == 0
    assert str(clustered.store) in capsys.readouterr().out


# -- panels ----------------------------------------------------------------------------------------


@pytest.fixture
def panel(model: Any, aligned: Path, shown: Any, wait_until: Wait) -> Any:
    """The Latent panel on the run, opened as a file is."""
    from napari_cryoaae.latent_panel import LatentPanel

    reader: Any = get_reader(str(aligned))
    for data, look, kind in reader(str(aligned)):
        getattr(model, f"add_{kind}")(data, **look)
    found = shown(LatentPanel(model))
    wait_until(lambda: found.latent is not None and found.work.job is None)
    return found


@pytest.mark.gui
def test_everything_but_decoding_is_offered(panel: Any, model: Any, wait_until: Wait, tmp_path: Path) -> None:
    from qtpy.QtCore import Qt

    assert NO_DECODER in panel.message.text()
    xy = panel.scatter.xy
    middle = float(np.median(xy[:, 0]))
    low, high = xy.min(axis=0) - 1, xy.max(axis=0) + 1
    left = np.array([(low[0], low[1]), (low[0], high[1]), (middle, high[1]), (middle, low[1])])
    panel.scatter.box.lassoed.emit(left, Qt.KeyboardModifier.NoModifier)
    chosen = panel.members()
    assert chosen.tolist() == np.flatnonzero(xy[:, 0] < middle).tolist() != []
    filled = np.concatenate([layer.data[layer.face_color[:, 3] > 0] for layer in model.layers])
    assert np.allclose(np.sort(filled, axis=0), np.sort(panel.latent.positions_angstrom_zyx[chosen], axis=0))
    # The outlier score colours them, on a scale.
    panel.colour_by.setCurrentText("outlier score")
    assert panel.colouring.limits is not None
    panel.colour_by.setCurrentText("class")
    buttons = panel.buttons
    assert not buttons.decode.isEnabled()
    assert buttons.decode.toolTip() == NO_DECODER
    for one in (buttons.average, buttons.gallery, buttons.written):
        one.click()
        wait_until(lambda: panel.work.job is None)
    made = [layer for layer in model.layers if facts_of(layer).role is Role.SUBTOMOGRAMS]
    as_written = [f"average of class {name} as written" for name in panel.latent.averages]
    assert [layer.name for layer in made][2:] == as_written
    assert all(np.isfinite(layer.data).all() and layer.data.std() > 0 for layer in made)
    assert facts_of(made[2]).source == next(iter(panel.latent.averages.values()))
    panel.save(tmp_path / "chosen.star", chosen)
    wait_until(lambda: panel.work.job is None)
    table = read_star(tmp_path / "chosen.star").blocks["particles"]
    names = [panel.history.state.names[k] for k in panel.history.state.assigned[chosen]]
    assert table["cryoaaeClassName"].tolist() == names
    assert {"cryoaaeOutlierScore", "myColumn"} <= set(table.columns)


@pytest.mark.gui
def test_variability_says_that_there_is_nothing_to_decode(
    model: Any, aligned: Path, clustered: Any, shown: Any, wait_until: Wait
) -> None:
    from napari_cryoaae.variability_panel import VariabilityPanel

    panel = shown(VariabilityPanel(model))
    panel.open_model(clustered.run)
    wait_until(lambda: panel.structures.model is not None)
    panel.open_model(aligned)
    wait_until(lambda: panel.structures.model is None)
    assert "clustered by alignment, which fits no model" in panel.message.text()
    assert "--by both" in panel.message.text()
    for part in (panel.structures.controls, panel.structures.sliders, panel.structures.film_row):
        assert not part.isEnabled()
    panel.structures.show_mean()
    panel.structures.film_draws()
    assert panel.structures.bar.film is None
