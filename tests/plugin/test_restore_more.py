"""The Restore panel's fit and preview without a window: what layers and files there are afterwards."""

from __future__ import annotations

import shlex
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cryoaae.io.mrc import open_volume
from cryoaae.physics.ctf import ContrastTransfer
from napari_cryoaae.facts import KEY, Role, StatedWedge, facts_of
from napari_cryoaae.preview_request import DEPTH, EDGE, visible_box
from napari_cryoaae.provenance import provenance
from napari_cryoaae.run_folder import read_run

pytestmark = pytest.mark.gui
Wait = Callable[..., None]
# Of a fit, however busy the machine is.
LONG = 300.0


FIT = "a model fitted on these volumes first"


def fit_form(panel: Any, tiny: Path, tiny_settings: list[str], folder: Path) -> None:
    """Ask for a fit of two steps, and a restoration by it."""
    panel.form.source.setCurrentText(FIT)
    panel.form.wedge.read_file(tiny / "t.tlt")
    panel.form.fit.settings.setText(" ".join([*tiny_settings[1::2], "steps=2", "presence=false"]))
    panel.form.fit.run_folder.setText(str(folder / "run"))
    panel.form.output.setText(str(folder / "x.mrc"))
    panel.form.symmetries.setChecked(False)
    panel.form.device.setCurrentText("cpu")


# -- fit -----------------------------------------------------------------------------------------


def test_fit_and_restore_from_the_panel_stopped_once_on_the_way(
    model: Any, restore_panel: Any, tiny: Path, tiny_settings: list[str], tmp_path: Path,
    wait_until: Wait, monkeypatch: Any, add: Any,
) -> None:
    import cryoaae.restoration.fit as library

    reached, go = threading.Event(), threading.Event()
    real = library.Recorder._on_time

    def waiting(recorder: Any) -> None:
        reached.set()
        go.wait(LONG)
        real(recorder)

    monkeypatch.setattr(library.Recorder, "_on_time", waiting)
    add(model, tiny / "t_EVN.mrc", tiny / "t_ODD.mrc")
    panel = restore_panel(model)
    fit_form(panel, tiny, tiny_settings, tmp_path)
    assert panel.restore_button.text() == "Fit and restore"
    assert not panel.preview_button.isEnabled()
    panel.check()
    wait_until(lambda: panel.job is None, LONG)
    for said in ("two halves, 44 x 48 x 46 voxels of 10 Å", "2 steps at most", "GB of memory are free"):
        assert said in panel.message.text()
    assert not list(tmp_path.iterdir())
    panel.restore()
    wait_until(reached.is_set, LONG)
    panel.cancel_button.click()
    go.set()
    wait_until(lambda: panel.job is None, LONG)
    assert "goes on with it" in panel.message.text()
    assert panel.form.request().resumes
    assert not (tmp_path / "x.mrc").exists()
    assert len(model.layers) == 2
    panel.restore_button.click()
    wait_until(lambda: panel.job is None, LONG)
    layer = model.layers["x"]
    assert (layer.metadata[KEY].role, layer.metadata[KEY].run) == (Role.RESTORED, tmp_path / "run")
    assert np.array_equal(layer.data, open_volume(tmp_path / "x.mrc").data)
    # The next restoration uses the model that was made.
    assert panel.form.model.text() == str(tmp_path / "run")
    assert panel.restore_button.text() == "Restore"
    assert "fitted on t at 10 Å" in panel.form.about.text()


def test_a_fit_needs_tilts_and_a_folder_of_its_own(
    model: Any, restore_panel: Any, restored: Any, tmp_path: Path, wait_until: Wait, add: Any
) -> None:
    add(model, Path(shutil.copy(restored.even, tmp_path)))
    panel = restore_panel(model)
    panel.form.source.setCurrentText(FIT)
    panel.check()
    assert "tilts: not stated" in panel.message.text()
    panel.form.wedge.set_wedge(StatedWedge((-60.0, 60.0)))
    panel.form.fit.run_folder.setText(str(restored.run))
    panel.check()
    wait_until(lambda: panel.job is None)
    assert "already holds a run" in panel.message.text()
    panel.form.fit.run_folder.setText(str(tmp_path / "run"))
    panel.form.fit.settings.setText("patch_sise=16")
    panel.check()
    wait_until(lambda: panel.job is None)
    assert "patch_size" in panel.message.text()  # the nearest name


