"""MRC files (also .rec, .map, .st, .ali): opened as memory maps, with every check.

What mrcfile lets pass and a restoration must not (NaN voxels, voxel size 0, permuted axes, a file still
being written) is caught here. The writers, of `io.mrc_write`, can be had from here too.
"""

from __future__ import annotations

import bz2
import gzip
import logging
import os
import stat
import zlib
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError
from cryoaae.io.mrc_header import HEADER_BYTES, MrcHeader, choose_voxel_size, parse_header
from cryoaae.io.mrc_values import check_values
from cryoaae.io.mrc_write import create_volume, write_volume
from cryoaae.volume import DENSITY_SIGN, Volume

log = logging.getLogger("cryoaae")

EXTRA_BYTES_TOLERATED = 1024
BOMB_BYTES = 1 << 20
CHUNK_BYTES = 1 << 24
NOT_MRC_MAGIC = {b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
FileState = tuple[int, int, int]

__all__ = ["assert_unchanged", "create_volume", "open_volume", "peek_header", "write_volume"]


def open_volume(
    path: Path | str,
    *,
    voxel_size_angstrom: float | None = None,
    lenient: bool = False,
    fill_nonfinite: bool = False,
    allow_constant: bool = False,
    density: str | None = None,
) -> Volume:
    """Open a density map and look through every voxel of it once.

    Parameters
    ----------
    path : path
        An MRC file, in either byte order; gzip and bzip2 are read into memory, all else is mapped.
    voxel_size_angstrom : float, optional
        Overrides the header's.
    lenient : bool
        Accept more than 1 kB after the data.
    fill_nonfinite : bool
        Put the median where up to 1 % of the voxels are NaN or infinite (only the pages that hold
        them are copied to memory; the file stays).
    allow_constant : bool
        Accept a map without contrast, such as an empty truth.
    density : {"auto", "bright", "dark"}, optional
        What is said of its structures.

    Returns
    -------
    Volume
        (z, y, x), read only unless filled. `header` holds what `write_volume` copies, the
        statistics of the scan (`statistics`), and the state of the file (`state`).

    Raises
    ------
    InputError
        Naming the file, the field and what to do.
    """
    path = Path(path)
    if density not in (None, *DENSITY_SIGN):
        raise InputError("--density", f"{density!r} is none of {', '.join(DENSITY_SIGN)}", "give one of them")
    state = _file_state(path)
    try:
        header, extended, data = _read(path, state[0], lenient, fill_nonfinite)
        voxel = choose_voxel_size(path, header, voxel_size_angstrom)
        data = np.transpose(data, header.axes_zyx)
        found = check_values(path, data, fill_nonfinite=fill_nonfinite, allow_constant=allow_constant)
    except (EOFError, zlib.error, OSError) as error:
        # BadGzipFile is an OSError, too.
        raise InputError(path, f"cannot be read ({error})", "copy or decompress it again") from error
    except (ValueError, MemoryError) as error:
        raise InputError(path, f"cannot be mapped ({error})", "check that the file is whole") from error
    facts: dict[str, Any] = {
        "record": header.record.tobytes(),
        "byte_order": header.byte_order,
        "extended": extended,
        "map_axes": header.map_axes,
        "labels": header.labels,
        "statistics": found,
        "state": state,
    }
    volume = Volume(data, voxel, header.origin_angstrom_xyz, path, facts, DENSITY_SIGN[density or "auto"])
    assert_unchanged(volume)
    return volume


def peek_header(path: Path | str, *, lenient: bool = False) -> MrcHeader:
    """Read and check the header alone, against the file's size where it is not compressed."""
    path = Path(path)
    size = _file_state(path)[0]
    try:
        with _opened(path) as stream:
            header = parse_header(path, stream.read(HEADER_BYTES))
            if not _compressed(stream):
                _check_size(path, header, size, lenient)
    except (EOFError, zlib.error, OSError) as error:
        raise InputError(path, f"cannot be read ({error})", "copy or decompress it again") from error
    return header


def assert_unchanged(volume: Volume) -> None:
    """Refuse a file that changed since it was opened, as one still being written does.

    Raises
    ------
    InputError
        When size, inode or modification time differ.
    """
    state = volume.header.get("state")
    if volume.source is None or state is None:
        return
    if _file_state(volume.source) != state:
        raise InputError(
            volume.source, "file changed while it was read", "wait until it is finished, run again"
        )


def _file_state(path: Path) -> FileState:
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(
            path, f"cannot be opened ({error.strerror})", "check the name and the link"
        ) from error
    except ValueError as error:  # a null byte in the name
        raise InputError(path, f"not a file name ({error})", "check the name") from error
    if stat.S_ISDIR(found.st_mode):
        raise InputError(path, "is a folder", "give an MRC file")
    if not stat.S_ISREG(found.st_mode):
        raise InputError(path, "is not a regular file", "give an MRC file on disk, not a pipe or device")
    if found.st_size == 0:
        raise InputError(path, "0 bytes", "copy or write the file again")
    return found.st_size, found.st_mtime_ns, found.st_ino


def _opened(path: Path) -> IO[bytes]:
    """Open by what the file holds, whatever its suffix."""
    with path.open("rb") as stream:
        magic = stream.read(8)
    for start, kind in NOT_MRC_MAGIC.items():
        if magic.startswith(start):
            raise InputError(path, f"is compressed with {kind}", "decompress it first")
    if magic.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if magic.startswith(b"BZh"):
        return cast("IO[bytes]", bz2.open(path, "rb"))
    return path.open("rb")


def _compressed(stream: IO[bytes]) -> bool:
    return isinstance(stream, gzip.GzipFile | bz2.BZ2File)


def _read(path: Path, size: int, lenient: bool, writable: bool) -> tuple[MrcHeader, bytes, NDArray[Any]]:
    """Return header, extended header and data (sections, rows, columns)."""
    with _opened(path) as stream:
        header = parse_header(path, stream.read(HEADER_BYTES))
        if _compressed(stream):
            log.warning("%s: compressed, so read into memory; decompress it to have it memory mapped", path)
            body = _inflate(path, stream, header, lenient)
            values = np.frombuffer(memoryview(body)[header.extended_bytes :], header.dtype)
            return header, bytes(body[: header.extended_bytes]), values.reshape(header.stored_shape)
        _check_size(path, header, size, lenient)
        extended = stream.read(header.extended_bytes)
    # Copy on write: filled voxels cost memory for their pages only, and never reach the file.
    mapped = np.memmap(path, header.dtype, "c" if writable else "r", header.data_offset, header.stored_shape)
    return header, extended, mapped


def _check_size(path: Path, header: MrcHeader, size: int, lenient: bool) -> None:
    extra = size - header.total_bytes
    shape = " x ".join(map(str, header.stored_shape))
    if extra < 0:
        raise InputError(
            path,
            f"truncated: header fields nz, ny, nx ({shape}), mode and nsymbt ask for "
            f"{header.total_bytes} bytes, the file has {size}",
            "copy or write the file again",
        )
    if extra > 0:
        text = (
            f"{extra} bytes after the data that header fields nz, ny, nx ({shape}), mode and nsymbt describe"
        )
        if extra >= EXTRA_BYTES_TOLERATED and not lenient:
            raise InputError(path, text, "check the mode, or give --lenient")
        log.warning("%s: %s; ignored", path, text)


def _inflate(path: Path, stream: IO[bytes], header: MrcHeader, lenient: bool) -> bytearray:
    """Read what the header asks for, piece by piece, so that a lie costs no memory."""
    wanted = header.total_bytes - HEADER_BYTES
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if wanted > memory:
        raise InputError(
            path,
            f"asks for {wanted} bytes in memory, this machine has {memory}",
            "decompress it to have it mapped",
        )
    body = bytearray()
    while len(body) < wanted:
        piece = stream.read(min(CHUNK_BYTES, wanted - len(body)))
        if not piece:
            break
        body += piece
    rest = 0
    while rest <= BOMB_BYTES:  # to the end, for the checksum stands there
        piece = stream.read(BOMB_BYTES)
        if not piece:
            break
        rest += len(piece)
    if rest > BOMB_BYTES:
        raise InputError(
            path, f"decompresses to over {rest} bytes more than its header says", "check the file"
        )
    _check_size(path, header, HEADER_BYTES + len(body) + rest, lenient)
    return body
