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
EDGE, STEPS = 72, 150
LONGEST_WAIT_SECONDS = 300.0


def make_run(folder: Path) -> Path:
    """Simulate a small tomogram, fit for a minute, restore and validate."""
    import cryoaae
    from cryoaae.config import load_fit_config

    data = cryoaae.simulate(folder / "data", shape_zyx=(EDGE,) * 3, snr=1.0, seed=7)
    halves = {"even": data / "even.mrc", "odd": data / "odd.mrc"}
    settings = load_fit_config(overrides=["patch_size=32", "block_size=64", "blocks=4"], steps=STEPS)
    run = cryoaae.fit([], folder / "run", **halves, tilts=data / "tilts.tlt", settings=settings, overwrite=True)
    cryoaae.restore([], folder / "restored.mrc", model=run, **halves, overwrite=True)
    cryoaae.validate([], folder / "validation", model=run, **halves, tilts=data / "tilts.tlt", overwrite=True)
    return run


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
            QTest.qWait(50)
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
    panel.auto_contrast()
    camera.picture("tomogram")
    panel.show_part(Part.FILLED)
    camera.wait(lambda: panel.tile is not None and not panel.message.text())
    camera.picture("filled_in")
    panel.tabs.setCurrentWidget(panel.spectra)
    camera.wait(lambda: panel.spectra.plots)
    camera.picture("spectrum")
    panel.tabs.setCurrentWidget(panel.validation)
    camera.picture("validation")


def take_restore(camera: Camera, run: Path, work: Path) -> None:
    panel = camera.panel("Restore")
    panel.model.setText(str(run))
    panel.output.setText(str(work / "from_napari.mrc"))
    panel.overwrite.setChecked(True)
    panel.check()
    camera.wait(lambda: panel.job is None)
    camera.picture("check")
    panel.restore()
    camera.wait(lambda: panel.job is None)
    camera.picture("restore")


def take_provenance(camera: Camera) -> None:
    camera.panel("Provenance")
    camera.viewer.layers.selection.active = camera.viewer.layers[-1]
    camera.picture("provenance")


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


if __name__ == "__main__":
    main()