def test_the_general_restorer_is_adapted_as_the_command_does_it(
    restore_panel: Any, model: Any, restored: Any, add: Any
) -> None:
    from cryoaae.fitting.settings import FitSettings

    add(model, restored.even, restored.odd)
    panel = restore_panel(model)
    panel.form.source.setCurrentText(FIT)
    box = panel.form.fit
    box.preset.setCurrentIndex(box.preset.findData("adapt"))
    assert panel.form.request()._settings() == FitSettings(minutes=3.0)
    box.minutes.setValue(5.5)
    assert panel.form.request()._settings() == FitSettings(minutes=5.5)
    box.settings.setText("seed=4 patch_size=32")
    assert panel.form.request()._settings() == FitSettings(minutes=5.5, seed=4, patch_size=32)
    panel.form.density.setCurrentText("dark")
    assert panel.form.request()._settings() == FitSettings(minutes=5.5, seed=4, patch_size=32, density="dark")


# -- the general restorer ------------------------------------------------------------------------


def test_a_first_restoration_needs_no_model_and_no_fit(
    model: Any, restore_panel: Any, restored: Any, tiny: Path, tmp_path: Path, wait_until: Wait, capsys: Any, add: Any
) -> None:
    """Two halves with their tilt file beside them, one button; then what is said of it."""
    from cryoaae.cli import run
    from cryoaae.models.general import GeneralRestorer
    from cryoaae.restoration.restore import restore_array

    even, odd, _ = (Path(shutil.copy(path, tmp_path)) for path in (restored.even, restored.odd, tiny / "t.tlt"))
    add(model, even, odd)
    panel = restore_panel(model)
    assert panel.form.source.currentText() == "the general restorer, which comes along"
    assert panel.form.unknown.text() == "from t.tlt"
    panel.form.symmetries.setChecked(False)
    panel.form.defocus.setValue(4.0)
    panel.form.flipped.setChecked(False)
    panel.form.density.setCurrentText("dark")
    request = panel.form.request()
    panel.restore_button.click()
    wait_until(lambda: panel.job is None, LONG)
    layer = model.layers["t_restored"]
    expected = restore_array(
        open_volume(even).numpy(), open_volume(odd).numpy(), GeneralRestorer.bundled(), request.wedge.build(),
        voxel_size_angstrom=10.0, device="cpu", contrast_transfer=ContrastTransfer((4.0,), phase_flipped=False),
        density="dark",
    )  # fmt: skip
    assert np.abs(layer.data - expected).max() < 1e-3 * expected.std()
    said = {title: dict(lines) for title, lines in provenance(facts_of(layer))}
    assert "general restorer" in said["Model"]["is"]
    assert said["Model"]["digest"] == said["Restoration"]["model digest"]
    assert "phases not flipped" in said["Restoration"]["contrast transfer undone"]
    again = said["Restoration"]["same again"].replace("TILTS.tlt", str(tmp_path / "t.tlt"))
    assert "--model" not in again
    assert run([*shlex.split(again)[1:], "--dry-run"]) == 0
    assert "done already" in capsys.readouterr().out
    # With a run among the layers, its model is the first choice; what a user chose stays.
    add(model, restored.run)
    assert panel.form.source.currentText() == "a model at hand"
    panel.form.source.setCurrentText("the general restorer, which comes along")
    add(model, restored.output)
    assert panel.form.source.currentText() == "the general restorer, which comes along"


def test_the_general_restorer_asks_for_tilts_that_no_file_states(
    model: Any, restore_panel: Any, restored: Any, tmp_path: Path, wait_until: Wait, add: Any
) -> None:
    (tmp_path / "in").mkdir()
    add(model, *(Path(shutil.copy(path, tmp_path / "in")) for path in (restored.even, restored.odd)))
    (tmp_path / "in" / "t.tlt").write_text("no angles\n")
    panel = restore_panel(model)
    assert "not on yours" in panel.form.about.text()
    panel.check()
    assert "tilts: not stated" in panel.message.text()
    panel.form.wedge.low.setValue(-60.0)
    panel.form.wedge.high.setValue(60.0)
    assert panel.form.unknown.text() == "as stated here"
    panel.form.output.setText(str(tmp_path / "x.mrc"))
    assert panel.form.request().model == Path("general")
    panel.check()
    wait_until(lambda: panel.job is None)
    assert "44 x 48 x 46 voxels" in panel.message.text()
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(("name", "said"), [("general", "a general restorer"), ("codes", "not the weights")])
def test_weights_of_any_kind_are_described_or_refused(
    restore_panel: Any, model: Any, tmp_path: Path, name: str, said: str, clustered: Any
) -> None:
    import cryoaae

    weights = Path(cryoaae.__file__).parent / "weights" / "general.safetensors"
    panel = restore_panel(model)
    panel.form.use(weights if name == "general" else clustered.run)
    assert said in panel.form.about.text()


# -- preview -------------------------------------------------------------------------------------


