"""What napari learns of the plugin before anybody opens it."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "plugins" / "napari" / "napari_cryoaae"
LOOK = """
import sys
from npe2 import PluginManifest
manifest = PluginManifest.from_distribution("cryoaae")
reader = manifest.contributions.readers[0]
import napari_cryoaae.readers
assert "scipy.spatial" not in sys.modules  # a volume is opened sooner than that is loaded
import napari_cryoaae.writers, napari_cryoaae.provenance, napari_cryoaae.sample_data
import napari_cryoaae.spread_record, napari_cryoaae.oblique, napari_cryoaae.thresholds, napari_cryoaae.requirements
import napari_cryoaae.restore_request, napari_cryoaae.fit_request, napari_cryoaae.particle_writer
assert napari_cryoaae.readers.get_reader("x.mrc") is not None
print(*sorted({name.split(".")[0] for name in sys.modules}))
"""


def test_manifest_and_readers_load_neither_torch_nor_qt() -> None:
    pytest.importorskip("npe2", reason="the extra gui is not installed")
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "npe2" in loaded
    assert not loaded & {"torch", "qtpy", "PySide6", "PyQt6", "PyQt5", "pyqtgraph", "napari"}


def test_manifest_is_valid_and_names_what_exists() -> None:
    npe2 = pytest.importorskip("npe2", reason="the extra gui is not installed")
    manifest = npe2.PluginManifest.from_file(FOLDER / "napari.yaml")
    assert manifest.name == "cryoaae"
    shown = {widget.command for widget in manifest.contributions.widgets}
    names = ("tomogram", "restore", "latent", "variability", "provenance")
    assert shown == {f"cryoaae.{name}" for name in names}
    for command in manifest.contributions.commands:
        module, name = str(command.python_name).split(":")
        if command.id not in shown:  # what needs no Qt
            assert callable(getattr(importlib.import_module(module), name))
        else:
            assert f"class {name}(" in (FOLDER / f"{module.split('.')[1]}.py").read_text()
