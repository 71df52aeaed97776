"""The Variability panel without a window, driven through its widgets on a viewer's model."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryoaae.io.mrc import open_volume
from napari_cryoaae.facts import KEY, Role, facts_of
from napari_cryoaae.sample_data import SAMPLE

pytestmark = pytest.mark.gui
Wait = Callable[..., None]


@pytest.fixture
def panel(model: Any, shown: Callable[[Any], Any]) -> Any:
    from napari_cryoaae.variability_panel import VariabilityPanel

    return shown(VariabilityPanel(model))


@pytest.fixture
def opened(panel: Any, wait_until: Wait) -> Any:
    """The panel with the sample's model, its largest class decoded."""
    panel.open_model(SAMPLE / "clusters")
    wait_until(lambda: panel.structures.shown.alive)
    return panel.structures


def settled(tab: Any, wait_until: Wait) -> np.ndarray:
    """What the layer holds once nothing more is being decoded."""
    wait_until(lambda: not tab.decoder.busy and not tab.jobs.running)
    return tab.shown.layer.data


def click(parent: Any, text: str) -> None:
    from qtpy.QtWidgets import QPushButton

    (button,) = [button for button in parent.findChildren(QPushButton) if button.text() == text]
    button.click()


# -- structures ---------------------------------------------------------------------------------


def test_an_empty_panel_says_what_to_choose_and_a_wrong_folder_what_is_wrong(
    panel: Any, tmp_path: Path, wait_until: Wait
) -> None:
    assert "run folder of `cryoaae cluster --by both`" in panel.message.text()
    assert not panel.structures.controls.isEnabled()
    panel.open_model(tmp_path)
    wait_until(lambda: "no such file" in panel.message.text(), 200)  # the first to load torch
    assert not panel.structures.controls.isEnabled()
    panel.open_draws(tmp_path)
    assert "nothing that cryoaae sample wrote" in panel.message.text()
    assert not list(panel.viewer.layers)


