"""The run folder: one record of what was asked and how it ended, one lock, so that runs do not mix."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from cryoaae.errors import InputError, InterruptedRunError
from cryoaae.io.atomic import write_text
from cryoaae.runs.provenance import file_facts, versions

RECORD, CONFIG, LOCK = "run.json", "config.yaml", "run.lock"


class RunFolder:
    """A run folder held by this process; use as a context manager.

    The state in ``run.json`` is ``running``, then ``done``, ``interrupted`` or ``failed``.
    """

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        self.path, self.record = path, record

    @classmethod
    def create(
        cls,
        path: Path,
        command: str,
        config: dict[str, Any],
        *,
        inputs: Sequence[Path] = (),
        overwrite: bool = False,
        resume: bool = False,
    ) -> RunFolder:
        """Make (or, to resume, take up again) a run folder and lock it.

        Raises
        ------
        InputError
            If the folder holds a run and neither `overwrite` nor `resume` was given, if there is
            nothing to resume, if its settings or inputs differ, or if another process holds it.
        """
        if path.exists() and not path.is_dir():
            raise InputError(path, "is a file, not a run folder", "choose another name")
        record_file = path / RECORD
        facts = [file_facts(p) for p in inputs]
        if resume:
            _check_same(path, record_file, config, facts)
        elif record_file.exists() and not overwrite:
            raise InputError(path, "already holds a run", "use --resume, --overwrite or another folder")
        elif path.exists() and any(path.iterdir()) and not record_file.exists():
            raise InputError(path, "is not empty and not a run folder", "choose another folder")
        try:
            path.mkdir(parents=True, exist_ok=True)
            _lock(path)
        except OSError as error:
            raise InputError(path, f"cannot be written ({error.strerror})", "choose another folder") from error
        if not resume:
            _clear(path)
        record = {
            "command": command,
            "state": "running",
            "started": _now(),
            "versions": versions(),
            "inputs": facts,
        }
        folder = cls(path, record)
        write_text(path / CONFIG, yaml.safe_dump(_plain(config), sort_keys=False))
        folder.write()
        return folder

    def write(self) -> None:
        """Write ``run.json``, atomically."""
        write_text(self.path / RECORD, json.dumps(self.record, indent=2) + "\n")

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.record["state"] = "done"
        elif issubclass(kind, InterruptedRunError | KeyboardInterrupt):
            self.record["state"] = "interrupted"
        else:
            self.record |= {"state": "failed", "error": str(error).splitlines()[0] if str(error) else kind.__name__}
        self.record["finished"] = _now()
        self.write()
        (self.path / LOCK).unlink(missing_ok=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """Only what YAML holds without tags (tuples become lists)."""
    plain: dict[str, Any] = json.loads(json.dumps(config))
    return plain


def _check_same(path: Path, record_file: Path, config: dict[str, Any], facts: list[dict[str, Any]]) -> None:
    if not record_file.exists():
        raise InputError(path, "no run to resume", "start it without --resume")
    record = json.loads(record_file.read_text())
    if record.get("inputs") != facts:
        raise InputError(path, "was made from other input files", "resume with the same inputs, or start again")
    before = yaml.safe_load((path / CONFIG).read_text())
    now = _plain(config)
    changed = sorted(k for k in set(before) | set(now) if before.get(k) != now.get(k) and k not in ("minutes", "steps"))
    if changed:
        raise InputError(path, f"was started with other settings ({', '.join(changed)})", "resume with the same")


def _lock(path: Path) -> None:
    """Take the lock; one left by a process that is gone is taken over."""
    lock = path / LOCK
    mine = f"{os.getpid()} {socket.gethostname()}"
    while True:
        try:
            handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            holder = lock.read_text().split()
            if _alive(holder):
                raise InputError(
                    path, f"is in use by process {' on '.join(holder)}", "wait for it or choose another folder"
                ) from None
            lock.unlink(missing_ok=True)
            continue
        with os.fdopen(handle, "w") as file:
            file.write(mine)
        return


def _alive(holder: list[str]) -> bool:
    if len(holder) != 2 or not holder[0].isdigit():
        return False
    if holder[1] != socket.gethostname():
        return True  # cannot be known from here
    try:
        os.kill(int(holder[0]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _clear(path: Path) -> None:
    """Remove what an earlier run left; only names that runs make."""
    for name in ("checkpoints", "previews", "scratch"):
        shutil.rmtree(path / name, ignore_errors=True)
    for name in (RECORD, CONFIG, "metrics.csv", "model.safetensors", "report.html"):
        (path / name).unlink(missing_ok=True)
