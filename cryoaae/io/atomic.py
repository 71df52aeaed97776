"""Writing so that a reader, or the next run, finds the old file or the new one whole, never a part."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryoaae.errors import InputError, ResourceError

NAME_MAX_BYTES = 255
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def part_path(target: Path) -> Path:
    """Name of the unfinished file: same folder, so that the last step is a rename."""
    name = f"{target.name}.{os.getpid()}.part"
    if len(os.fsencode(name)) > NAME_MAX_BYTES:
        short = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]
        name = f"{short}.{os.getpid()}.part"
    return target.with_name(name)


def sync_file(path: Path) -> None:
    """Ask the system to put a file's, or a folder's, contents on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(
    target: Path | str, *, overwrite: bool = True, check: Callable[[Path], None] | None = None
) -> Iterator[Path]:
    """Yield the path to write to; on a clean exit it becomes the target, else it is removed.

    Parameters
    ----------
    target : path
        The file to make. Its folder must exist.
    overwrite : bool
        Whether an existing target may be replaced.
    check : callable, optional
        Called with the unfinished path after it is on disk; what it raises keeps the old file.

    Raises
    ------
    InputError
        When the target exists and may not be replaced, or its folder cannot be written.
    ResourceError
        When the disk is full; the old file stays.
    """
    target = Path(target)
    if not overwrite and os.path.lexists(target):
        raise InputError(target, "exists already", "give --overwrite or another name")
    part = part_path(target)
    try:
        yield part
        sync_file(part)
        if check is not None:
            check(part)
        part.replace(target)
        sync_file(target.parent)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise ResourceError(
                f"{target}: the disk is full or a size limit was met ({error.strerror}); "
                f"free space in {target.parent} and run again"
            ) from error
        raise
    finally:
        with suppress(FileNotFoundError):  # gone after a clean exit
            part.unlink()


def write_bytes(path: Path | str, data: bytes, *, overwrite: bool = True) -> None:
    """Write a whole file atomically."""

    def check(part: Path) -> None:
        if part.stat().st_size != len(data):
            raise OSError(errno.EIO, f"{part.stat().st_size} of {len(data)} bytes on disk")

    with atomic_path(path, overwrite=overwrite, check=check) as part:
        part.write_bytes(data)


def write_text(path: Path | str, text: str, *, overwrite: bool = True) -> None:
    """Write a whole UTF-8 text file atomically."""
    write_bytes(path, text.encode("utf-8"), overwrite=overwrite)


def make_folder(folder: Path) -> None:
    """Make the output folder before any work.

    Raises
    ------
    InputError
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(folder, f"cannot be made ({error.strerror})", "choose another folder") from error


def check_output(path: Path | str, inputs: Iterable[Path | str] = (), overwrite: bool = False) -> None:
    """Refuse an output that could not, or should not, be written; call before any work.

    Parameters
    ----------
    path : path
        The output file.
    inputs : paths
        Files that are read; none of them may be the output, be it by a hard or symbolic link.
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    InputError
        With the reason and what to do.
    """
    path = Path(path)
    for source in inputs:
        with suppress(FileNotFoundError, NotADirectoryError):
            if path.samefile(source):
                raise InputError(path, f"is also an input ({source})", "choose another output name")
    if path.is_dir():
        raise InputError(path, "is a folder", "give the name of a file")
    if os.path.lexists(path) and not overwrite:
        raise InputError(path, "exists already", "give --overwrite or another name")
    folder = path.parent
    if not folder.exists():
        raise InputError(path, f"its folder {folder} does not exist", "make the folder first")
    if not folder.is_dir():
        raise InputError(path, f"{folder} is a file, not a folder", "choose another output folder")
    probe = part_path(path)
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            path, f"its folder cannot be written ({error.strerror})", "choose another output folder"
        ) from error
