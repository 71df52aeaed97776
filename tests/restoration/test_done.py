"""What is done already is kept, and nothing else is taken for it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cryoaae.errors import InputError, InterruptedRunError, ItemsFailedError
from cryoaae.io.mrc import write_volume
from cryoaae.restoration.restore import plan_restore, restore
from cryoaae.runs.progress import NullProgress

COUNT = 5


class Scale(torch.nn.Module):
    """The simplest restorer with weights."""

    halo, multiple = 0, 1
    spec = SimpleNamespace(working_bin=2, voxel_size_angstrom=10.0)

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(factor))

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return y * self.factor


@pytest.fixture
def singles(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / "in" / f"ts{i}.mrc" for i in range(COUNT)]
    paths[0].parent.mkdir()
    for path in paths:
        write_volume(path, rng.normal(50, 4, (20, 22, 24)).astype(np.float32), voxel_size_angstrom=10.0)
    return paths


def batch(singles: list[Path], tmp_path: Path, **keywords):
    model = keywords.pop("model", None) or Scale()
    return restore(singles, tmp_path / "out", model=model, device="cpu", **{"tilt_range": (-60, 60)} | keywords)


def inodes(tmp_path: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in (tmp_path / "out").glob("*.mrc")}


class StopsAtThird(NullProgress):
    """A user who stops the batch when the third tomogram begins."""

    begun = 0

    def start(self, task: str, total: float | None, unit: str) -> None:
        self.begun += 1
        if self.begun == 3:
            self.cancel()


def test_a_stopped_batch_goes_on_where_it_was(singles, tmp_path) -> None:
    """Row 66: what stood, stands untouched; the rest is done."""
    with pytest.raises(InterruptedRunError):
        batch(singles, tmp_path, progress=StopsAtThird())
    first = inodes(tmp_path)
    assert sorted(first) == ["ts0_restored.mrc", "ts1_restored.mrc"]
    results = batch(singles, tmp_path)
    assert [r.skipped for r in results] == [True, True, False, False, False]
    assert {name: inodes(tmp_path)[name] for name in first} == first
    assert len(inodes(tmp_path)) == COUNT
    again = batch(singles, tmp_path)
    assert all(r.skipped for r in again)
    assert [r.tile for r in again] == [r.tile for r in results]
    assert all(r.voxels_per_second > 0 for r in again)


def test_bad_items_are_set_aside_and_the_others_done(singles, tmp_path) -> None:
    singles[1].write_bytes(singles[1].read_bytes()[:-4])
    singles[3].write_text("<html>" * 500)
    with pytest.raises(ItemsFailedError, match=r"2 of 5 tomograms failed:\nts1: .*bytes.*\nts3: .*MRC") as caught:
        batch(singles, tmp_path)
    assert caught.value.exit_code == 1
    assert sorted(inodes(tmp_path)) == [f"ts{i}_restored.mrc" for i in (0, 2, 4)]


CHANGES = {
    "other weights": {"model": Scale(0.5)},
    "other wedge": {"tilt_range": (-50, 60)},
    "other options": {"keep_measured": True},
    "other type": {"dtype": "float16"},
    "other voxel size": {"voxel_size_angstrom": 10.5},
}


@pytest.mark.parametrize("change", CHANGES)
def test_made_from_anything_else_is_not_done(change, singles, tmp_path) -> None:
    batch(singles[:1], tmp_path)
    with pytest.raises(InputError, match="exists already"):
        batch(singles[:1], tmp_path, **CHANGES[change])
    before = inodes(tmp_path)
    (result,) = batch(singles[:1], tmp_path, overwrite=True, **CHANGES[change])
    assert not result.skipped
    assert inodes(tmp_path) != before
    assert batch(singles[:1], tmp_path, **CHANGES[change])[0].skipped


def test_changed_data_is_not_done_though_the_file_looks_the_same(singles, tmp_path) -> None:
    batch(singles[:1], tmp_path)
    status = singles[0].stat()
    data = bytearray(singles[0].read_bytes())
    data[-1] ^= 1
    singles[0].write_bytes(bytes(data))
    os.utime(singles[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(InputError, match="exists already"):
        batch(singles[:1], tmp_path)


def test_moved_data_is_done(singles, tmp_path) -> None:
    batch(singles[:1], tmp_path)
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.copy(singles[0], tmp_path / "elsewhere" / singles[0].name)
    assert batch([moved], tmp_path)[0].skipped


def test_a_missing_output_is_made_again(singles, tmp_path) -> None:
    batch(singles[:2], tmp_path)
    (tmp_path / "out" / "ts1_restored.mrc").unlink()
    assert [r.skipped for r in batch(singles[:2], tmp_path)] == [True, False]


def test_dry_run_says_what_is_done(singles, tmp_path) -> None:
    batch(singles[:1], tmp_path)
    lines = plan_restore(singles[:2], tmp_path / "out", model=Scale(), tilt_range=(-60, 60), opening=None)
    assert "done already" in lines[0]
    assert "GB of memory" in lines[1]


@pytest.mark.parametrize("text", ["", "[]", '{"mine": 1}', '{"format": "cryoaae restoration 1"}'])
def test_a_users_file_is_not_replaced_by_the_record(text, singles, tmp_path) -> None:
    theirs = tmp_path / "result.json"
    theirs.write_text(text)
    with pytest.raises(InputError, match=r"result\.json"):
        restore(singles[0], tmp_path / "result.mrc", model=Scale(), device="cpu", tilt_range=(-60, 60))
    assert theirs.read_text() == text
    assert not (tmp_path / "result.mrc").exists()


def test_the_record_tells_what_it_was_made_from(singles, tmp_path) -> None:
    batch(singles[:1], tmp_path)
    record = json.loads((tmp_path / "out" / "ts0_restored.json").read_text())
    assert record["inputs"][0]["path"] == str(singles[0])
    assert record["settings"]["wedge"]["tilt_range_deg"] == [-60, 60]
    assert {"cryoaae", "torch"} <= record["versions"].keys()
