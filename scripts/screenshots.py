"""Drive the napari plugin's panels on a simulated (or a given) tomogram and write a picture of each.

Needs a display; without one: xvfb-run -a -s "-screen 0 1600x1000x24" .venv/bin/python scripts/screenshots.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZE = (1500, 900)
SHAPE_ZYX, SNR, SEED, STEPS, DRAWS = (64, 112, 112), 1.0, 7, 60, 4
# On the membrane that this seed makes round, as a share of the shape: what the wedge hides of it is filled in.
CURSOR = (0.5, 0.44, 0.68)
LONGEST_WAIT_SECONDS = 300.0


def make_run(folder: Path) -> Path:
    """Simulate a small tomogram, fit the general restorer further on it, restore, validate and sample."""
    import cryoaae
    from cryoaae.config import load_fit_config

    data = cryoaae.simulate(folder / "data", shape_zyx=SHAPE_ZYX, snr=SNR, seed=SEED)
    halves = {"even": data / "even.mrc", "odd": data / "odd.mrc"}
    settings = load_fit_config(steps=STEPS)
    run = cryoaae.fit([], folder / "run", **halves, tilts=data / "tilts.tlt", settings=settings, overwrite=True)
    cryoaae.restore([], folder / "restored.mrc", model=run, **halves, overwrite=True)
    cryoaae.validate([], folder / "validation", model=run, **halves, tilts=data / "tilts.tlt", overwrite=True)
    cryoaae.sample([], folder / "draws", model=run, **halves, draws=DRAWS, modes=2, overwrite=True)
    return run


def make_aligned(folder: Path) -> Path:
    """Cluster the sample's particles by alignment alone, as `cryoaae cluster` does by itself."""
    import cryoaae
    from napari_cryoaae.sample_data import SAMPLE

    run = folder / "aligned"
    return run if (run / "clusters.json").exists() else cryoaae.cluster(SAMPLE / "particles.h5", run, clusters=2)


class Camera:
    """A napari window of a fixed size, and pictures of it."""

    def __init__(self, folder: Path) -> None:
        import napari

        self.viewer = napari.Viewer(show=True)
        self.viewer.window.resize(*SIZE)
        self.folder = folder

    def panel(self, name: str) -> Any:
        return self.viewer.window.add_plugin_dock_widget("cryoaae", name, tabify=True)[1]

    def wait(self, true: Callable[[], Any]) -> None:
        """Let the window work until something is true, then settle."""
        from qtpy.QtTest import QTest

        end = time.monotonic() + LONGEST_WAIT_SECONDS
        while not true():
            if time.monotonic() > end:
                raise SystemExit("the window did not come to rest")
            QTest.qWait(5)
            time.sleep(0.05)  # QTest keeps Python's lock while it waits, and the work in other threads waits too
        QTest.qWait(400)

    def picture(self, name: str) -> None:
        self.viewer.window.resize(*SIZE)
        self.viewer.reset_view()
        self.wait(lambda: True)
        self.viewer.screenshot(str(self.folder / f"{name}.png"), canvas_only=False, flash=False)


def take_tomogram(camera: Camera) -> None:
    from napari_cryoaae.comparison import Part

    panel = camera.panel("Tomogram")
    camera.wait(lambda: panel.views.columns)
    panel.slab.setValue(3)
    panel.views.set_cursor([round(share * size) for share, size in zip(CURSOR, SHAPE_ZYX, strict=True)])
    panel.views.cursor_moved.emit(panel.views.cursor_zyx)
    panel.auto_contrast()
    camera.picture("tomogram")
    take_split(camera, panel)
    panel.show_part(Part.FILLED)
    camera.wait(lambda: panel.tiles.tile is not None and not panel.message.text())
    panel.tabs.setCurrentWidget(panel.spectra)
    camera.wait(lambda: panel.spectra.plots)
    camera.picture("spectrum")
    panel.tabs.setCurrentWidget(panel.validation)
    camera.picture("validation")
    panel.show_part(Part.BOTH)
    panel.tabs.setCurrentWidget(panel.views)
    take_tools(camera, panel)


def take_split(camera: Camera, panel: Any) -> None:
    """The restoration beside what was measured of it and what was filled in, each on a grey scale of its own."""
    before, layers = [entry.title for entry in panel.shown], camera.viewer.layers
    panel.split_whole()
    camera.wait(lambda: "both parts" in panel.message.text().lower())
    parts = [layer for layer in layers if layer.name.endswith(" only")]
    for layer in parts:
        layer.visible = False
    panel.show_volumes(["restored", "measured only", "filled in only"])
    camera.wait(lambda: panel.views.columns[2]["yz"].drawn)
    panel.auto_contrast()
    camera.picture("filled_in")
    for layer in parts:
        layers.remove(layer)
    layers.selection.active = layers[-1]
    panel.show_volumes(before)


def take_tools(camera: Camera, panel: Any) -> None:
    """The oblique plane and the spread; then a mask over a draw."""
    panel.oblique.on.click()
    panel.oblique.tilt.setValue(35)
    panel.oblique.azimuth.setValue(30)
    panel.spread.on.click()
    panel.show_volumes(["restored"])
    camera.picture("oblique_and_spread")
    panel.spread.on.click()
    panel.oblique.on.click()
    panel.show_volumes(["restored", "standard deviation", *list(panel.chips.draws.values())[:1]])
    panel.mask.look.setCurrentText("hide the rest")
    panel.mask.value.setValue(panel.mask.value.value() / 2)
    camera.picture("mask")
    panel.mask.look.setCurrentText("no mask")


