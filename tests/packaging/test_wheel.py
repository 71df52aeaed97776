"""The wheel holds what it must and works where no checkout is."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_plugin_folder_does_not_shadow_napari() -> None:
    assert not (ROOT / "plugins" / "napari" / "__init__.py").exists()


def test_scripts_on_the_api_stay_short() -> None:
    for name in ("fit_restorer.py", "restore_tomogram.py"):
        assert len((ROOT / "scripts" / name).read_text().splitlines()) <= 40


@pytest.mark.slow
def test_installed_wheel_simulates_fits_and_restores(tmp_path: Path, tiny_settings: list[str]) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        plugin = [path.name for path in (ROOT / "plugins/napari/napari_cryoaae").iterdir() if path.is_file()]
        assert {f"napari_cryoaae/{name}" for name in plugin} <= names
        assert "napari_cryoaae/napari.yaml" in names
        assert {f"cryoaae/weights/{name}.safetensors" for name in ("general", "error_size")} <= names
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "[napari.manifest]\ncryoaae = napari_cryoaae:napari.yaml" in archive.read(entry_points).decode()
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}

    def command(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "cryoaae", *words],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = subprocess.run(
        [sys.executable, "-c", "import cryoaae.config as c; print(c.__file__, *c.presets())"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert where.startswith(str(site))
    assert where.split()[1:] == ["cryogen1", "cryogen2", "fast", "filament", "full", "volumetric"]
    command("simulate", "-o", "data", "--shape", "48", "48", "48", "-q")
    halves = ("--even", "data/even.mrc", "--odd", "data/odd.mrc", "--tilts", "data/tilts.tlt")
    command("fit", *halves, "-o", "run", "--steps", "3", *tiny_settings, "-q")
    command("restore", *halves, "--model", "run", "-o", "restored.mrc", "-q")
    assert (tmp_path / "restored.mrc").stat().st_size == 1024 + 4 * 48**3
