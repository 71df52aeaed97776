"""Generated volumes: made by class and style alone, and the same again for the same seed."""

from __future__ import annotations

import json

import mrcfile
import numpy as np
import pytest

from cryoaae.cli import run as command
from cryoaae.io.mrc import open_volume
from cryoaae.subtomograms.generate import generate


def read(path) -> np.ndarray:
    with mrcfile.open(path) as file:
        return np.array(file.data)


def test_the_class_decides_what_is_made_and_files_have_the_working_voxel(shapes_run, tmp_path):
    """With the same styles, another class makes other volumes; whether they look like it takes a longer fit."""
    one, two = (generate(shapes_run, tmp_path / name, class_name=name, count=2) for name in ("1", "2"))
    assert all(not np.array_equal(read(a), read(b)) for a, b in zip(one, two, strict=True))
    assert open_volume(one[0]).voxel_size_angstrom == pytest.approx(12.0)


def test_the_same_seed_makes_the_same_and_another_another(shapes_run, tmp_path):
    first, again, other = (
        [read(p) for p in generate(shapes_run, tmp_path / name, count=3, seed=seed)]
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_walk_goes_along_one_axis(shapes_run, tmp_path):
    there = [read(p) for p in generate(shapes_run, tmp_path / "walk", class_name="1", count=5, traverse=2)]
    steps = [np.abs(a - b).mean() for a, b in zip(there, there[1:], strict=False)]
    assert min(steps) > 0
    assert np.abs(there[0] - there[-1]).mean() > max(steps)
    other = [read(p) for p in generate(shapes_run, tmp_path / "other", class_name="1", count=5, traverse=1)]
    assert np.allclose(there[2], other[2], atol=1e-5)  # the middle of every walk is the prior's mean
    assert not np.allclose(there[0], other[0], atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--class", "9"], "choose one of 1, 2"),
        (["--traverse", "1"], "give --class"),
        (["--class", "1", "--traverse", "5"], "give 1 to 4"),
        (["--class", "1", "--traverse", "0"], "give 1 to 4"),
    ],
)
def test_what_cannot_be_made_is_said_in_one_line(options, message, shapes_run, tmp_path, capsys):
    assert command(["generate", str(shapes_run), "-o", str(tmp_path / "out"), *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_clustering_is_refused(shapes_run, tmp_path, capsys):
    (tmp_path / "model.safetensors").write_bytes((shapes_run / "model.safetensors").read_bytes())
    assert command(["generate", str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert "holds no finished clustering" in capsys.readouterr().err
    words = ["generate", str(shapes_run), "-o", str(tmp_path / "out"), "--count", "2"]
    assert command([*words, "--dry-run", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["files"]) == 2
    assert not (tmp_path / "out").exists()
