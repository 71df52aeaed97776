"""`fit_particles.py`: a restorer for the particles of a store, from simulations like them."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from cryoaae.errors import InputError
from cryoaae.fitting import particle_feed
from cryoaae.io.store import SubtomogramStore
from cryoaae.restoration.particles import plan_restore_store, restore_store
from cryoaae.simulation.subtomograms import ImagingSettings
from cryoaae.subtomograms.from_simulation import simulate_store

fit_particles = import_module("fit_particles")

BOX = 16


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four particles of two blobs."""
    folder = tmp_path_factory.mktemp("given")
    places = np.indices((12,) * 3) - 6.0
    centres = [np.array(centre)[:, None, None, None] for centre in ((0, 0, 2), (2, 0, -2))]
    blob = sum(np.exp(-((places - centre) ** 2).sum(axis=0) / 5) for centre in centres)
    with mrcfile.new(folder / "blob.mrc", np.asarray(blob, np.float32)) as file:
        file.voxel_size = 13.5
    settings = ImagingSettings(box=BOX, shift_voxels=0.0, snr=0.2, white_noise=True)
    return simulate_store(folder / "s.h5", maps=[folder / "blob.mrc"], counts=[4], settings=settings)


def test_a_fit_makes_what_restore_takes(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(particle_feed, "MEASURED", 4)
    monkeypatch.setattr(particle_feed, "HELD_OUT_BATCHES", 1)
    small = {"steps": 2, "species": 4, "held_out": 1, "batch_size": 2, "evaluations": 1}
    whole = fit_particles.FitParticlesSettings
    monkeypatch.setattr(fit_particles, "FitParticlesSettings", lambda **given: whole(**{**given, **small}))
    run = tmp_path / "run"
    words = [str(store), "-o", str(run), "--diameter", "110", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["fit_particles.py", *words])
    assert fit_particles.main() == 0
    report = json.loads((run / "report.json").read_text())
    assert report["spectra"] == "background"  # simulated boxes are not cut about their particles
    assert report["steps"] == 2
    said = plan_restore_store(store, tmp_path / "out.h5", model=run)
    assert any("restorer fitted on simulated particles like those of s.h5" in line for line in said)
    assert not any("outside" in line for line in said)
    made = SubtomogramStore(restore_store(store, tmp_path / "out.h5", model=run).path)
    assert np.isfinite(made.volume(0)).all()
    assert made.volume(0).std() > 0
    with pytest.raises(InputError, match="exists already"):
        fit_particles.main()


@pytest.mark.parametrize("diameter", [0.0, 500.0])
def test_a_particle_must_fit_its_box(diameter: float, store: Path) -> None:
    with pytest.raises(InputError, match="--diameter"):
        settings = fit_particles.FitParticlesSettings(steps=1)
        fit_particles.fit_particles(SubtomogramStore(store), [], diameter, settings, device=None, progress=None)
