"""The run folder's lock and record under processes that race, die, and come back with an old number."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cryoaae.errors import InputError
from cryoaae.runs import folder as module
from cryoaae.runs.folder import LOCK, RECORD, RunFolder

RACER = """
import sys, time
from pathlib import Path
from cryoaae.errors import InputError
from cryoaae.runs.folder import RunFolder
path, begin = Path(sys.argv[1]), float(sys.argv[2])
import psutil, yaml
while time.time() < begin:
    pass
try:
    RunFolder.create(path, "fit", {}, overwrite=True)
except InputError as error:
    assert "in use" in str(error), error
    print("refused")
else:
    print("holds", flush=True)
    time.sleep(1.5)
"""


def lock_text(pid: int, started: float | None = None) -> str:
    return f"{pid} {socket.gethostname()}" + ("" if started is None else f" {started:.0f}")


@pytest.mark.parametrize("stale", [False, True])
def test_row_55_of_processes_that_race_one_holds_the_folder(stale: bool, tmp_path: Path) -> None:
    run = tmp_path / "run"
    if stale:
        run.mkdir()
        (run / LOCK).write_text(lock_text(2**22 + 1))
    begin = time.time() + 2.0
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, str(run), str(begin)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = sorted(racer.communicate(timeout=60)[0].strip() for racer in racers)
    assert said == ["holds", "refused", "refused"]
    assert not list(run.glob("*.part"))


def test_row_55_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / LOCK).write_text(lock_text(dead.pid))
    with RunFolder.create(tmp_path, "fit", {}):
        assert (tmp_path / LOCK).read_text().split()[0] == str(os.getpid())


def test_a_process_number_used_again_does_not_hold_a_folder(tmp_path: Path) -> None:
    """After a restart of a container the dead run often had our own number."""
    started = psutil.Process().create_time()
    (tmp_path / LOCK).write_text(lock_text(os.getpid(), started - 3600))
    with RunFolder.create(tmp_path, "fit", {}):
        pass
    (tmp_path / LOCK).write_text(lock_text(os.getpid(), started))
    with pytest.raises(InputError, match=f"in use by process {os.getpid()} on"):
        RunFolder.create(tmp_path, "fit", {}, overwrite=True)


def test_the_lock_of_another_machine_is_respected(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("1 some-other-machine 0")
    with pytest.raises(InputError, match="some-other-machine"):
        RunFolder.create(tmp_path, "fit", {})
    assert (tmp_path / LOCK).read_text() == "1 some-other-machine 0"


def test_a_file_system_without_hard_links_has_locks_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_paths: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(module.os, "link", refuse)
    with RunFolder.create(tmp_path, "fit", {}), pytest.raises(InputError, match="in use"):
        RunFolder.create(tmp_path, "fit", {}, overwrite=True)


@pytest.mark.parametrize("left", [[LOCK], [LOCK, "config.yaml"], ["run.json.77.part", "scratch", "loss.png"]])
def test_a_run_killed_before_its_record_can_be_started_again(left: list[str], tmp_path: Path) -> None:
    for name in left:
        (tmp_path / name).write_text(lock_text(2**22 + 1) if name == LOCK else "")
    with RunFolder.create(tmp_path, "fit", {}):
        pass
    assert json.loads((tmp_path / RECORD).read_text())["state"] == "done"


def test_a_folder_that_could_not_be_begun_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process lives on, so a lock left behind would shut the folder for it for ever."""

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_text", full)
        with pytest.raises(OSError, match="space"):
            RunFolder.create(tmp_path, "fit", {})
    with RunFolder.create(tmp_path, "fit", {}):
        pass


@pytest.mark.parametrize(("name", "text"), [(RECORD, '{"inputs": ['), (RECORD, "[]"), ("config.yaml", "a: [")])
def test_resume_from_a_damaged_record_is_refused(name: str, text: str, tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, "fit", {"a": 1}):
        pass
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"{name}: .*used again; start again"):
        RunFolder.create(tmp_path, "fit", {"a": 1}, resume=True)


def test_overwrite_leaves_nothing_of_the_old_run(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, "fit", {}):
        pass
    for name in ("model.safetensors", "metrics.csv", "loss.png", "report.html"):
        (tmp_path / name).write_text("old")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_text("old")
    (tmp_path / "notes.txt").write_text("the user's")
    with RunFolder.create(tmp_path, "fit", {}, overwrite=True):
        assert {p.name for p in tmp_path.iterdir()} == {LOCK, RECORD, "config.yaml", "notes.txt"}
