"""File > Open sample > cryoaae: a simulated tomogram with all that the library makes of it, and every panel on it.

The files (`scripts/make_sample.py` makes them) are copied to a folder of their own first, which goes when the program
ends: what a user restores or saves beside them must not land among the program's own files.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_cryoaae.facts import KEY, Role, facts_of

if TYPE_CHECKING:
    from napari_cryoaae.readers import LayerData

SAMPLE = Path(__file__).parent / "sample"
LIST, RUN, CLUSTERS, DRAWS = "TS_01.star", "run", "clusters", "draws"
# As in the manifest; the one that is named last lies on top.
PANELS = ("Restore", "Provenance", "Latent", "Variability", "Tomogram")


def open_sample() -> list[LayerData]:
    """Layers of the sample; where a window is open, its panels follow as soon as the layers are there."""
    from napari_cryoaae.readers import read_points, read_run_folder

    folder = copied_sample()
    _after_that(lambda viewer: _open_panels_of(viewer, folder))
    return [*map(_shown, read_run_folder(folder / RUN)), *read_points(folder / LIST)]


def copied_sample() -> Path:
    """The sample in a folder that lasts as long as the program."""
    place = tempfile.TemporaryDirectory(prefix="cryoaae_sample_", ignore_cleanup_errors=True)
    atexit.register(place.cleanup)
    return Path(shutil.copytree(SAMPLE, Path(place.name) / "sample"))


def open_panels(viewer: Any, folder: Path) -> dict[str, Any]:
    """Dock every panel, one behind the other, with something of the sample in it; return them by name."""
    docked = {name: viewer.window.add_plugin_dock_widget("cryoaae", name, tabify=True) for name in PANELS}
    panels = {name: panel for name, (_, panel) in docked.items()}
    panels["Latent"].open(folder / CLUSTERS)
    panels["Variability"].open_draws(folder / DRAWS)
    panels["Variability"].open_model(folder / CLUSTERS)
    restored = next((layer for layer in viewer.layers if facts_of(layer).role is Role.RESTORED), None)
    viewer.layers.selection.active = restored  # which Provenance speaks of
    docked[PANELS[-1]][0].raise_()
    return panels


def _open_panels_of(viewer: Any, folder: Path) -> None:
    """Open the panels, unless the layers went before their turn came: with the window, which takes none any more."""
    sources = (facts_of(layer).source for layer in viewer.layers)
    if any(source.is_relative_to(folder) for source in sources if source is not None):
        open_panels(viewer, folder)


def _shown(layer: LayerData) -> LayerData:
    """Only the restoration is shown at first: it would be hidden by what is read after it."""
    data, look, kind = layer
    return data, look | {"visible": look["metadata"][KEY].role is Role.RESTORED}, kind


def _after_that(work: Callable[[Any], Any]) -> None:
    """Call with the viewer once it has the layers; nothing without a window."""
    from napari.viewer import current_viewer

    viewer = current_viewer()
    if viewer is None:
        return
    from qtpy.QtCore import QTimer

    QTimer.singleShot(0, lambda: work(viewer))