def test_preview_is_what_the_whole_restoration_will_be_there(
    model: Any, restore_panel: Any, restored: Any, wait_until: Wait, tmp_path: Path, add: Any
) -> None:
    add(model, restored.even, restored.odd)
    panel = restore_panel(model)
    panel.form.use(restored.run)
    panel.form.output.setText(str(tmp_path / "x.mrc"))
    panel.form.symmetries.setChecked(False)
    panel.form.defocus.setValue(3.0)  # which a part is shown without
    model.dims.set_point(0, 200.0)
    panel.preview()
    wait_until(lambda: panel.job is None)
    layer = model.layers["t preview"]
    box = (slice(20 - DEPTH // 2, 20 + DEPTH // 2), slice(0, 48), slice(0, 46))
    whole = open_volume(restored.output).numpy()[box]
    assert layer.data.shape == whole.shape
    assert np.std(layer.data - whole) < 0.05 * whole.std()
    assert np.allclose(layer.translate, (120.0, 0.0, 0.0))
    assert "no file was written; contrast transfer left as it is" in panel.message.text()
    assert not list(tmp_path.iterdir())
    facts = facts_of(layer)
    assert (facts.role, facts.offset_zyx, facts.source) == (Role.PREVIEW, (12, 0, 0), None)
    assert "preview of 16 x 48 x 46 voxels" in facts.made
    assert "contrast transfer left as it is" in facts.made
    assert (facts.run, facts.wedge) == (restored.run, StatedWedge.of(read_run(restored.run).tomograms[0]))
    # Another one takes its place; what was measured of the tomogram is not measured again.
    ready = panel.previewer._ready
    model.dims.set_point(0, 300.0)
    panel.preview()
    wait_until(lambda: panel.job is None)
    previews = [layer for layer in model.layers if facts_of(layer).role is Role.PREVIEW]
    assert [facts_of(layer).offset_zyx for layer in previews] == [(22, 0, 0)]
    assert panel.previewer._ready is ready


def test_preview_of_a_layer_that_went_is_dropped(
    model: Any, restore_panel: Any, restored: Any, wait_until: Wait, monkeypatch: Any, add: Any
) -> None:
    import cryoaae.restoration.part as library

    started, go = threading.Event(), threading.Event()

    def slow(volumes: Any, part: Any, *_: Any, progress: Any, **__: Any) -> Any:
        started.set()
        go.wait(30)
        progress.check()
        return np.zeros([s.stop - s.start for s in part], np.float32)

    monkeypatch.setattr(library, "restore_part", slow)
    add(model, restored.even, restored.odd)
    panel = restore_panel(model)
    panel.form.use(restored.run)
    panel.preview()
    wait_until(started.is_set)
    model.layers.remove("t_EVN")
    go.set()
    wait_until(lambda: panel.job is None)
    assert [layer.name for layer in model.layers] == ["t_ODD"]


@pytest.mark.parametrize("field", ["", "/nowhere"])
def test_preview_without_a_model_is_a_sentence(
    model: Any, restore_panel: Any, restored: Any, wait_until: Wait, field: str, add: Any
) -> None:
    add(model, restored.even)
    panel = restore_panel(model)
    panel.form.use(Path(field))
    panel.form.model.setText(field)
    panel.preview()
    wait_until(lambda: panel.job is None)
    assert ("none chosen" if not field else "no such file") in panel.message.text()


SHAPE = (100, 400, 500)


@pytest.mark.parametrize(
    ("corners", "displayed", "point", "expected"),
    [
        (((0, 0, 0), (0, 0, 0)), (1, 2), (50, 200, 250), (DEPTH, EDGE, EDGE)),  # no canvas
        (((50, 100, 120), (50, 180, 220)), (1, 2), (50, 150, 150), (DEPTH, 81, 101)),  # zoomed in
        (((50, 100, 120), (50, 180, 220)), (1, 2), (50, 390, 490), (DEPTH, 81, 101)),  # the cursor is out of sight
        (((0, 30, 0), (99, 30, 499)), (0, 2), (2, 30, 1), (100, DEPTH, EDGE)),  # xz, cursor in a corner
    ],
)
def test_the_box_of_a_preview_is_what_is_seen_around_the_cursor(
    corners: Any, displayed: tuple[int, int], point: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    layer = SimpleNamespace(
        data=np.broadcast_to(np.float32(0), SHAPE),
        corner_pixels=np.array(corners),
        world_to_data=lambda world: np.array(world) / 10,
    )
    dims = SimpleNamespace(point=np.array(point) * 10.0, ndim=3, displayed=displayed)
    box = visible_box(SimpleNamespace(dims=dims), layer, thickness=1)
    assert tuple(s.stop - s.start for s in box) == expected
    for axis, (s, n) in enumerate(zip(box, SHAPE, strict=True)):
        assert 0 <= s.start < s.stop <= n
        low, high = np.array(corners)[:, axis] + (0, 1)
        if axis not in displayed or high <= low + 1 or low <= point[axis] <= high:
            assert s.start <= point[axis] <= s.stop  # the cursor is in it
        else:
            assert (s.start, s.stop) == (low, high)