def take_restore(camera: Camera, run: Path, work: Path) -> None:
    from napari_cryoaae.restore_form import FIT, WITHOUT

    panel = camera.panel("Restore")
    panel.form.output.setText(str(work / "from_napari.mrc"))
    panel.form.overwrite.setChecked(True)
    panel.form.source.setCurrentText(WITHOUT)
    panel.restore()
    camera.wait(lambda: panel.job is None)
    camera.picture("restore")
    camera.viewer.layers.remove(camera.viewer.layers[-1])
    camera.viewer.layers.selection.active = camera.viewer.layers[-1]
    panel.form.source.setCurrentText(FIT)
    panel.check()
    camera.wait(lambda: panel.job is None)
    camera.picture("fit")
    panel.form.use(run)
    panel.form.defocus.setValue(4.0)
    panel.form.draws.setValue(16)
    panel.check()
    camera.wait(lambda: panel.job is None)
    camera.picture("check")
    panel.form.defocus.setValue(0.0)
    panel.form.draws.setValue(0)
    panel.preview()
    camera.wait(lambda: panel.job is None)
    camera.picture("preview")


def take_provenance(camera: Camera) -> None:
    """Of a spread, of which there is most to say."""
    from napari_cryoaae.facts import Role, facts_of

    camera.panel("Provenance")
    layers = camera.viewer.layers
    layers.selection.active = next(layer for layer in layers if facts_of(layer).role is Role.STD)
    camera.picture("provenance")


def take_sample(camera: Camera) -> None:
    """What comes with the plugin: every panel at once, then those that work on particles and draws."""
    import numpy as np
    from qtpy.QtCore import Qt

    viewer = camera.viewer
    viewer.open_sample("cryoaae", "sample")
    docked = viewer.window.dock_widgets
    camera.wait(lambda: {"Latent (cryoaae)", "Variability (cryoaae)"} <= set(docked))
    panels = {name.removesuffix(" (cryoaae)"): panel for name, panel in docked.items()}
    latent, variability = panels["Latent"], panels["Variability"]
    camera.wait(lambda: latent.latent is not None and variability.structures.model is not None)
    camera.picture("sample")
    raise_panel(latent)
    corners = latent.scatter.xy[latent.latent.found.assigned == 0]
    (left, low), (right, high) = corners.min(axis=0), corners.max(axis=0)
    around = np.array([[left, low], [right, low], [right, high], [left, high]])
    latent.scatter.box.lassoed.emit(around, Qt.KeyboardModifier.NoModifier)
    latent.average()
    camera.wait(lambda: latent.work.job is None)
    camera.picture("latent")
    raise_panel(variability)
    take_variability(camera, variability)


def take_variability(camera: Camera, panel: Any) -> None:
    """A film between two particles, then a draw with the spread over it."""
    structures, draws = panel.structures, panel.draws
    structures.film_between()
    camera.wait(lambda: structures.bar.film is not None)
    structures.bar.pause()
    structures.bar.show_frame(structures.frames.value() // 2)
    camera.picture("structures")
    panel.tabs.setCurrentWidget(draws)
    draws.over.setChecked(True)
    draws.bar.show_frame(1)
    camera.picture("draws")


def take_aligned(camera: Camera, run: Path) -> None:
    """The Latent panel on a run without a model: the averages that it wrote, and a sentence on what it cannot do."""
    import numpy as np

    camera.viewer.open(str(run), plugin="cryoaae")
    panel = camera.panel("Latent")
    camera.wait(lambda: panel.latent is not None and panel.work.job is None)
    said = panel.message.text()
    panel.choose(np.flatnonzero(panel.latent.found.assigned == 0), "replace")
    for show in (panel.show_written, panel.gallery):
        show()
        camera.wait(lambda: panel.work.job is None)
    panel.say(said)
    camera.picture("aligned")


def raise_panel(panel: Any) -> None:
    """Bring a tabbed panel to the front: its dock is one of its parents."""
    while not hasattr(panel, "setFloating"):
        panel = panel.parentWidget()
    panel.raise_()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("-o", "--output", type=Path, default=Path("docs/napari"))
    arguments.add_argument("--work", type=Path, required=True, help="folder for the simulated data, or holding them")
    arguments.add_argument("--run", type=Path, help="a run folder to show instead of a simulated one")
    chosen = arguments.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    chosen.output.mkdir(parents=True, exist_ok=True)
    run = chosen.run or (chosen.work / "run")
    if not (run / "model.safetensors").exists():
        run = make_run(chosen.work)
    camera = Camera(chosen.output)
    camera.viewer.open(str(run), plugin="cryoaae")
    take_tomogram(camera)
    take_restore(camera, run, chosen.work)
    take_provenance(camera)
    camera.viewer.close()
    camera = Camera(chosen.output)
    take_sample(camera)
    camera.viewer.close()
    camera = Camera(chosen.output)
    take_aligned(camera, make_aligned(chosen.work))
    camera.viewer.close()


if __name__ == "__main__":
    main()
