"""The panels without a window: driven through their widgets on a viewer's model."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_cryoaae.facts import KEY, Role, StatedWedge
from napari_cryoaae.readers import get_reader
from napari_cryoaae.sources import PLANES

pytestmark = pytest.mark.gui
SHAPE = (12, 14, 16)
WEDGE = StatedWedge((-50.0, 60.0))
Wait = Callable[..., None]


def test_the_binding_keeps_count_of_none(qt_app: Any) -> None:
    """PySide6 6.12.0 on Python 3.11 does not, and kills the viewer after some thousand events."""
    import sys

    before = sys.getrefcount(None)
    for _ in range(500):
        qt_app.processEvents()
    assert abs(sys.getrefcount(None) - before) < 400


# -- tomogram ------------------------------------------------------------------------------------


def test_empty_viewer_says_what_to_open(model: Any, tomogram_panel: Any) -> None:
    panel = tomogram_panel(model)
    assert "Open a tomogram" in panel.message.text()
    model.add_labels(np.zeros(SHAPE, int), name="segments")
    assert "segments is a labels layer" in panel.message.text()


def test_cursor_and_slab_are_shared_by_panel_and_viewer(
    model: Any, tomogram_panel: Any, wait_until: Wait, add_volumes: Any
) -> None:
    add_volumes(model)
    panel = tomogram_panel(model)
    assert panel.views.cursor_zyx == (6, 7, 8)
    wait_until(lambda: len(panel.views.columns) == 3 and panel.views.columns[2]["xy"].drawn)
    # As a click in the restored column's xz plane would, at x = 3.4, z = 9.2.
    panel.views.columns[1]["xz"].box.picked.emit(3.4, 9.2)
    assert panel.views.cursor_zyx == (9, 7, 3)
    assert np.allclose(model.dims.point, (90, 70, 30))
    model.dims.set_point(0, 20.0)  # the viewer's slider
    assert panel.views.cursor_zyx == (2, 7, 3)
    panel.slab.setValue(3)
    assert model.dims.thickness == (30.0, 30.0, 30.0)
    assert {layer.projection_mode for layer in model.layers} == {"mean"}
    restored = model.layers["restored"].data
    expected = restored[1:4].mean(axis=0)
    wait_until(lambda: np.allclose(panel.views.images("xy")[1], expected, atol=1e-4))
    halves = (model.layers["even half"].data + model.layers["odd half"].data) / 2
    assert np.allclose(panel.views.images("xz")[2], (halves - restored)[:, 6:9].mean(axis=1), atol=1e-4)
    assert [line.value() for line in panel.views.columns[0]["xy"].lines] == [7.5, 3.5]  # y, x


def test_click_in_the_viewer_moves_the_cursor_and_a_drag_does_not(
    model: Any, tomogram_panel: Any, add_volumes: Any
) -> None:
    from types import SimpleNamespace

    add_volumes(model)
    panel = tomogram_panel(model)
    event = SimpleNamespace(type="mouse_press", position=(60.0, 20.0, 110.0))
    for last, place in (("mouse_move", (6, 7, 8)), ("mouse_release", (6, 2, 11))):
        event.type = "mouse_press"
        press = panel.link._on_press(model, event)
        next(press)
        event.type = last
        assert next(press, "ended") == "ended"
        assert panel.views.cursor_zyx == place


@pytest.mark.parametrize("part", ["measured only", "filled in only"])
def test_parts_are_the_librarys_split(
    model: Any, tomogram_panel: Any, wait_until: Wait, part: str, add_volumes: Any
) -> None:
    import torch

    from napari_cryoaae.comparison import Part

    add_volumes(model)
    panel = tomogram_panel(model)
    panel.show_part(Part(part))
    wait_until(lambda: panel.tiles.tile is not None)
    restored = torch.from_numpy(model.layers["restored"].data).double()
    level = restored.mean()
    expected = WEDGE.build().measured(restored - level) + level
    expected = expected if part == "measured only" else restored - expected
    wait_until(lambda: np.abs(panel.views.images("xy")[1] - expected[6].numpy()).max() < 1e-4)
    assert panel.message.text() == ""
    # A cursor inside the same tile needs no new one; other tilts do.
    tile = panel.tiles.tile
    panel.views.columns[0]["xy"].box.picked.emit(1.0, 1.0)
    assert tile.serves(panel._wanted())
    assert panel.tiles.tile is tile
    panel.wedge.low.setValue(-40.0)
    wait_until(lambda: panel.tiles.tile is not tile)
    assert panel.tiles.tile.wedge == StatedWedge((-40.0, 60.0))


def test_parts_need_tilts(model: Any, tomogram_panel: Any, add_volumes: Any) -> None:
    from napari_cryoaae.comparison import Part

    add_volumes(model, wedge=None)
    panel = tomogram_panel(model)
    panel.show_part(Part.FILLED)
    assert "tilts are not known" in panel.message.text()
    assert panel.part is Part.BOTH
    panel.split_whole()
    assert "tilts are not known" in panel.message.text()


def test_whole_split_becomes_two_layers_that_can_be_saved(
    model: Any, tomogram_panel: Any, wait_until: Wait, tmp_path: Path, add_volumes: Any
) -> None:
    from napari_cryoaae.writers import write_volume_layer

    add_volumes(model)
    panel = tomogram_panel(model)
    panel.split_whole()
    wait_until(lambda: len(model.layers) == 5)
    measured, filled = (model.layers[f"restored {role}"] for role in (Role.MEASURED, Role.FILLED))
    assert np.allclose(measured.data + filled.data, model.layers["restored"].data, atol=1e-4)
    assert filled.data.std() > 0.1
    assert filled.metadata[KEY].wedge == WEDGE
    data, look, _ = filled.as_layer_data_tuple()
    write_volume_layer(str(tmp_path / "filled.mrc"), data, look)
    (again, look, _) = get_reader(str(tmp_path / "filled.mrc"))(str(tmp_path / "filled.mrc"))[0]
    assert np.array_equal(again, filled.data)
    assert look["scale"] == pytest.approx((10.0,) * 3)


def test_layer_removed_during_a_split_leaves_nothing_behind(
    model: Any, tomogram_panel: Any, monkeypatch: Any, wait_until: Wait, add_volumes: Any
) -> None:
    import napari_cryoaae.wedge_split as wedge_split

    go = threading.Event()

    def slow(source: Any, wedge: Any) -> Any:
        go.wait(30)
        return np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.float32)

    monkeypatch.setattr(wedge_split, "split_whole", slow)
    add_volumes(model)
    panel = tomogram_panel(model)
    panel.split_whole()
    job = panel.jobs.running["whole"]
    panel.split_whole()  # a second click
    assert panel.jobs.running == {"whole": job}
    model.layers.remove("restored")
    assert panel.jobs.running == {}
    assert job.progress.cancelled()
    ended: list[str] = []
    job.signals.finished.connect(lambda: ended.append("finished"))
    go.set()
    wait_until(lambda: ended)
    assert [layer.name for layer in model.layers] == ["even half", "odd half"]
    assert panel.chips.shown_titles == ["input"]


def test_linked_contrast_and_auto(model: Any, tomogram_panel: Any, wait_until: Wait, add_volumes: Any) -> None:
    add_volumes(model)
    panel = tomogram_panel(model)
    wait_until(lambda: panel.views.columns[2]["yz"].drawn)
    panel.linked.setChecked(True)
    model.layers["even half"].contrast_limits = (40, 60)
    assert model.layers["restored"].contrast_limits == [40, 60]
    wait_until(lambda: list(panel.views.columns[1]["xy"].image.levels) == [40, 60])
    assert panel.shown[2].levels() == (-10, 10)  # the residual
    panel.auto_contrast()
    low, high = model.layers["restored"].contrast_limits
    assert 46 < low < 49.5
    assert 50.5 < high < 54
    panel.linked.setChecked(False)
    model.layers["even half"].contrast_limits = (0, 1)
    assert model.layers["restored"].contrast_limits == [low, high]


def test_no_more_columns_than_there_is_room_for(model: Any, tomogram_panel: Any, add_volumes: Any) -> None:
    add_volumes(model)
    panel = tomogram_panel(model)
    panel.show_volumes([e.title for e in panel.entries])
    assert len(panel.shown) == 4
    assert "input" not in panel.chips.shown_titles
    model.layers.remove("odd half")
    assert "odd half" not in [e.title for e in panel.shown]


def test_one_scale_for_all_planes_of_all_volumes_whatever_stands_above_them(
    model: Any, tomogram_panel: Any, wait_until: Wait, add_volumes: Any
) -> None:
    from qtpy.QtTest import QTest

    add_volumes(model)
    panel = tomogram_panel(model)
    model.layers["restored"].data[:] *= 1e-5  # longer numbers
    panel.views.redraw()
    wait_until(lambda: len(panel.views.columns) == 3 and panel.views.columns[2]["yz"].drawn)
    QTest.qWait(50)
    boxes = {plane: [column[plane].box for column in panel.views.columns] for plane in PLANES}
    pixels = [box.width() / box.viewRect().width() for row in boxes.values() for box in row]
    assert np.ptp(pixels) < 0.005 * np.mean(pixels)
    for row in boxes.values():
        assert np.ptp([box.width() for box in row]) <= 1


def test_spectra_are_drawn_with_the_wedge(model: Any, tomogram_panel: Any, wait_until: Wait, add_volumes: Any) -> None:
    add_volumes(model)
    panel = tomogram_panel(model)
    panel.tabs.setCurrentWidget(panel.spectra)
    wait_until(lambda: len(panel.spectra.plots) == 3)
    lines = panel.spectra.plots[1].listDataItems()
    angles = [float(np.degrees(np.arctan2(line.yData[1], line.xData[1]))) for line in lines]
    assert np.allclose(sorted(angles), [-60.0, 50.0])
    assert all(end in panel.spectra.plots[1].titleLabel.text for end in ("-50°", "+60°"))


def test_validation_is_shown(model: Any, tomogram_panel: Any, tmp_path: Path, add_volumes: Any) -> None:
    add_volumes(model)
    panel = tomogram_panel(model)
    panel.validation.open(tmp_path)
    assert "is not a report" in panel.message.text()
    shells = [{"low_per_angstrom": 0.0, "high_per_angstrom": 0.01, "strict": {"correlation": 0.5}, "lenient": None}]
    reasons = [{"check": "model", "level": "ok", "sentence": "The model was fitted on this tomogram."}]
    report = {"format": "cryoaae validation 1", "name": "t", "verdict": "caution", "reasons": reasons}
    (tmp_path / "report.json").write_text(json.dumps({**report, "held_out": {"shells": shells}}))
    panel.validation.open(tmp_path)
    assert "caution" in panel.validation.verdict.text()
    assert panel.validation.chart.currentText() == "Tilts that were hidden"
    (curve,) = panel.validation.plot.listDataItems()  # of the other there is no number
    assert curve.yData.tolist() == [0.5]


def test_panel_that_is_gone_is_not_called(model: Any, tomogram_panel: Any, wait_until: Wait, add_volumes: Any) -> None:
    from qtpy.QtCore import QEvent
    from qtpy.QtWidgets import QApplication

    add_volumes(model)
    panel = tomogram_panel(model)
    link = panel.link
    panel.deleteLater()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    assert link._on_press not in model.mouse_drag_callbacks
    model.dims.set_point(0, 20.0)
    model.layers.clear()
    add_volumes(model)


# -- provenance ----------------------------------------------------------------------------------


def test_provenance_follows_the_selected_layer(model: Any, shown: Any, restored: Any, add: Any) -> None:
    from qtpy.QtWidgets import QApplication

    from napari_cryoaae.provenance_panel import ProvenancePanel
    from napari_cryoaae.run_folder import read_run

    panel = shown(ProvenancePanel(model))
    assert "Select a layer" in panel.text.toPlainText()
    add(model, restored.run)
    model.layers.selection.active = model.layers["t_restored"]
    digest = read_run(restored.run).digest
    assert digest in panel.text.toPlainText()
    panel.copy()
    assert f"digest: {digest}" in QApplication.clipboard().text()
    model.layers.selection.active = model.layers["t_EVN"]
    assert "even half" in panel.text.toPlainText()
