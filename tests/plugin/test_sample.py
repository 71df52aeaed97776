"""File > Open sample in a real window: every panel at once, driven as a user would."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryoaae.io.mrc import open_volume
from napari_cryoaae.facts import Role, facts_of
from napari_cryoaae.sample_data import PANELS, SAMPLE

pytestmark = [pytest.mark.gui, pytest.mark.slow]
Wait = Callable[..., None]


@pytest.fixture
def panels(viewer: Any, wait_until: Wait) -> dict[str, Any]:
    """The panels that opening the sample docks, by name."""
    viewer.open_sample("cryoaae", "sample")

    def docked() -> dict[str, Any]:
        return {title.removesuffix(" (cryoaae)"): dock for title, dock in viewer.window.dock_widgets.items()}

    wait_until(lambda: set(docked()) >= set(PANELS), 200)
    found = docked()
    wait_until(lambda: found["Variability"].structures.shown.alive, 200)
    return found


def test_the_sample_fills_every_panel_and_its_draws_become_a_film(
    viewer: Any, panels: dict[str, Any], wait_until: Wait, tmp_path: Path
) -> None:
    """One test, since opening it takes most of the time."""
    check_contents(viewer, panels, wait_until)
    check_export(viewer, panels["Variability"], wait_until, tmp_path)
    check_close(viewer, panels["Variability"].draws.bar, wait_until)


def test_a_window_that_closed_meanwhile_gets_no_panels(qt_app: Any, wait_until: Wait, monkeypatch: Any) -> None:
    """The panels come after the layers, in a turn of their own; by then there may be no window."""
    import napari.viewer
    from napari.components import ViewerModel

    from napari_cryoaae import sample_data

    model, docked = ViewerModel(), []
    monkeypatch.setattr(napari.viewer, "current_viewer", lambda: model)
    monkeypatch.setattr(sample_data, "open_panels", lambda *_: docked.append(1))
    for closed in (True, False):
        layers = sample_data.open_sample()
        if not closed:
            for data, look, kind in layers:
                getattr(model, f"add_{kind}")(data, **look)
        end = time.monotonic() + 0.05
        wait_until(lambda end=end: time.monotonic() > end)
        assert bool(docked) != closed


def check_contents(viewer: Any, panels: dict[str, Any], wait_until: Wait) -> None:
    names = {layer.name for layer in viewer.layers}
    assert {"TS_01_EVN", "TS_01_ODD", "TS_01_restored", "TS_01 particles"} <= names
    assert any(facts_of(layer).role is Role.STD for layer in viewer.layers)
    tomogram = panels["Tomogram"]
    assert tomogram.tomogram.currentText() == "TS_01"
    wait_until(lambda: len(tomogram.views.columns) == 3)
    request = panels["Restore"].form.request()
    assert (request.model.name, request.first.name) == ("run", "TS_01_EVN.mrc")
    assert "TS_01_restored.mrc" in panels["Provenance"].text.toPlainText()
    wait_until(lambda: panels["Latent"].latent is not None)
    assert len(panels["Latent"].latent) == len(panels["Variability"].structures.model) >= 20
    assert panels["Variability"].draws.film.count() == 3
    for panel in panels.values():  # the viewer puts a gap below a panel that does not want the height
        layout = panel.layout()
        assert layout.itemAt(layout.count() - 1).spacerItem() is None
    # All of it is a copy: what a user writes beside it is not among the program's own files.
    sources = [facts_of(layer).source for layer in viewer.layers]
    assert not any(source.is_relative_to(SAMPLE) for source in sources if source is not None)


def check_export(viewer: Any, panel: Any, wait_until: Wait, folder: Path) -> None:
    from PIL import Image

    panel.tabs.setCurrentWidget(panel.draws)
    panel.draws.over.setChecked(True)
    panel.draws.bar.export_film(folder / "draws.gif")
    wait_until(lambda: panel.message.text().startswith("Wrote"))
    assert facts_of(viewer.layers[-1]).role is Role.STD
    with Image.open(folder / "draws.gif") as gif:
        assert gif.n_frames == 4
        pictures = []
        for index in range(4):
            gif.seek(index)
            pictures.append(np.array(gif.convert("RGB"), float))
    assert all(np.abs(one - other).mean() > 1 for one, other in zip(pictures, pictures[1:], strict=False))
    coloured = np.ptp(pictures[0], axis=2) > 20  # the spread glows
    assert coloured.mean() > 0.01
    panel.draws.bar.export_series(folder / "draws.mrc")
    wait_until(lambda: "draws_004" in panel.message.text())
    for index in range(1, 5):
        written = open_volume(folder / f"draws_{index:03d}.mrc")
        assert np.array_equal(written.data, open_volume(SAMPLE / "draws" / f"draw_{index:03d}.mrc").data)


def check_close(viewer: Any, bar: Any, wait_until: Wait) -> None:
    """Closing the window stops a film."""
    bar.rate.setValue(30.0)
    bar.play.setChecked(True)
    turned: list[int] = []
    bar.turned.connect(turned.append)
    wait_until(lambda: len(turned) >= 3)
    viewer.close()
    before = len(turned)
    end = time.monotonic() + 0.3
    wait_until(lambda: time.monotonic() > end)
    assert len(turned) <= before + 1
