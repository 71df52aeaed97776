"""The Tomogram panel's tools without a window: oblique plane, spread, mask, draws; driven through their widgets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryoaae.io.mrc import open_volume
from napari_cryoaae.facts import KEY, LayerFacts, Role, StatedWedge

pytestmark = pytest.mark.gui
SHAPE = (12, 14, 16)
WEDGE = StatedWedge((-50.0, 60.0))
Wait = Callable[..., None]


@pytest.fixture
def add_volumes(add_volumes: Callable[..., None]) -> Callable[..., None]:
    """Halves, a restoration and its spread, where no roles are asked for."""
    all_four = (Role.EVEN, Role.ODD, Role.RESTORED, Role.STD)
    return lambda model, *roles, draws=0: add_volumes(model, *(roles or all_four), draws=draws)


def settled(panel: Any, wait_until: Wait) -> None:
    """Every view has drawn what is shown."""
    wait_until(lambda: not panel.views._timer.isActive() and all(c["xy"].drawn for c in panel.views.columns))


# -- oblique plane -------------------------------------------------------------------------------


def test_oblique_plane_is_a_fourth_view_under_the_same_cursor(
    model: Any, tomogram_panel: Any, wait_until: Wait, add_volumes: Any
) -> None:
    from napari_cryoaae.oblique import ObliqueCut, ObliquePlane

    add_volumes(model)
    panel = tomogram_panel(model)
    assert panel.views.planes == ["xy", "xz", "yz"]
    panel.oblique.on.click()
    panel.oblique.tilt.setValue(40)
    panel.oblique.azimuth.setValue(25)
    plane = ObliquePlane(40, 25)
    titles = [entry.title for entry in panel.shown]
    assert titles == ["input", "restored", "residual"]

    def expected(place: tuple[int, int, int]) -> Any:
        return ObliqueCut.through(place, plane, 1, SHAPE).of(panel.shown[1].source)

    wait_until(lambda: np.array_equal(panel.views.images("oblique")[1], expected((6, 7, 8)), equal_nan=True))
    # A click in it moves the cursor along the plane, in all views and in the main window.
    view = panel.views.columns[0]["oblique"]
    view.box.picked.emit(3.0, -2.0)
    place = panel.views.cursor_zyx
    assert place == view.cut.place(-2.0, 3.0, (0, 0, 0)) != (6, 7, 8)
    assert np.allclose(model.dims.point, np.array(place) * 10.0)
    wait_until(lambda: np.array_equal(panel.views.images("oblique")[1], expected(place), equal_nan=True))
    # The other views show where it cuts them; without it they do not.
    trace = panel.views.columns[0]["xy"].trace
    assert trace.isVisible()
    assert np.isclose(np.tan(np.radians(trace.angle)), -1 / np.tan(np.radians(25)), atol=1e-6)
    panel.oblique.on.click()
    settled(panel, wait_until)
    assert panel.views.planes == ["xy", "xz", "yz"]
    assert not panel.views.columns[0]["xy"].trace.isVisible()


def test_oblique_plane_in_the_main_window_is_the_same_plane_and_goes_again(
    model: Any, tomogram_panel: Any, add_volumes: Any
) -> None:
    add_volumes(model)
    panel = tomogram_panel(model)
    panel.oblique.on.click()
    panel.oblique.tilt.setValue(90)
    panel.oblique.in_viewer.click()
    layer = model.layers["restored"]
    assert model.dims.ndisplay == 3
    assert layer.depiction == "plane"
    assert np.allclose(layer.plane.position, (6, 7, 8))
    assert np.allclose(np.abs(layer.plane.normal), (0, 0, 1), atol=1e-6)
    panel.slab.setValue(5)
    assert layer.plane.thickness == 5
    panel.views.columns[0]["xy"].box.picked.emit(2.0, 3.0)
    assert np.allclose(layer.plane.position, (6, 3, 2))
    # Drawn as volumes, the others would hide it.
    assert [other.name for other in model.layers if other.visible] == ["restored"]
    panel.oblique.on.click()
    assert model.dims.ndisplay == 2
    assert layer.depiction == "volume"
    assert all(other.visible for other in model.layers)


# -- spread --------------------------------------------------------------------------------------


def test_spread_lies_over_the_densities_with_a_legend_in_density_units(
    model: Any, tomogram_panel: Any, wait_until: Wait, add_volumes: Any
) -> None:
    add_volumes(model)
    panel = tomogram_panel(model)
    panel.show_volumes(["restored", "standard deviation"])
    panel.spread.on.click()
    panel.spread.opacity.setValue(40)
    settled(panel, wait_until)
    restored, std = (column["xy"] for column in panel.views.columns)
    assert np.array_equal(restored.colour.image, model.layers["standard deviation"].data[6])
    assert restored.colour.opacity() == pytest.approx(0.4)
    assert list(restored.colour.levels) == [0, 2]  # ends where the grey levels of its layer do
    assert not std.colour.isVisible()  # not over itself
    legend = panel.views.legend
    assert legend.levels() == (0, 2)
    assert "density units" in legend.getAxis("right").labelText
    model.layers["standard deviation"].contrast_limits = (0, 1)
    settled(panel, wait_until)
    assert legend is panel.views.legend
    assert legend.levels() == (0, 1)
    assert list(panel.views.columns[0]["xy"].colour.levels) == [0, 1]
    panel.spread.on.click()
    settled(panel, wait_until)
    assert panel.views.legend is None
    assert not panel.views.columns[0]["xy"].colour.isVisible()


def test_little_spread_is_clear_and_much_is_opaque(qt_app: Any) -> None:
    from napari_cryoaae.slice_view import spread_colours

    table = spread_colours().getLookupTable(0.0, 1.0, 256, alpha=True)
    assert table[0, 3] == 0
    assert table[-1, 3] == 255
    assert (np.diff(table[:, 3].astype(int)) >= 0).all()


def test_without_a_spread_none_is_offered(model: Any, tomogram_panel: Any, add_volumes: Any) -> None:
    add_volumes(model, Role.EVEN, Role.ODD, Role.RESTORED)
    panel = tomogram_panel(model)
    assert not panel.spread.on.isEnabled()
    assert "no std at hand" in panel.spread.choice.currentText()
    add_volumes(model, Role.STD)
    assert panel.spread.on.isEnabled()
    panel.spread.on.click()
    model.layers.remove("standard deviation")
    assert panel.views.overlay is None


# -- mask ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("look", ["hide the rest", "mark"])
def test_mask_hides_or_marks_and_is_saved(
    model: Any, tomogram_panel: Any, wait_until: Wait, tmp_path: Path, look: str, add_volumes: Any
) -> None:
    add_volumes(model)
    panel = tomogram_panel(model)
    panel.mask.look.setCurrentText(look)
    proposed = panel.mask.value.value()
    data = model.layers["restored"].data
    assert (data >= proposed).mean() == pytest.approx(0.05, abs=0.02)
    panel.mask.value.setValue(50.5)
    settled(panel, wait_until)
    for column in panel.views.columns:  # one mask for all volumes
        veil = column["xz"].veil
        assert np.array_equal(veil.image.astype(bool), data[:, 7] >= 50.5)
        opaque = veil.lut[:, 3] > 0
        assert opaque.tolist() == ([True, False] if look == "hide the rest" else [False, True])
    panel.mask.asked.emit(tmp_path / "mask.mrc")
    wait_until(lambda: "Wrote" in panel.message.text())
    written = open_volume(tmp_path / "mask.mrc")
    assert np.array_equal(written.data, (data >= 50.5).astype(int))
    assert written.voxel_size_angstrom == pytest.approx(10.0)
    panel.mask.look.setCurrentText("no mask")
    settled(panel, wait_until)
    assert not panel.views.columns[0]["xz"].veil.isVisible()


def test_mask_by_confidence_needs_a_spread(model: Any, tomogram_panel: Any, wait_until: Wait, add_volumes: Any) -> None:
    add_volumes(model)
    panel = tomogram_panel(model)
    panel.mask.look.setCurrentText("hide the rest")
    panel.mask.choice.setCurrentIndex(4)
    panel.mask.value.setValue(1.5)
    settled(panel, wait_until)
    data, std = model.layers["restored"].data, model.layers["standard deviation"].data
    expected = np.abs(data - np.median(data)) >= 1.5 * std
    seen = panel.views.columns[1]["xy"].veil.image.astype(bool)
    assert (seen == expected[6]).mean() > 0.98  # the background is the median of a sample
    model.layers.remove("standard deviation")
    assert panel.mask.choice.currentIndex() == 0
    assert not panel.mask.choice.model().item(4).isEnabled()


def test_mask_is_never_written_over_a_tomogram(model: Any, tomogram_panel: Any, wait_until: Wait, tiny: Path) -> None:
    from napari_cryoaae.readers import read_volume

    path = tiny / "t_EVN.mrc"
    before = path.read_bytes()
    data, look, _ = read_volume(path)
    model.add_image(data, **look)
    panel = tomogram_panel(model)
    panel.save_mask(path)
    wait_until(lambda: "is the file that the layer is read from" in panel.message.text())
    assert path.read_bytes() == before


# -- draws and previews --------------------------------------------------------------------------


def test_draws_share_one_button_and_a_number(
    model: Any, tomogram_panel: Any, wait_until: Wait, add_volumes: Any
) -> None:
    from qtpy.QtWidgets import QToolButton

    add_volumes(model, Role.EVEN, Role.ODD, Role.RESTORED, draws=3)
    panel = tomogram_panel(model)
    texts = [button.text() for button in panel.chips.buttons]
    assert texts == ["input", "even half", "odd half", "restored", "residual", "draw"]
    panel.chips.buttons[-1].click()
    assert panel.chips.shown_titles[-1] == "draw 1"
    panel.chips.draw.setValue(3)
    settled(panel, wait_until)
    assert [entry.title for entry in panel.shown] == ["input", "restored", "residual", "draw 3"]
    assert np.array_equal(panel.views.images("xy")[3], model.layers["draw 3"].data[6])
    panel.chips.buttons[-1].click()
    assert "draw 3" not in panel.chips.shown_titles
    model.layers.remove("draw 2")
    assert list(panel.chips.draws) == [1, 3]
    # The buttons of before are out of sight, before they are deleted.
    wait_until(lambda: all(button.isVisible() for button in panel.chips.buttons))
    seen = [button for button in panel.chips.findChildren(QToolButton) if button.isVisible()]
    assert set(map(id, seen)) == set(map(id, panel.chips.buttons))


def test_a_preview_is_shown_where_it_lies_and_is_not_split(
    model: Any, tomogram_panel: Any, wait_until: Wait, add_volumes: Any
) -> None:
    from napari_cryoaae.comparison import Part

    add_volumes(model)
    piece = np.full((4, 6, 5), 7.0, np.float32)
    known = LayerFacts(Role.PREVIEW, "t", voxel_size_angstrom=10.0, wedge=WEDGE, offset_zyx=(5, 2, 3))
    model.add_image(piece, name="t preview", scale=(10.0,) * 3, translate=(50, 20, 30), metadata={KEY: known})
    panel = tomogram_panel(model)
    panel.show_volumes(["restored", "preview"])
    settled(panel, wait_until)
    item = panel.views.columns[1]["xy"].image
    assert item.image.shape == (6, 5)
    corner = item.mapToParent(0, 0)
    assert (corner.x(), corner.y()) == (3, 2)  # x, y
    assert np.isnan(panel.views.columns[1]["yz"].image.image).all()  # the cursor's x, 8, lies beside it
    panel.show_part(Part.FILLED)
    wait_until(lambda: panel.tiles.tile is not None)
    assert panel.tiles.tile.titles == ("restored",)
    assert panel.views.shown[1].source is panel.shown[1].source
    assert panel.views.shown[0].source is not panel.shown[0].source


# -- curves --------------------------------------------------------------------------------------


def test_curves_of_draws_come_with_them(model: Any, tomogram_panel: Any, sampled: Any) -> None:
    from napari_cryoaae.readers import get_reader

    for data, look, _ in get_reader(str(sampled.draws))(str(sampled.draws)):
        model.add_image(data, **look)
    panel = tomogram_panel(model)
    assert panel.validation.chart.currentText() == "Spread of the draws"
    assert "2 draws by learned" in panel.validation.verdict.text()
    assert len(panel.validation.plot.listDataItems()) >= 1
    assert "calibrated" in panel.spread.choice.currentText()
