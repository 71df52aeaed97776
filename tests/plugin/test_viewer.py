"""A real napari window, used as a user would: needs a display."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryoaae.io.mrc import open_volume
from napari_cryoaae.facts import KEY, Role

pytestmark = [pytest.mark.gui, pytest.mark.slow]


def docked(viewer: Any, name: str) -> Any:
    _, panel = viewer.window.add_plugin_dock_widget("cryoaae", name, tabify=True)
    return panel


def test_open_compare_split_and_save(
    viewer: Any, restored: Any, wait_until: Callable[..., None], tmp_path: Path
) -> None:
    from napari_cryoaae.comparison import Part

    viewer.open(str(restored.run), plugin="cryoaae")
    assert [layer.name for layer in viewer.layers][:3] == ["t_EVN", "t_ODD", "t_restored"]
    assert {str(unit) for unit in viewer.layers["t_restored"].units} == {"angstrom"}
    panel = docked(viewer, "Tomogram")
    wait_until(lambda: len(panel.views.columns) == 3)
    viewer.dims.set_point(0, 100.0)
    assert panel.views.cursor_zyx[0] == 10
    panel.show_part(Part.FILLED)
    wait_until(lambda: panel.tiles.tile is not None)
    panel.split_whole()
    filled = "t_restored filled in only"
    wait_until(lambda: filled in viewer.layers)
    assert viewer.layers[filled].save(str(tmp_path / "filled.mrc"), plugin="cryoaae") == [str(tmp_path / "filled.mrc")]
    written = open_volume(tmp_path / "filled.mrc")
    assert np.array_equal(written.data, viewer.layers[filled].data)
    assert written.voxel_size_angstrom == pytest.approx(10.0)
    support = panel.wedge.wedge().build().support(written.shape)
    spectrum = np.fft.rfftn(written.numpy())
    assert np.abs(spectrum[support.numpy()]).max() < 1e-3 * np.abs(spectrum).max()


def test_restore_and_read_what_it_was_made_with(
    viewer: Any, restored: Any, wait_until: Callable[..., None], tmp_path: Path
) -> None:
    viewer.open([str(restored.even), str(restored.odd)], plugin="cryoaae")
    panel, said = docked(viewer, "Restore"), docked(viewer, "Provenance")
    panel.form.use(restored.run)
    panel.form.output.setText(str(tmp_path / "x.mrc"))
    panel.form.symmetries.setChecked(False)
    panel.restore_button.click()
    wait_until(lambda: panel.job is None)
    assert viewer.layers["x"].metadata[KEY].role is Role.RESTORED
    viewer.layers.selection.active = viewer.layers["x"]
    assert str(tmp_path / "x.mrc") in said.text.toPlainText()


def test_closing_the_window_cancels_what_runs(
    viewer: Any, restored: Any, wait_until: Callable[..., None], tmp_path: Path, monkeypatch: Any
) -> None:
    import cryoaae.restoration.restore as library

    started, go = threading.Event(), threading.Event()
    real = library.restore_volumes

    def waiting(*arguments: Any, **keywords: Any) -> Any:
        started.set()
        go.wait(30)
        return real(*arguments, **keywords)

    monkeypatch.setattr(library, "restore_volumes", waiting)
    viewer.open(str(restored.run), plugin="cryoaae")
    panel = docked(viewer, "Restore")
    panel.form.output.setText(str(tmp_path / "x.mrc"))
    panel.restore_button.click()
    wait_until(started.is_set)
    job = panel.job
    viewer.close()
    wait_until(job.progress.cancelled)
    go.set()
    job.join(60)
    assert not list(tmp_path.iterdir())


def test_particles_lie_on_their_tomogram(viewer: Any, tmp_path: Path) -> None:
    from cryoaae.simulation.dataset import simulate

    folder = simulate(tmp_path / "data", shape_zyx=(24, 32, 28), count=6, tilt_step_deg=15.0, seed=3)
    viewer.open([str(folder / "full.mrc"), str(folder / "particles.star")], plugin="cryoaae")
    image, points = viewer.layers
    inside = [image.world_to_data(points.data_to_world(p)) for p in points.data]
    assert len(inside) > 0
    assert points.projection_mode == "rescale_spherical"
    assert all(-1 <= i <= n for place in inside for i, n in zip(place, image.data.shape, strict=True))


def test_plane_spread_and_mask_in_the_window(
    viewer: Any, sampled: Any, wait_until: Callable[..., None], tmp_path: Path, monkeypatch: Any
) -> None:
    """What a user sees and keeps of a run with draws: the plane in 3-D, the colours over it, the mask as a file."""
    from qtpy.QtWidgets import QFileDialog

    viewer.open(str(sampled.run), plugin="cryoaae")
    panel = docked(viewer, "Tomogram")
    wait_until(lambda: len(panel.views.columns) == 3)
    panel.show_volumes(["restored"])
    panel.oblique.on.click()
    panel.oblique.in_viewer.click()
    assert viewer.dims.ndisplay == 3
    flat = viewer.screenshot(canvas_only=True, flash=False)
    panel.oblique.tilt.setValue(80)
    steep = viewer.screenshot(canvas_only=True, flash=False)
    assert (flat != steep).any(axis=-1).mean() > 0.01
    panel.oblique.on.click()
    assert viewer.dims.ndisplay == 2
    wait_until(lambda: panel.views.planes == ["xy", "xz", "yz"] and panel.views.columns[0]["xy"].drawn)
    plain = np.array(panel.views.grab().toImage().bits())
    panel.spread.on.click()
    wait_until(lambda: panel.views.legend is not None and panel.views.columns[0]["xy"].colour.image is not None)
    assert not np.array_equal(plain, np.array(panel.views.grab().toImage().bits()))
    panel.mask.look.setCurrentText("mark")
    panel.mask.choice.setCurrentText("spread at most")
    file = tmp_path / "sure.mrc"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(file), ""))
    panel.mask.export.click()
    wait_until(lambda: "Wrote" in panel.message.text())
    chosen = panel.spread.entry().source.block((slice(None),) * 3)
    assert np.array_equal(open_volume(file).data, (chosen <= np.float32(panel.mask.value.value())).astype(int))
    assert 0.3 < open_volume(file).data.mean() < 0.7
