"""What must not bring a user down: parts that are missing, layers that go or are no volumes, very many points."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cryoaae.errors import InputError
from napari_cryoaae.facts import Role, facts_of

pytestmark = pytest.mark.gui
ROOT = Path(__file__).parents[2]
SHAPE = (12, 14, 16)
Wait = Callable[..., None]


# -- torch, a display or a new napari are missing ------------------------------------------------

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # as where it is not installed
from npe2 import PluginManifest
manifest = PluginManifest.from_distribution("cryoaae")
from napari_cryoaae.readers import get_reader
((data, look, kind),) = get_reader(sys.argv[1])(sys.argv[1])
from napari.components import ViewerModel
from qtpy.QtWidgets import QApplication
app = QApplication([])
model = ViewerModel()
model.add_image(data, **look)
for widget in manifest.contributions.widgets:
    name = next(c.python_name for c in manifest.contributions.commands if c.id == widget.command)
    module, _, kind = str(name).partition(":")
    panel = getattr(__import__(module, fromlist=[kind]), kind)(model)
    panel.show()
    print(widget.display_name, getattr(panel, "message", None) and panel.message.text(), sep=": ")
"""


def test_without_torch_and_without_a_display_panels_open_and_say_what_is_missing(tiny: Path) -> None:
    where = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(tiny / "t_EVN.mrc")],
        capture_output=True, text=True, check=False, cwd=ROOT, env=where | {"QT_QPA_PLATFORM": "offscreen"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    assert {"Tomogram", "Restore", "Provenance", "Latent", "Variability"} <= said.keys()
    assert "torch is not installed" in said["Restore"]


def test_an_old_napari_is_named(model: Any, shown: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_cryoaae import requirements
    from napari_cryoaae.restore_panel import RestorePanel

    assert requirements.what_is_missing() == ""
    monkeypatch.setattr(requirements.metadata, "version", lambda _: "0.5.6")
    panel = shown(RestorePanel(model))
    assert "napari 0.5.6 is too old" in panel.message.text()
    for version, missing in (("0.9.0", False), ("1.0.0a2", False), ("0.10.0", False), ("0.8.9rc1", True)):
        monkeypatch.setattr(requirements.metadata, "version", lambda _, v=version: v)
        assert bool(requirements.what_is_missing()) == missing


# -- layers that go, move, or change while something runs ----------------------------------------


@pytest.mark.parametrize("change", ["moved in the list", "renamed", "hidden", "its file is moved away"])
def test_a_layer_that_changes_during_a_restoration(
    model: Any, restore_panel: Any, restored: Any, tmp_path: Path, wait_until: Wait, held: Any, change: str, add: Any
) -> None:
    """What is done to a layer does not matter; without its file nothing is written, and a sentence says why."""
    (tmp_path / "in").mkdir()
    for path in (restored.even, restored.odd):
        shutil.copy(path, tmp_path / "in" / path.name)
        add(model, tmp_path / "in" / path.name)
    panel = restore_panel(model)
    panel.form.use(restored.run)
    panel.form.output.setText(str(tmp_path / "x.mrc"))
    panel.form.symmetries.setChecked(False)
    panel.restore_button.click()
    panel.restore_button.click()  # a second click
    wait_until(held.started.is_set)
    layer = model.layers["t_EVN"]
    if change == "moved in the list":
        model.layers.move(0, 2)
    elif change == "renamed":
        layer.name = "another"
    elif change == "hidden":
        layer.visible = False
    else:
        (tmp_path / "in" / "t_EVN.mrc").rename(tmp_path / "in" / "gone.mrc")
    held.go.set()
    wait_until(lambda: panel.job is None)
    if change == "its file is moved away":
        assert "t_EVN.mrc" in panel.message.text()
        assert not (tmp_path / "x.mrc").exists()
        assert len(model.layers) == 2
    else:
        assert "Wrote" in panel.message.text()
        assert facts_of(model.layers["x"]).role is Role.RESTORED
        assert len(model.layers) == 3


def test_a_tomogram_that_goes_while_its_mask_is_written(
    model: Any, shown: Any, tmp_path: Path, wait_until: Wait, monkeypatch: Any
) -> None:
    import napari_cryoaae.thresholds as thresholds
    from napari_cryoaae.tomogram_panel import TomogramPanel

    started, go = threading.Event(), threading.Event()
    real = thresholds.ThresholdMask.planes

    def slow(mask: Any) -> Any:
        started.set()
        go.wait(30)
        return real(mask)

    monkeypatch.setattr(thresholds.ThresholdMask, "planes", slow)
    model.add_image(np.random.default_rng(0).normal(size=SHAPE), name="t", contrast_limits=(-2, 2))
    panel = shown(TomogramPanel(model))
    panel.save_mask(tmp_path / "mask.mrc")
    panel.save_mask(tmp_path / "mask.mrc")  # a second click
    wait_until(started.is_set)
    job = panel.jobs.running["mask"]
    model.layers.clear()
    go.set()
    job.join(30)
    wait_until(lambda: job not in type(job).alive)
    assert not list(tmp_path.iterdir())


# -- layers that are no volumes ------------------------------------------------------------------

FLAT = np.zeros((14, 16), np.float32)
NOT_VOLUMES = {
    "2-D": (lambda m: m.add_image(FLAT, name="x"), "x has 2 axes"),
    "4-D": (lambda m: m.add_image(np.zeros((2, *SHAPE)), name="x"), "x has 4 axes"),
    "colour": (lambda m: m.add_image(np.zeros((*SHAPE, 3), np.uint8), rgb=True, name="x"), "colour channels"),
    "several resolutions": (
        lambda m: m.add_image([np.zeros(SHAPE), np.zeros((6, 7, 8))], name="x", contrast_limits=(0, 1)),
        "several resolutions",
    ),
    "labels": (lambda m: m.add_labels(np.zeros(SHAPE, int), name="x"), "x is a labels layer"),
    "points": (lambda m: m.add_points(np.zeros((3, 3)), name="x"), "x is a points layer"),
}


@pytest.mark.parametrize("kind", NOT_VOLUMES)
def test_what_is_no_volume_is_refused_politely(model: Any, shown: Any, kind: str) -> None:
    from napari_cryoaae.provenance_panel import ProvenancePanel
    from napari_cryoaae.restore_panel import RestorePanel
    from napari_cryoaae.tomogram_panel import TomogramPanel

    make, said = NOT_VOLUMES[kind]
    make(model)
    tomogram, restore = shown(TomogramPanel(model)), shown(RestorePanel(model))
    assert said in tomogram.message.text()
    assert tomogram.entries == []
    assert "Open a tomogram" in restore.message.text()
    with pytest.raises(InputError, match="no layer that was read from a file"):
        restore.form.request()
    model.layers.selection.active = model.layers["x"]
    assert "none: computed here" in shown(ProvenancePanel(model)).text.toPlainText()


def test_a_layer_without_a_scale_counts_voxels_and_a_lazy_one_is_read_as_it_is_needed(
    model: Any, shown: Any, wait_until: Wait, tmp_path: Path
) -> None:
    dask = pytest.importorskip("dask.array", reason="napari brings dask")
    from cryoaae.io.mrc import open_volume
    from napari_cryoaae.tomogram_panel import TomogramPanel
    from napari_cryoaae.writers import write_volume_layer

    data = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    model.add_image(dask.from_array(data, chunks=5), name="t", contrast_limits=(-2, 2))
    panel = shown(TomogramPanel(model))
    assert panel.slab_text.text() == "voxels"
    wait_until(lambda: panel.views.columns and panel.views.columns[0]["yz"].drawn)
    assert np.array_equal(panel.views.images("xz")[0], data[:, 7])
    panel.oblique.on.click()
    wait_until(lambda: "oblique" in panel.views.columns[0] and panel.views.columns[0]["oblique"].drawn)
    panel.mask.look.setCurrentText("mark")
    panel.mask.value.setValue(0.5)
    panel.save_mask(tmp_path / "mask.mrc")
    wait_until(lambda: "Wrote" in panel.message.text())
    assert np.array_equal(open_volume(tmp_path / "mask.mrc").data, data >= 0.5)
    layer = model.layers["t"].as_layer_data_tuple()
    with pytest.raises(InputError, match="states no cubic voxel size"):
        write_volume_layer(str(tmp_path / "t.mrc"), *layer[:2])


# -- very many particles, of one class, some without a code --------------------------------------

MANY, BLIND = 50_000, 7


def write_map(folder: Path) -> Path:
    """Codes of particles of one class as `cryoaae cluster` leaves them, some of them not a number."""
    style = np.random.default_rng(0).normal(size=(MANY, 4)).astype(np.float32)
    style[:BLIND] = np.nan
    np.savez(
        folder / "codes.npz", store=np.full(MANY, "p.h5"), index=np.arange(MANY), row=np.arange(MANY),
        features=style, style=style, plane=style[:, :2], cluster=np.zeros(MANY, int),
        class_probabilities=np.ones((MANY, 1), np.float32),
    )  # fmt: skip
    (folder / "run.json").write_text(json.dumps({"command": "cluster", "state": "done", "inputs": []}))
    (folder / "clusters.json").write_text(json.dumps({"names": ["1"]}))
    return folder


def test_many_particles_of_one_class_some_without_a_code(
    model: Any, shown: Any, tmp_path: Path, wait_until: Wait
) -> None:
    """How long a click takes is measured by scripts/benchmark_napari.py; here, that it does what it should."""
    from qtpy.QtCore import Qt

    from napari_cryoaae.latent_panel import LatentPanel

    panel = shown(LatentPanel(model))
    panel.open(write_map(tmp_path))
    wait_until(lambda: panel.latent is not None)
    assert panel.scatter.shown().sum() == MANY - BLIND
    assert f"{BLIND}" in panel.count.text()
    place = tuple(panel.scatter.xy[4321])
    panel.scatter.box.clicked.emit(place, Qt.KeyboardModifier.NoModifier)
    (chosen,) = panel.members()
    assert np.hypot(*(panel.scatter.xy[chosen] - place)) < 0.1
    corners = np.array([[-9, -9], [0, -9], [0, 9], [-9, 9]], float)
    panel.scatter.box.lassoed.emit(corners, Qt.KeyboardModifier.NoModifier)
    assert np.array_equal(np.flatnonzero(panel.scatter.xy[:, 0] < 0), panel.members())
