"""The Latent panel in a real napari window: needs a display."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryoaae.io.particle_files import read_particles
from napari_cryoaae.facts import Role, facts_of

pytestmark = [pytest.mark.gui, pytest.mark.slow]


def test_open_run_lasso_average_pick_and_save(
    viewer: Any, clustered: Any, wait_until: Callable[..., None], tmp_path: Path
) -> None:
    from qtpy.QtCore import Qt

    viewer.open([str(clustered.tomograms[0]), str(clustered.run)], plugin="cryoaae")
    tomogram, first, second = viewer.layers
    second.visible = False
    _, panel = viewer.window.add_plugin_dock_widget("cryoaae", "Latent")
    wait_until(lambda: panel.latent is not None and panel.work.job is None)
    assert list(viewer.layers) == [tomogram, first, second]  # the map found its particles
    xy = panel.scatter.xy
    own = np.flatnonzero(panel.history.state.assigned == 0)
    (left, low), (right, high) = xy[own].min(axis=0) - 0.01, xy[own].max(axis=0) + 0.01
    box = np.array([(left, low), (left, high), (right, high), (right, low)])
    panel.scatter.box.lassoed.emit(box, Qt.KeyboardModifier.NoModifier)
    inside = np.flatnonzero(((xy > box[0]) & (xy < box[2])).all(axis=1))
    assert panel.members().tolist() == inside.tolist()
    panel.buttons.average.click()
    wait_until(lambda: panel.work.job is None)
    average = viewer.layers[-1]
    assert facts_of(average).role is Role.SUBTOMOGRAMS
    assert np.isfinite(average.data).all()
    assert average.data.std() > 0
    # Points picked in the viewer come back to the map, and what is selected there can be saved.
    first.selected_data = {0, 3, 4}
    picked = first.data[[0, 3, 4]]
    assert np.allclose(np.sort(panel.latent.positions_angstrom_zyx[panel.members()], axis=0), np.sort(picked, axis=0))
    panel.save(tmp_path / "picked.star", panel.members())
    wait_until(lambda: panel.work.job is None)
    assert np.allclose(np.sort(read_particles(tmp_path / "picked.star").points_zyx, axis=0), np.sort(picked, axis=0))
    # The viewer's own saving: both layers, one file, with the classes as they are.
    path = str(tmp_path / "all.star")
    viewer.layers.selection = {first, second}
    assert viewer.layers.save(path, selected=True, plugin="cryoaae") == [path]
    saved = read_particles(path)
    rows = np.sort(panel.latent.codes["row"])
    assert np.allclose(saved.points_zyx, read_particles(clustered.particles).points_zyx[rows])
    assert sorted(saved.classes) == sorted(panel.history.state.names[k] for k in panel.history.state.assigned)


def test_new_points_are_saved_as_a_list_of_their_own(viewer: Any, clustered: Any, tmp_path: Path) -> None:
    viewer.open(str(clustered.tomograms[0]), plugin="cryoaae")
    (tomogram,) = viewer.layers
    points = viewer.add_points(np.array([[5.0, 6.0, 7.0]]), name="picks", scale=tomogram.scale, units=tomogram.units)
    points.add(np.array([[10.0, 20.0, 30.0]]))
    assert points.save(str(tmp_path / "picks.star"), plugin="cryoaae") == [str(tmp_path / "picks.star")]
    assert np.allclose(read_particles(tmp_path / "picks.star").points_zyx, [[50, 60, 70], [100, 200, 300]])
