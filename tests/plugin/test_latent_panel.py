"""The Latent panel without a window: driven through its widgets, by the mouse where a user would use it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryoaae.io.particle_files import read_particles
from cryoaae.io.star import read_star
from napari_cryoaae.facts import Role, facts_of

pytestmark = pytest.mark.gui
Wait = Callable[..., None]


@pytest.fixture
def opened(model: Any, clustered: Any, shown: Callable[[Any], Any], wait_until: Wait) -> Callable[[], Any]:
    """Open the clustering in a new panel."""
    from qtpy.QtTest import QTest

    from napari_cryoaae.latent_panel import LatentPanel

    def opened() -> Any:
        panel = shown(LatentPanel(model))
        panel.open(clustered.run)
        wait_until(lambda: panel.latent is not None and panel.work.job is None)
        QTest.qWait(100)  # the progress bar went, and what is left is laid out anew
        panel.scatter.draw()
        return panel

    return opened


def places(panel: Any, particles: Any) -> np.ndarray:
    """Positions of particles in the tomogram, by which the points of layers are known."""
    return panel.latent.positions_angstrom_zyx[particles]


def filled(layer: Any) -> np.ndarray:
    """Positions of the points of a layer that are filled."""
    return layer.data[layer.face_color[:, 3] > 0]


def pixel(panel: Any, x: float, y: float) -> Any:
    """Where a point of the map lies in the widget."""
    from qtpy.QtCore import QPointF

    plot = panel.scatter.plot
    return plot.mapFromScene(panel.scatter.box.mapViewToScene(QPointF(x, y)))


def same_places(one: np.ndarray, other: np.ndarray) -> bool:
    return np.allclose(np.array(sorted(one.tolist())), np.array(sorted(other.tolist())))


# -- scatter and layers ----------------------------------------------------------------------------


def test_opening_shows_classes_and_particles(opened: Any, model: Any, clustered: Any) -> None:
    panel = opened()
    groups = panel.history.state
    entries = [(panel.classes.topLevelItem(k).text(0), panel.classes.topLevelItem(k).text(1)) for k in range(2)]
    assert entries == [(name, str(size)) for name, size in zip(groups.names, groups.sizes, strict=True)]
    assert [layer.name for layer in model.layers] == ["TS_1 particles", "TS_2 particles"]
    assert sum(len(layer.data) for layer in model.layers) == 28
    for layer in model.layers:
        names = layer.features["cryoaaeClassName"].tolist()
        rows = layer.features["row"].to_numpy()
        of = {row: groups.names[k] for row, k in zip(panel.latent.codes["row"], groups.assigned, strict=True)}
        assert names == [of[row] for row in rows]
    offered = [panel.colour_by.itemText(i) for i in range(panel.colour_by.count())]
    assert {"class", "tomogram", "label", "outlier score", "probability", "rlnAngleRot"} <= set(offered)
    assert "rlnOpticsGroup" not in offered  # one for all
    assert "kappa" in panel.message.text()


def test_lasso_fills_the_points_of_its_particles_and_keys_add_and_remove(
    opened: Any, model: Any, wait_until: Wait
) -> None:
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    panel = opened()
    xy = panel.scatter.xy
    (x0, x1), (y0, y1) = panel.scatter.box.viewRange()
    ordered = np.sort(xy[:, 0])
    widest = 8 + int(np.diff(ordered)[8:20].argmax())
    middle = float(ordered[widest : widest + 2].mean())
    left = np.flatnonzero(xy[:, 0] < middle)
    corners = [(x0, y0), (x0, y1), (middle, y1), (middle, y0), (x0, y0)]
    port = panel.scatter.plot.viewport()

    def drag(corners: list[tuple[float, float]], key: Any) -> None:
        QTest.mousePress(port, Qt.MouseButton.LeftButton, key, pixel(panel, *corners[0]))
        for corner in corners[1:]:
            QTest.mouseMove(port, pixel(panel, *corner))
            QTest.qWait(25)  # the plot library takes no move sooner than that after the last
        QTest.mouseRelease(port, Qt.MouseButton.LeftButton, key, pixel(panel, *corners[-1]))

    inset = [(x + 0.02 * (x1 - x0) * (x == x0), y + 0.02 * (y1 - y0) * (1 if y == y0 else -1)) for x, y in corners]
    drag(inset, Qt.KeyboardModifier.NoModifier)
    assert panel.members().tolist() == left.tolist()
    for layer in model.layers:
        own = left[panel.latent.tomograms[left] == facts_of(layer).tomogram]
        assert same_places(filled(layer), places(panel, own))
    assert panel.count.text() == f"{len(left)} of 28 selected"
    # What is drawn: the selected ones with a rim, the others faint.
    panel.scatter.draw()
    assert {235} not in [set(panel.scatter.image.image[..., 3].ravel().tolist()) - {0}]
    gone = int(left[3])
    at = pixel(panel, *xy[gone])
    QTest.mouseClick(port, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.ControlModifier, at)
    nearest = panel.scatter.nearest(tuple(xy[gone]))
    assert panel.members().tolist() == [i for i in left.tolist() if i not in nearest]
    QTest.mouseClick(port, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.ShiftModifier, at)
    assert panel.members().tolist() == left.tolist()
    panel.clear_button.click()
    assert not any(len(filled(layer)) for layer in model.layers)


def test_points_picked_in_a_layer_are_selected_on_the_map(opened: Any, model: Any) -> None:
    panel = opened()
    first, second = model.layers
    panel.choose(np.arange(28), "replace")
    first.selected_data = {1, 3}
    assert same_places(places(panel, panel.members()), first.data[[1, 3]])
    assert same_places(filled(first), first.data[[1, 3]])
    assert len(filled(second)) == 0
    assert set(first.selected_data) == {1, 3}
    second.selected_data = {0}
    assert same_places(places(panel, panel.members()), second.data[[0]])
    assert not first.selected_data
    panel.choose(np.array([5]), "replace")  # and the other way round: what was picked is no longer
    assert not second.selected_data
    assert panel.members().tolist() == [5]


@pytest.mark.parametrize("source", ["particles", "store"])
def test_any_layer_of_the_same_particles_is_linked(
    opened: Any, model: Any, clustered: Any, source: str, add: Any
) -> None:
    """Be it read from the store, or from the list, which has more of them in another order; before or after."""
    before = add(model, getattr(clustered, source))
    panel = opened()
    assert list(model.layers) == before  # none is added twice
    after = add(model, clustered.store)
    chosen = np.arange(0, 28, 3)
    panel.choose(chosen, "replace")
    for layers in (before, after):
        assert same_places(np.concatenate([filled(layer) for layer in layers]), places(panel, chosen))
    rgb = panel.colouring.rgb
    for layer in before:
        for point, colour in zip(layer.data, layer.border_color, strict=True):
            own = np.flatnonzero((np.abs(panel.latent.positions_angstrom_zyx - point) < 0.1).all(axis=1))
            own = [i for i in own if panel.latent.tomograms[i] == facts_of(layer).tomogram]
            if own:  # two of the list are in no store
                assert np.allclose(colour[:3], rgb[own[0]] / 255, atol=1e-3)


def test_layers_may_lose_points_or_go(opened: Any, model: Any) -> None:
    panel = opened()
    first, second = model.layers
    first.selected_data = {0, 2}
    first.remove_selected()
    panel.choose(np.arange(28), "replace")
    assert len(filled(first)) == len(first.data) == 12
    model.layers.remove(second)
    panel.choose(np.array([0, 1, 2]), "replace")  # a layer that is gone is not written to
    assert len(filled(second)) == len(second.data)
    assert panel.members().tolist() == [0, 1, 2]


def test_legend_selects_and_colours_follow_the_column(opened: Any, model: Any) -> None:
    panel = opened()
    panel.colour_by.setCurrentText("label")
    names = [panel.classes.topLevelItem(k).text(0) for k in range(2)]
    assert names == ["ball", "rod"]
    panel.classes.topLevelItem(1).setSelected(True)
    assert np.array_equal(panel.selected, panel.latent.columns["label"] == "rod")
    assert not panel.buttons.merge.isEnabled()  # labels are not to be edited
    panel.colour_by.setCurrentText("outlier score")
    ends = [panel.classes.topLevelItem(k).text(0) for k in (0, 6)]
    low, high = np.percentile(panel.latent.codes["outlier_score"], (1, 99))
    assert ends == [f"{low:.3g}", f"{high:.3g}"]
    panel.across.setCurrentText("style 2")
    assert np.array_equal(panel.scatter.xy[:, 0], panel.latent.codes["style"][:, 1].astype(float))
    panel.scatter.draw()
    box = panel.scatter.box.viewRect()
    inside = [box.contains(x, y) for x, y in panel.scatter.xy]
    assert all(inside)


def test_codes_that_are_no_numbers_are_counted_not_shown(
    model: Any, clustered: Any, shown: Any, wait_until: Wait, tmp_path: Path
) -> None:
    from napari_cryoaae.latent_panel import LatentPanel

    shutil.copytree(clustered.run, tmp_path / "run")
    with np.load(clustered.run / "codes.npz") as archive:
        codes = dict(archive)
    codes["plane"][[2, 5]] = np.nan
    codes["features"][[2, 5]] = np.nan
    codes["cluster"][:] = 0
    np.savez(tmp_path / "run" / "codes.npz", **codes)
    panel = shown(LatentPanel(model))
    panel.open(tmp_path / "run")
    wait_until(lambda: panel.latent is not None and panel.work.job is None)
    assert panel.count.text() == "0 of 28 selected; 2 not shown: no number on these axes"
    panel.classes.topLevelItem(0).setSelected(True)  # all are of the one class that is left
    assert len(panel.members()) == 28
    panel.buttons.split.click()
    wait_until(lambda: panel.work.job is None)
    assert "no code" in panel.message.text()
    everything = np.array([(-1e9, -1e9), (-1e9, 1e9), (1e9, 1e9), (1e9, -1e9)])
    assert set(range(28)) - set(panel.scatter.inside(everything).tolist()) == {2, 5}


# -- volumes ---------------------------------------------------------------------------------------


def test_average_gallery_and_decoded_class_are_layers(
    opened: Any, model: Any, clustered: Any, wait_until: Wait, add: Any
) -> None:
    from cryoaae.io.mrc import open_volume

    add(model, clustered.tomograms[0])
    panel = opened()
    panel.classes.topLevelItem(0).setSelected(True)
    size = panel.history.state.sizes[0]
    for button in (panel.buttons.average, panel.buttons.gallery, panel.buttons.decode):
        button.click()
        wait_until(lambda: panel.work.job is None)
    made = [layer for layer in model.layers if facts_of(layer).role is Role.SUBTOMOGRAMS]
    what = f"of class 1 ({size})"
    assert [layer.name for layer in made] == [f"{kind} {what}" for kind in ("average", "gallery", "decoded class")]
    written = open_volume(clustered.run / "classes" / "average_01.mrc")
    assert np.allclose(made[0].data, written.numpy(), atol=1e-6)
    assert made[0].scale == pytest.approx([written.voxel_size_angstrom] * 3)
    extents = [layer.extent.world for layer in (model.layers["TS_1"], *made)]
    for i, (low, high) in enumerate(extents):  # nothing lies over anything else, and all are cut by the slice
        assert low[0] <= model.dims.point[0] <= high[0]
        for other_low, other_high in extents[:i]:
            assert (low[1:] > other_high[1:]).any() or (high[1:] < other_low[1:]).any()
    panel.buttons.average.click()
    wait_until(lambda: panel.work.job is None)
    assert [layer.name for layer in model.layers].count(f"average {what}") == 1


def test_cancel_leaves_nothing_and_closing_the_panel_cancels(
    opened: Any, model: Any, qt_app: Any, wait_until: Wait, monkeypatch: Any
) -> None:
    from qtpy.QtCore import QEvent

    import cryoaae.subtomograms.average as library

    panel = opened()
    started, go = threading.Event(), threading.Event()
    real = library.in_reference_frame

    def waiting(*arguments: Any) -> Any:
        started.set()
        go.wait(30)
        return real(*arguments)

    monkeypatch.setattr(library, "in_reference_frame", waiting)
    panel.choose(np.arange(20), "replace")
    before = list(model.layers)
    panel.buttons.average.click()
    wait_until(started.is_set)
    assert not panel.buttons.average.isEnabled()
    panel.work.cancel_button.click()
    go.set()
    wait_until(lambda: panel.work.job is None)
    assert panel.message.text() == "Stopped."
    started.clear()
    go.clear()
    panel.buttons.average.click()
    wait_until(started.is_set)
    job = panel.work.job
    panel.deleteLater()
    qt_app.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    assert job.progress.cancelled()
    go.set()
    job.join(30)
    assert list(model.layers) == before


# -- classes ---------------------------------------------------------------------------------------


def type_name(panel: Any, number: int, name: str) -> None:
    """Rename a class as a user does: choose it, press Rename, type, and press Enter."""
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest
    from qtpy.QtWidgets import QLineEdit

    panel.classes.clearSelection()
    panel.classes.topLevelItem(number).setSelected(True)
    panel.buttons.rename.click()
    editor = panel.classes.findChild(QLineEdit)
    editor.selectAll()
    QTest.keyClicks(editor, name)
    QTest.keyClick(editor, Qt.Key.Key_Return)


def test_classes_are_edited_undone_and_written(
    opened: Any, model: Any, clustered: Any, wait_until: Wait, tmp_path: Path
) -> None:
    panel = opened()
    first = panel.history.state
    panel.choose(np.flatnonzero(first.assigned == 0), "replace")
    panel.buttons.parts.setValue(2)
    panel.buttons.split.click()
    wait_until(lambda: panel.work.job is None)
    split = panel.history.state
    assert split.names == ("1-1", "2", "1-2")
    assert sum(split.sizes[k] for k in (0, 2)) == first.sizes[0]
    for row in (0, 1):
        panel.classes.topLevelItem(row).setSelected(True)
    panel.buttons.merge.click()
    merged = panel.history.state
    assert [panel.classes.topLevelItem(k).text(1) for k in range(2)] == [str(size) for size in merged.sizes]
    type_name(panel, 1, "ring one")
    wait_until(lambda: panel.history.state.names[1] == "ring one")
    type_name(panel, 0, "ring one")
    wait_until(lambda: "name of another class" in panel.message.text())
    assert panel.classes.topLevelItem(0).text(0) == merged.names[0]
    panel.save(tmp_path / "edited.star")
    wait_until(lambda: panel.work.job is None)
    table = read_star(tmp_path / "edited.star").blocks["particles"]
    named = panel.history.state
    assert table["cryoaaeClassName"].tolist() == [named.names[k].replace(" ", "_") for k in named.assigned]
    assert {"myColumn", "rlnOpticsGroup"} <= set(table)
    for layer in model.layers:
        assert set(layer.features["cryoaaeClassName"]) <= set(named.names)
    for _ in range(3):
        panel.buttons.undo.click()
    assert panel.history.state is first
    assert not panel.buttons.undo.isEnabled()
    of = dict(zip(panel.latent.codes["row"], np.array(first.names)[first.assigned], strict=True))
    for layer in model.layers:
        assert layer.features["cryoaaeClassName"].tolist() == [of[row] for row in layer.features["row"]]
    panel.buttons.redo.click()
    assert panel.history.state is split


def test_selection_is_written_through_the_dialog(
    opened: Any, wait_until: Wait, tmp_path: Path, monkeypatch: Any
) -> None:
    from qtpy.QtWidgets import QFileDialog

    panel = opened()
    assert not panel.buttons.save_selection.isEnabled()
    panel.choose(np.array([2, 9, 11]), "replace")
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(tmp_path / "some.star"), ""))
    panel.buttons.save_selection.click()
    wait_until(lambda: panel.work.job is None)
    assert np.allclose(read_particles(tmp_path / "some.star").points_zyx, places(panel, [2, 9, 11]))
    assert str(tmp_path / "some.star") in panel.message.text()


# -- what is not right -----------------------------------------------------------------------------


def test_what_cannot_be_opened_is_said_and_what_was_open_stays(opened: Any, wait_until: Wait, tmp_path: Path) -> None:
    panel = opened()
    panel.open(tmp_path / "nothing")
    wait_until(lambda: panel.work.job is None)
    assert "no codes that can be read" in panel.message.text()
    assert len(panel.latent) == 28
    assert panel.buttons.save_all.isEnabled()


def test_another_map_asked_for_meanwhile_is_opened_instead(
    model: Any, clustered: Any, shown: Any, wait_until: Wait, tmp_path: Path
) -> None:
    from napari_cryoaae.latent_panel import LatentPanel

    shutil.copytree(clustered.run, tmp_path / "second")
    panel = shown(LatentPanel(model))
    panel.open(clustered.run)
    panel.open(tmp_path / "second")
    wait_until(lambda: panel.latent is not None and panel.work.job is None)
    assert panel.latent.folder == tmp_path / "second"


def test_empty_panel_says_what_to_open_and_offers_nothing(model: Any, shown: Any) -> None:
    from napari_cryoaae.latent_panel import LatentPanel

    panel = shown(LatentPanel(model))
    assert "cryoaae cluster" in panel.message.text()
    offered = ("average", "gallery", "written", "decode", "merge", "split", "save_selection", "save_all", "undo")
    assert not any(getattr(panel.buttons, name).isEnabled() for name in offered)
    panel.clear()
    panel.split()
    panel.scatter.draw()
    assert panel.work.job is None
