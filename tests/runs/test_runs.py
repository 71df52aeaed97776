"""Progress, resources and the run folder."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from cryoaae.errors import InputError, InterruptedRunError, ResourceError
from cryoaae.runs.folder import RunFolder
from cryoaae.runs.progress import ConsoleProgress, NullProgress
from cryoaae.runs.resources import choose_device, preflight, set_threads


def test_cancel_is_seen_at_the_next_check() -> None:
    progress = NullProgress()
    progress.check()
    progress.cancel(15)
    assert progress.cancelled()
    with pytest.raises(InterruptedRunError) as error:
        progress.check()
    assert error.value.exit_code == 143


def test_lines_off_a_terminal_tell_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    from cryoaae.runs import progress as module

    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    progress = ConsoleProgress(stream)
    progress.start("fitting", 1.0, "fit")
    now[0] = 30.0
    progress.advance(0.25, step=7)
    assert stream.getvalue().splitlines()[-1] == "fitting: 25 %, 30 s, 90 s left  step 7"
    quiet = ConsoleProgress(io.StringIO(), quiet=True)
    quiet.start("a", None, "")
    quiet.message("b")
    assert quiet.stream.getvalue() == ""  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("error", "state"), [(None, "done"), (InterruptedRunError("stop"), "interrupted"), (ValueError("oh"), "failed")]
)
def test_the_record_says_how_a_run_ended(error: Exception | None, state: str, tmp_path: Path) -> None:
    def work() -> None:
        with RunFolder.create(tmp_path / "run", "fit", {"a": (1, 2)}):
            assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "running"
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error)):
            work()
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["state"] == state
    assert not (tmp_path / "run" / "run.lock").exists()


def test_resume_wants_the_same_settings_and_inputs(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(b"1")
    run = tmp_path / "run"
    with RunFolder.create(run, "fit", {"seed": 1, "steps": 5}, inputs=[data]):
        pass
    with pytest.raises(InputError, match="already holds"):
        RunFolder.create(run, "fit", {"seed": 1, "steps": 5}, inputs=[data])
    with pytest.raises(InputError, match="seed"):
        RunFolder.create(run, "fit", {"seed": 2, "steps": 5}, inputs=[data], resume=True)
    with RunFolder.create(run, "fit", {"seed": 1, "steps": 9}, inputs=[data], resume=True):
        pass  # a longer ceiling is no other run
    data.write_bytes(b"12")
    with pytest.raises(InputError, match="other input"):
        RunFolder.create(run, "fit", {"seed": 1, "steps": 5}, inputs=[data], resume=True)
    with pytest.raises(InputError, match="no run to resume"):
        RunFolder.create(tmp_path / "new", "fit", {}, resume=True)


def test_somebody_elses_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="not empty"):
        RunFolder.create(tmp_path, "fit", {}, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_resources_refuse_in_words(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="GB of memory"):
        preflight(1e15, 0, tmp_path)
    with pytest.raises(ResourceError, match="GB of disk"):
        preflight(0, 1e18, tmp_path / "not" / "yet")
    preflight(1, 1, tmp_path)
    for name in ("abacus", "cuda:99", "mps"):
        with pytest.raises(InputError, match="--device"):
            choose_device(name)
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(InputError, match="--threads"):
        set_threads(0)
