"""IDX files (MNIST and its kin): a header of big-endian sizes, then that many numbers and nothing more."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from cryoaae.errors import InputError

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP_MAGIC = b"\x1f\x8b"
# More than any set of small images; a header that claims it is misread, or a trap.
MAX_BYTES = 4 * 10**9
CHUNK_BYTES = 1 << 24
AGAIN = "copy or download it again"


def read_idx(path: Path | str, *, axes: Sequence[int], types: Sequence[int] = (0x08,)) -> NDArray[Any]:
    """Read an IDX file, plain or gzipped, whatever its name says.

    Parameters
    ----------
    path : path
        The file.
    axes : sequence of int
        Numbers of axes that are accepted.
    types : sequence of int
        Type codes that are accepted: keys of `TYPES`.

    Returns
    -------
    ndarray
        Of the header's shape, none of its sizes 0, in memory of its own.

    Raises
    ------
    InputError
        Naming the file, what is wrong, and what to do.
    """
    path = Path(path)
    with _opened(path) as stream:
        dtype, shape = _header(path, stream, axes, types)
        claimed = math.prod(shape) * dtype.itemsize
        if claimed > MAX_BYTES:
            raise InputError(
                path, f"its header claims {claimed} bytes, more than {MAX_BYTES}", f"{AGAIN}, or give fewer images"
            )
        payload = _payload(stream, claimed)
        if len(payload) < claimed:
            raise InputError(path, f"truncated: {len(payload)} of {claimed} bytes after the header", AGAIN)
        if stream.read(1):
            raise InputError(path, f"has more than the {claimed} bytes that its header claims", AGAIN)
    return np.frombuffer(payload, dtype).reshape(shape)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            packed = file.read(2) == GZIP_MAGIC
            file.seek(0)
            # One type for both: a GzipFile reads as a binary file does.
            yield cast("BinaryIO", gzip.GzipFile(fileobj=file, mode="rb")) if packed else file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(path, f"damaged gzip ({error})", AGAIN) from error
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "check the file and its permissions") from error


def _header(
    path: Path, stream: BinaryIO, axes: Sequence[int], types: Sequence[int]
) -> tuple[np.dtype[Any], tuple[int, ...]]:
    magic = stream.read(4)
    if not magic:
        raise InputError(path, "empty", AGAIN)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES:
        raise InputError(path, f"not an IDX file: it begins with {magic.hex(' ')}", "give the original IDX file")
    if magic[2] not in types:
        known = " or ".join(f"{t:02x}" for t in types)
        raise InputError(path, f"holds numbers of type {magic[2]:02x}, not {known}", "give unsigned bytes (type 08)")
    if magic[3] not in axes:
        known = " or ".join(str(a) for a in axes)
        raise InputError(path, f"holds an array of {magic[3]} axes, not {known}", "check which file is which")
    raw = stream.read(4 * magic[3])
    if len(raw) < 4 * magic[3]:
        raise InputError(path, f"truncated within its header of {4 + 4 * magic[3]} bytes", AGAIN)
    shape = struct.unpack(f">{magic[3]}I", raw)
    if 0 in shape:
        raise InputError(path, f"empty: its header says {' x '.join(map(str, shape))}", AGAIN)
    return np.dtype(TYPES[magic[2]]), shape


def _payload(stream: BinaryIO, count: int) -> bytearray:
    """Read up to `count` bytes; memory grows with what is there, not with what is claimed."""
    payload = bytearray()
    while len(payload) < count:
        chunk = stream.read(min(CHUNK_BYTES, count - len(payload)))
        if not chunk:
            break
        payload += chunk
    return payload
