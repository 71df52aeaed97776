"""Killed, stopped and resumed for real: old or new is left, and a resumed run ends where it would have."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cryoaae.io.checkpoint import load_latest
from cryoaae.io.mrc import open_volume
from cryoaae.io.weights import load_weights

CLI = [sys.executable, "-m", "cryoaae"]
STEPS = 24


def halves(tiny: Path) -> list[str]:
    return ["--even", str(tiny / "t_EVN.mrc"), "--odd", str(tiny / "t_ODD.mrc"), "--tilts", str(tiny / "t.tlt")]


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    """Run the command; what it says goes to the test's own output, which pytest shows on failure."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*CLI, *arguments, "--threads", "1"], env=environment)


def finish(arguments: list[str]) -> None:
    assert start(arguments).wait(timeout=300) == 0


def digest_of(run: Path) -> str:
    return str(load_weights(run / "model.safetensors")[1]["digest"])


def wait_for(condition, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def fit_command(tiny, tiny_settings) -> list[str]:
    return ["fit", *halves(tiny), "--steps", str(STEPS), *tiny_settings]


@pytest.fixture(scope="module")
def whole_run(fit_command, tmp_path_factory) -> Path:
    """A run that nothing disturbed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    finish([*fit_command, "-o", str(run)])
    return run


@pytest.mark.slow
def test_kill_9_in_mid_fit_and_resume_is_bit_identical(fit_command, whole_run, tmp_path) -> None:
    """Killed three times on the way, at random places of the write cycle."""
    run, chance = tmp_path / "run", random.Random(0)
    resume: list[str] = []
    for _ in range(3):
        process = start([*fit_command, "-o", str(run), *resume])
        wait_for(lambda: any((run / "checkpoints").glob("last.ckpt")), process)
        time.sleep(chance.uniform(0.05, 0.6))
        process.kill()
        process.wait()
        assert load_latest(run / "checkpoints")["step"] > 0
        assert json.loads((run / "run.json").read_text())["state"] in ("running", "done")
        resume = ["--resume"]
    finish([*fit_command, "-o", str(run), "--resume"])
    assert digest_of(run) == digest_of(whole_run)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_safely_and_the_run_goes_on(number, code, fit_command, whole_run, tmp_path) -> None:
    run = tmp_path / "run"
    process = start([*fit_command, "-o", str(run)])
    wait_for(lambda: any((run / "checkpoints").glob("last.ckpt")), process)
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    assert json.loads((run / "run.json").read_text())["state"] == "interrupted"
    assert not (run / "model.safetensors").exists()
    finish([*fit_command, "-o", str(run), "--resume"])
    assert digest_of(run) == digest_of(whole_run)


@pytest.mark.slow
def test_kill_9_in_mid_restore_leaves_the_old_file_whole(tiny, whole_run, tmp_path) -> None:
    out = tmp_path / "out.mrc"
    command = ["restore", *halves(tiny), "--model", str(whole_run), "-o", str(out), "--overwrite"]
    finish(command)
    old, chance = out.read_bytes(), random.Random(1)
    for _ in range(4):
        process = start(command)
        wait_for(lambda: list(tmp_path.glob("*.part")), process)
        time.sleep(chance.uniform(0.0, 0.1))
        process.kill()
        process.wait()
        assert out.read_bytes()[1024:] == old[1024:]  # the label's time differs between runs, the data do not
        open_volume(out)
    finish(command)


@pytest.mark.slow
def test_two_runs_may_not_share_a_folder(fit_command, tmp_path, capfd) -> None:
    run = tmp_path / "run"
    first = start([*fit_command, "-o", str(run), "--steps", "100000"])
    wait_for(lambda: (run / "run.lock").exists(), first)
    second = start([*fit_command, "-o", str(run), "--overwrite"])
    code = second.wait(timeout=120)
    first.kill()
    first.wait()
    assert code == 2
    assert "in use" in capfd.readouterr().err
    # The lock of a dead process is taken over.
    finish([*fit_command, "-o", str(run), "--overwrite", "--steps", "2"])
