"""Signals, sent to real processes: the first asks, the second ends."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

WORKER = """
import sys, time
from cryoaae.runs.progress import NullProgress
from cryoaae.runs.signals import stop_on_signals
from cryoaae.errors import InterruptedRunError
progress, stubborn = NullProgress(), sys.argv[1] == "stubborn"
with stop_on_signals(progress.cancel):
    print("ready", flush=True)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        time.sleep(0.01)
        if progress.cancelled():
            print("asked", flush=True)
            if not stubborn:
                break
            time.sleep(20)
try:
    progress.check()
except InterruptedRunError as error:
    sys.exit(error.exit_code)
"""


def worker(kind: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", WORKER, kind], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)], ids=str
)
def test_rows_62_63_the_first_signal_asks(number: signal.Signals, code: int) -> None:
    process = worker("polite")
    process.send_signal(number)
    out, _ = process.communicate(timeout=20)
    assert out == "asked\n"
    assert process.returncode == code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_row_62_the_second_signal_ends_work_that_hangs(number: signal.Signals) -> None:
    process = worker("stubborn")
    process.send_signal(number)
    assert process.stdout is not None
    assert process.stdout.readline() == "asked\n"
    process.send_signal(number)
    process.communicate(timeout=5)
    assert process.returncode == -number


def test_the_handlers_of_before_come_back() -> None:
    from cryoaae.runs.signals import stop_on_signals

    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with stop_on_signals(lambda _number: None):
        assert signal.getsignal(signal.SIGTERM) is not before[1]
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before
