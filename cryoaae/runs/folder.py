"""The run folder: one record of what was asked and how it ended, one lock, so that runs do not mix."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from cryoaae.errors import InputError, InterruptedRunError
from cryoaae.io.atomic import write_text
from cryoaae.runs.provenance import file_facts, versions

RECORD, CONFIG, LOCK = "run.json", "config.yaml", "run.lock"
# A start time read again later moves with the system clock.
CLOCK_SHIFT_SECONDS = 30.0
MADE_FOLDERS = ("checkpoints", "sampler_checkpoints", "previews", "scratch", "classes", "particles", "volumes")
MADE_FILES = (
    RECORD, CONFIG, "metrics.csv", "model.safetensors", "energy.safetensors", "report.html", "loss.png",
    "result.json", "latent.html", "latent.png", "manifold.png", "density_ratio.png", "curves.png", "styles.png",
    "clusters.png", "reconstructions.png", "codes.npz", "clusters.json", "sampler.safetensors",
)  # fmt: skip


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
        facts = cls.check(path, config, inputs=inputs, overwrite=overwrite, resume=resume)
        try:
            path.mkdir(parents=True, exist_ok=True)
            _lock(path)
        except OSError as error:
            raise InputError(path, f"cannot be written ({error.strerror})", "choose another folder") from error
        try:
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
        except BaseException:
            (path / LOCK).unlink(missing_ok=True)  # this process lives on, and would seem to hold it
            raise
        return folder

    @staticmethod
    def check(
        path: Path,
        config: dict[str, Any],
        *,
        inputs: Sequence[Path] = (),
        overwrite: bool = False,
        resume: bool = False,
    ) -> list[dict[str, Any]]:
        """Refuse what `create` would refuse before it writes anything; return the facts of the inputs.

        Raises
        ------
        InputError
        """
        if path.exists() and not path.is_dir():
            raise InputError(path, "is a file, not a run folder", "choose another name")
        record_file = path / RECORD
        facts = [file_facts(p) for p in inputs]
        if resume:
            _check_same(path, record_file, config, facts)
        elif record_file.exists() and not overwrite:
            raise InputError(path, "already holds a run", "use --resume, --overwrite or another folder")
        elif not record_file.exists() and _foreign(path):
            raise InputError(path, "is not empty and not a run folder", "choose another folder")
        return facts

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
        try:
            self.write()
        finally:
            (self.path / LOCK).unlink(missing_ok=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """Only what YAML holds without tags (tuples become lists)."""
    plain: dict[str, Any] = json.loads(json.dumps(config))
    return plain


def read_mapping(file: Path) -> dict[str, Any]:
    """Read a YAML file that a run wrote about itself.

    Raises
    ------
    InputError
        When it cannot be read.
    """
    return _mapping(file, yaml.safe_load)


def _check_same(path: Path, record_file: Path, config: dict[str, Any], facts: list[dict[str, Any]]) -> None:
    if not record_file.exists():
        raise InputError(path, "no run to resume", "start it without --resume")
    record = _mapping(record_file, json.loads)
    before = _mapping(path / CONFIG, yaml.safe_load)
    if record.get("inputs") != facts:
        raise InputError(path, "was made from other input files", "resume with the same inputs, or start again")
    now = _plain(config)
    changed = sorted(k for k in set(before) | set(now) if before.get(k) != now.get(k) and k not in ("minutes", "steps"))
    if changed:
        raise InputError(path, f"was started with other settings ({', '.join(changed)})", "resume with the same")


def _mapping(file: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    """Read what an earlier run wrote about itself."""
    try:
        found = parse(file.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(file, "cannot be read, so the run cannot be used again", "start again") from error
    if not isinstance(found, dict):
        raise InputError(file, "damaged, so the run cannot be used again", "start again")
    return found


def _foreign(path: Path) -> bool:
    """Whether a folder holds what no run makes; a run killed before its record is none such."""
    if not path.exists():
        return False
    made = (*MADE_FOLDERS, *MADE_FILES, LOCK)
    return any(p.name not in made and not p.name.endswith(".part") for p in path.iterdir())


def _lock(path: Path) -> None:
    """Take the lock; one left by a process that is gone is taken over.

    The lock appears with its text in it (a link to a whole file), so nobody can read it half written and
    take it for a stale one; and who takes over a stale one renames it first, which only one can do.
    """
    lock = path / LOCK
    mine = path / f"{LOCK}.{socket.gethostname()}.{os.getpid()}.part"
    mine.write_text(f"{os.getpid()} {socket.gethostname()} {_started(os.getpid()):.0f}")
    try:
        while True:
            with suppress(FileExistsError):
                _put(mine, lock)
                return
            _remove_stale(path, lock, mine.with_suffix(".stale.part"))
    finally:
        mine.unlink(missing_ok=True)


def _put(whole: Path, lock: Path) -> None:
    """Make the lock from a whole file, or raise FileExistsError."""
    try:
        os.link(whole, lock)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        # A file system without hard links.
        with os.fdopen(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY), "w") as file:
            file.write(whole.read_text())


def _started(pid: int) -> float:
    """When a process started, in seconds since 1970.

    Raises
    ------
    psutil.NoSuchProcess
    """
    import psutil

    return float(psutil.Process(pid).create_time())


def _remove_stale(path: Path, lock: Path, aside: Path) -> None:
    """Remove the lock of a process that is gone.

    Raises
    ------
    InputError
        When its process lives.
    """
    try:
        seen = lock.read_text()
    except FileNotFoundError:
        return  # given back just now
    if _alive(seen.split()):
        raise InputError(
            path, f"is in use by process {' on '.join(seen.split()[:2])}", "wait for it or choose another folder"
        )
    with suppress(FileNotFoundError):
        lock.rename(aside)
        if aside.read_text() != seen:
            # Another took the stale one over in between: this is its lock, and it lives.
            with suppress(FileExistsError):
                _put(aside, lock)
        aside.unlink()


def _alive(holder: list[str]) -> bool:
    """Whether the process of a lock (number, host, start) lives.

    Numbers are used again, in a container nearly always: so another start is another process.
    """
    import psutil

    if len(holder) < 2 or not holder[0].isdigit():
        return False
    if holder[1] != socket.gethostname():
        return True  # cannot be known from here
    try:
        started = _started(int(holder[0]))
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
    return len(holder) < 3 or abs(started - float(holder[2])) < CLOCK_SHIFT_SECONDS


def _clear(path: Path) -> None:
    """Remove what an earlier run left; only names that runs make."""
    for name in MADE_FOLDERS:
        shutil.rmtree(path / name, ignore_errors=True)
    for name in MADE_FILES:
        (path / name).unlink(missing_ok=True)