def test_a_slider_decodes_its_code_into_the_one_layer(opened: Any, model: Any, wait_until: Wait) -> None:
    own = opened.model
    first = settled(opened, wait_until).copy()
    assert np.array_equal(first, own.volume(own.cluster_code(0)))
    opened.sliders.sliders[2].setValue(1.5)
    after = settled(opened, wait_until)
    expected = own.axes().moved(own.cluster_code(0), 2, 1.5)
    assert np.array_equal(after, own.volume(expected))
    assert not np.array_equal(after, first)
    (layer,) = model.layers
    assert tuple(layer.scale) == pytest.approx((own.voxel_size_angstrom,) * 3)
    assert facts_of(layer).role is Role.FILM
    assert opened.took.text().endswith(" ms")
    assert np.array_equal(opened.sections.images["xy"].image, after[own.box // 2])


def test_a_drag_shows_only_the_latest_and_never_waits(
    opened: Any, wait_until: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(opened, wait_until)
    go, decoded = threading.Event(), []
    real = type(opened.model).volume

    def slow(self: Any, code: Any) -> Any:
        go.wait(30)
        decoded.append(float(code.style[0]))
        return real(self, code)

    monkeypatch.setattr(type(opened.model), "volume", slow)
    for place in np.linspace(-2, 2, 21):  # a drag; nothing can be decoded meanwhile
        opened.sliders.sliders[0].setValue(place)
    assert opened.decoder.busy
    go.set()
    settled(opened, wait_until)
    assert len(decoded) == 2  # the first, which had begun, and the last
    assert decoded[1] == pytest.approx(2.0 * opened.model.scale)
    assert np.array_equal(opened.shown.layer.data, real(opened.model, opened.code))


def test_modes_and_axes_are_two_views_of_one_code(opened: Any, wait_until: Wait) -> None:
    opened.particle.setValue(3)
    click(opened, "Show")
    volume = settled(opened, wait_until).copy()
    cluster = int(opened.model.assigned[2])
    assert opened.cluster.currentIndex() == cluster
    code = opened.model.particle_code(3)
    assert np.array_equal(volume, opened.model.volume(code))
    _, modes = opened.directions.buttons()
    modes.click()
    directions = opened.model.modes(cluster)
    assert opened.sliders.names == directions.names
    shown = [slider.value() for slider in opened.sliders.sliders]
    assert shown == pytest.approx(np.clip(directions.places(code), -3, 3), abs=0.01)
    assert np.array_equal(settled(opened, wait_until), volume)  # looking at it from elsewhere moves nothing
    opened.sliders.sliders[0].setValue(-1.0)
    expected = opened.model.volume(directions.moved(code, 0, -1.0))
    assert np.allclose(settled(opened, wait_until), expected, atol=1e-5)


def test_another_class_keeps_the_style_and_a_draw_is_new_each_time(opened: Any, wait_until: Wait) -> None:
    opened.sliders.sliders[1].setValue(0.8)
    opened.cluster.setCurrentIndex(1)
    expected = opened.model.axes().moved(opened.model.cluster_code(1), 1, 0.8)
    assert np.array_equal(settled(opened, wait_until), opened.model.volume(expected))
    seen = []
    for _ in range(2):
        click(opened, "New draw")
        seen.append(settled(opened, wait_until).copy())
        assert opened.sliders.sliders[0].value() == pytest.approx(float(opened.code.style[0]), abs=0.01)
    assert not np.array_equal(*seen)
    click(opened, "Mean")
    assert np.array_equal(settled(opened, wait_until), opened.model.volume(opened.model.cluster_code(1)))


def test_selected_points_are_the_ends_of_a_film(opened: Any, model: Any, wait_until: Wait, panel: Any) -> None:
    from napari_cryoaae.readers import read_points

    ((data, look, _),) = read_points(SAMPLE / "TS_01.star")
    layer = model.add_points(data, **look)
    places = opened.model.latent.positions_angstrom_zyx
    points = [int(np.abs(data - places[number - 1]).sum(axis=1).argmin()) for number in (2, 6)]
    click(opened, "From points")
    assert "0 are selected" in panel.message.text()
    layer.selected_data = {points[0]}
    click(opened, "From points")
    assert opened.particle.value() == 2
    assert np.array_equal(settled(opened, wait_until), opened.model.volume(opened.model.particle_code(2)))
    layer.selected_data = set(points)
    opened.frames.setValue(3)
    click(opened, "From points")
    wait_until(lambda: opened.bar.film is not None)
    assert {opened.particle.value(), opened.other.value()} == {2, 6}
    expected = opened.model.between(opened.particle.value(), opened.other.value(), 3)
    assert all(np.array_equal(opened.bar.film.frame(i), opened.model.volume(c)) for i, c in enumerate(expected))
    layer.data = np.vstack([layer.data, [[5.0, 5.0, 5.0]]])
    layer.selected_data = {len(layer.data) - 1}
    click(opened, "From points")
    assert "no particle of this model" in panel.message.text()


def test_a_film_plays_at_its_rate_and_a_slider_stops_it(opened: Any, wait_until: Wait, model: Any) -> None:
    opened.frames.setValue(4)
    click(opened, "Draws of the class")
    wait_until(lambda: opened.bar.film is not None)
    film = opened.bar.film
    opened.bar.rate.setValue(30.0)
    seen: list[int] = []
    opened.bar.turned.connect(seen.append)
    wait_until(lambda: len(seen) >= 6)
    assert [(b - a) % 4 for a, b in zip(seen, seen[1:], strict=False)] == [1] * (len(seen) - 1)  # all, in turn, again
    opened.bar.play.setChecked(False)
    opened.bar.place.setValue(3)
    assert np.array_equal(opened.shown.layer.data, film.frame(2))
    assert opened.bar.label.text() == film.labels[2]
    opened.bar.play.setChecked(True)
    opened.sliders.sliders[0].setValue(-1.0)
    assert not opened.bar.play.isChecked()
    assert np.array_equal(settled(opened, wait_until), opened.model.volume(opened.code))
    # Nor does a film put back a layer that was taken away.
    opened.bar.play.setChecked(True)
    model.layers.remove(opened.shown.layer)
    assert not opened.bar.play.isChecked()
    assert not list(model.layers)


def test_a_walk_goes_along_its_slider(opened: Any, wait_until: Wait) -> None:
    from qtpy.QtWidgets import QPushButton

    settled(opened, wait_until)
    opened.frames.setValue(5)
    walks = [button for button in opened.sliders.findChildren(QPushButton) if button.text() == "Walk"]
    walks[1].click()
    wait_until(lambda: opened.bar.film is not None)
    codes, labels = opened.model.axes().walk(opened.code, 1, 5)
    assert opened.bar.film.labels == tuple(labels)
    assert all(np.array_equal(opened.bar.film.frame(i), opened.model.volume(c)) for i, c in enumerate(codes))


def test_a_series_is_written_and_never_over_files(
    opened: Any, panel: Any, wait_until: Wait, tmp_path: Path
) -> None:
    opened.frames.setValue(3)
    click(opened, "Film between")
    wait_until(lambda: opened.bar.film is not None)
    film = opened.bar.film
    opened.bar.export_series(tmp_path / "way.mrc")
    wait_until(lambda: panel.message.text().startswith("Wrote"))
    for index in range(3):
        written = open_volume(tmp_path / f"way_{index + 1:03d}.mrc", allow_constant=True)
        assert np.array_equal(written.data, film.frame(index))
        assert written.voxel_size_angstrom == pytest.approx(opened.model.voxel_size_angstrom)
    opened.bar.export_series(tmp_path / "way.mrc")
    assert "exists already" in panel.message.text()
    opened.bar.export_film(tmp_path / "way.gif")
    assert "no window" in panel.message.text()
    opened.bar.export_film(tmp_path / "way.avi")
    assert "is no film" in panel.message.text()


def test_the_structure_stays_on_the_slice_beside_the_rest(opened: Any, model: Any, wait_until: Wait) -> None:
    rest = model.add_image(np.zeros((400, 30, 40), np.float32), scale=(2.0,) * 3, name="a tomogram")
    model.dims.set_point(0, 700.0)
    opened.sliders.sliders[0].setValue(0.5)
    settled(opened, wait_until)
    low, high = opened.shown.layer.extent.world
    assert low[0] <= 700.0 <= high[0]
    assert low[2] > rest.extent.world[1][2]
    middle = rest.extent.world.mean(axis=0)[1]
    assert (low[1] + high[1]) / 2 == pytest.approx(middle, abs=opened.model.voxel_size_angstrom)


# -- draws --------------------------------------------------------------------------------------


def test_a_spread_that_was_not_calibrated_says_so(panel: Any, sampled: Any) -> None:
    panel.open_draws(sampled.draws)
    assert "not calibrated" in panel.draws.about.text()


@pytest.fixture
def draws(panel: Any) -> Any:
    """The panel with the sample's draws."""
    panel.open_draws(SAMPLE / "draws")
    return panel.draws


def test_draws_are_shown_once_they_are_played(draws: Any, model: Any, wait_until: Wait) -> None:
    assert not list(model.layers)
    check = json.loads((SAMPLE / "draws" / "report.json").read_text())["calibration"]["check"]["whole"]
    assert f"{check['measured']['after']:.2f} times the error where data were measured" in draws.about.text()
    draws.bar.rate.setValue(30.0)
    draws.bar.play.setChecked(True)
    wait_until(lambda: draws.bar.frame == 2)
    draws.bar.pause()
    (layer,) = model.layers
    file = SAMPLE / "draws" / f"draw_{draws.bar.frame + 1:03d}.mrc"
    assert np.array_equal(layer.data, open_volume(file).data)
    assert layer.name == "TS_01 draws"
    levels = tuple(layer.contrast_limits)
    draws.film.setCurrentIndex(2)  # mode 2
    mean, mode = (open_volume(SAMPLE / "draws" / f"{name}.mrc").data.astype(np.float32) for name in ("mean", "mode_02"))
    draws.bar.place.setValue(7)
    assert np.allclose(np.asarray(model.layers[0].data), mean + 2 * mode, atol=1e-3)
    assert [one.name for one in model.layers] == ["TS_01 mode 2"]
    assert tuple(layer.contrast_limits) == levels  # or what differs would not be seen


def test_the_spread_lies_over_all_else_and_is_read_once(draws: Any, model: Any) -> None:
    draws.over.setChecked(True)
    (std,) = model.layers
    assert np.array_equal(std.data, open_volume(SAMPLE / "draws" / "std.mrc").data)
    draws.bar.place.setValue(2)
    assert model.layers[-1] is std
    assert (std.blending, std.visible) == ("additive", True)
    draws.opacity.setValue(25)
    assert std.opacity == 0.25
    draws.over.setChecked(False)
    assert not std.visible
    draws.over.setChecked(True)
    assert len(model.layers) == 2
    assert std.visible


def test_a_spread_without_draws_says_so_and_can_be_shown(panel: Any, model: Any, tmp_path: Path) -> None:
    import json

    report = json.loads((SAMPLE / "draws" / "report.json").read_text())
    shutil.copy(SAMPLE / "draws" / "std.mrc", tmp_path / "x_std.mrc")
    (tmp_path / "x_std.json").write_text(json.dumps({"format": report["format"], "made_from": report["made_from"]}))
    panel.open_draws(tmp_path / "x_std.mrc")
    assert "no draws to play" in panel.message.text()
    assert not panel.draws.bar.isEnabled()
    panel.draws.over.setChecked(True)
    assert len(model.layers) == 1


def test_draws_of_a_layer_are_offered_by_themselves(panel: Any, model: Any) -> None:
    from napari_cryoaae.readers import read_volume

    data, look, _ = read_volume(SAMPLE / "draws" / "draw_001.mrc")
    layer = model.add_image(data, **look)
    assert panel.draws.film.count() == 3
    assert list(model.layers) == [layer]
    assert layer.metadata[KEY].role is Role.DRAW
