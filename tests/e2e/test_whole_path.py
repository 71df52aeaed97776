"""Simulate, fit, restore, evaluate: the path a user takes, with a floor on what it must achieve."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import cryoaae
from cryoaae.cli import run
from cryoaae.fitting.settings import FitSettings


@pytest.mark.slow
def test_the_path_of_a_new_user(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    assert run(["simulate", "-o", str(data), "--shape", "64", "64", "64", "--snr", "1", "-q"]) == 0
    halves = [word for half in ("even", "odd") for word in (f"--{half}", str(data / f"{half}.mrc"))]
    tilts = ["--tilts", str(data / "tilts.tlt")]
    small = ["--set", "patch_size=24", "--set", "block_size=48", "--set", "blocks=4"]
    assert run(["fit", *halves, *tilts, "-o", str(out), "--steps", "40", *small, "-q"]) == 0
    restored = tmp_path / "restored.mrc"
    assert run(["restore", *halves, "--model", str(out), "-o", str(restored), "--halves", "-q"]) == 0
    evaluation = tmp_path / "evaluation"
    command = ["evaluate", str(restored), "--truth", str(data / "truth.mrc"), *halves, *tilts, "-o", str(evaluation)]
    assert run([*command, "-q"]) == 0
    rows = {row["name"]: row for row in json.loads((evaluation / "evaluation.json").read_text())["rows"]}
    ours, null = rows["restored"], rows["zero_fill"]
    assert ours["cc"] > null["cc"] + 0.1
    assert ours["regions"]["seen"]["bands"]["band"]["fcc"] > null["regions"]["seen"]["bands"]["band"]["fcc"]
    assert 0.85 < ours["regions"]["seen"]["bands"]["low"]["slope"] < 1.1
    assert (evaluation / "report.html").stat().st_size > 50_000
    assert list((out / "previews").glob("*.png"))


def test_python_interface_on_arrays_and_a_single_volume(tiny: Path, tmp_path: Path) -> None:
    settings = FitSettings.from_spectrum(
        patch_size=16, block_size=36, blocks=2, widths=(4, 8), working_bin=1, batch_size=1, minutes=None, steps=4
    )
    folder = cryoaae.fit(tiny / "t_EVN.mrc", tmp_path / "run", tilt_range=(-60, 60), settings=settings)
    volume = cryoaae.open_volume(tiny / "t_EVN.mrc")
    model = cryoaae.Restorer.load(folder)
    out = cryoaae.restore_array(volume.numpy(), None, model, voxel_size_angstrom=volume.voxel_size_angstrom)
    assert out.shape == volume.shape
    assert np.isfinite(out).all()
    assert abs(float(out.mean() - volume.numpy().mean())) < 0.5
