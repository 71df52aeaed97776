"""`cryoaae extract` and `inspect` on its store, as people and programs use them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import cryoaae
from cryoaae.cli import run
from cryoaae.io.mrc import write_volume


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    """A tomogram with two balls, and a list with them and one particle at the border."""
    z, y, x = np.indices((40, 48, 56))
    data = np.random.default_rng(0).normal(size=z.shape) * 0.1
    for cz, cy, cx in ((16, 16, 18), (24, 30, 38)):
        data += (z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 <= 16
    write_volume(tmp_path / "T.mrc", data.astype(np.float32), voxel_size_angstrom=10.0)
    (tmp_path / "p.csv").write_text("x,y,z,class\n18,16,16,a\n38,30,24,b\n3,20,20,b\n")
    tilts = ["--tilt-range", "-60", "60"]
    return ["extract", str(tmp_path / "T.mrc"), "--box", "16", "-o", str(tmp_path / "s.h5"), *tilts]


def test_a_list_becomes_a_store(inputs, tmp_path, capsys):
    listed = [*inputs, "--particles", str(tmp_path / "p.csv")]
    assert run([*listed, "--dry-run"]) == 0
    assert "would write" in capsys.readouterr().out
    assert not (tmp_path / "s.h5").exists()
    assert run(listed) == 0
    assert "2 particles of 16^3 voxels of 10 A from tomograms (1 at the border)" in capsys.readouterr().err
    assert run(listed) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run([*listed, "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["skipped"]
    assert run([*listed, "--overwrite", "--border", "pad", "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out)["particles"] == 3
    assert run(["inspect", str(tmp_path / "s.h5")]) == 0
    said = capsys.readouterr().out
    assert "3 subtomograms of 16^3 voxels of 10 A, from tomograms, bright" in said
    assert "1 tomograms: T (3)" in said
    assert "2 classes: b (2), a (1)" in said
    assert len(cryoaae.SubtomogramStore(tmp_path / "s.h5")) == 3


def test_picking(inputs, tmp_path, capsys):
    assert run([*inputs, "--pick"]) == 2
    assert "--diameter ANGSTROM" in capsys.readouterr().err
    assert run([*inputs, "--particles", str(tmp_path / "p.csv"), "--diameter", "90"]) == 2
    assert "are of --pick" in capsys.readouterr().err
    assert run([*inputs, "--pick", "--diameter", "90", "--count", "2", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["particles"] == 2
    assert not (tmp_path / "s_picks.star").exists()
    assert run([*inputs, "--pick", "--diameter", "90", "--count", "2"]) == 0
    assert "to be sorted" in capsys.readouterr().err
    positions = cryoaae.SubtomogramStore(tmp_path / "s.h5").facts.positions_zyx
    assert np.abs(positions[np.argsort(positions[:, 0])] - [[16, 16, 18], [24, 30, 38]]).max() <= 1


def test_errors_are_one_line(inputs, tmp_path, capsys):
    assert run(inputs) == 2
    assert run([*inputs, "--particles", str(tmp_path / "no.star")]) == 2
    assert run([*inputs, "--particles", str(tmp_path / "p.csv"), "--coordinates", "miles"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 3
    assert all(line.startswith("cryoaae: ") for line in said)
