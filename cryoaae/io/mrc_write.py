"""Writing MRC files: true to the header of their source, whole or not at all."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import NDArray

from cryoaae.errors import CryoaaeError, InputError, ResourceError
from cryoaae.io.atomic import atomic_path
from cryoaae.io.mrc_header import HEADER_BYTES, axes_to_zyx, parse_header
from cryoaae.io.mrc_values import Statistics, measure, slabs
from cryoaae.volume import Volume

log = logging.getLogger("cryoaae")

WRITTEN_MODES = {"float32": 2, "float16": 12, "int16": 1, "uint16": 6}
TEXT_EXTENSIONS = (b"CCP4", b"MRCO")
LABELS, LABEL_BYTES = 10, 80


@contextmanager
def create_volume(
    path: Path | str,
    shape_zyx: tuple[int, int, int],
    *,
    like: Volume | None = None,
    voxel_size_angstrom: float | None = None,
    dtype: str = "float32",
    label: str = "",
    overwrite: bool = False,
) -> Iterator[NDArray[Any]]:
    """Yield a writable memory map (z, y, x) of a new MRC file, which appears whole on a clean exit.

    Parameters
    ----------
    path : path
        The file to make.
    shape_zyx : (int, int, int)
        Its size in voxels.
    like : Volume, optional
        The source: its voxel size, origin, start, axis order, labels and, for the same shape, cell
        and extended header are kept.
    voxel_size_angstrom : float, optional
        Needed without `like`, else overrides it.
    dtype : {"float32", "float16", "int16", "uint16"}
        Type of the stored voxels.
    label : str
        Added to the labels after the name and version of this program, such as a model's digest.
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    InputError
        When the file exists, cannot be written, or its values do not fit into `dtype`.
    ResourceError
        When the disk has too little room: said before the work, by reserving the bytes.
    """
    path = Path(path)
    record, extended, axes = _new_header(shape_zyx, like, voxel_size_angstrom, dtype, label)
    order = axes_to_zyx(axes)
    stored = tuple(int(record[name]) for name in ("nz", "ny", "nx"))
    voxel = np.dtype(dtype).newbyteorder("<")
    offset = HEADER_BYTES + len(extended)
    total = offset + math.prod(stored) * voxel.itemsize

    def check(part: Path) -> None:
        with part.open("rb") as stream:
            found = parse_header(part, stream.read(HEADER_BYTES))
        if found.total_bytes != total or part.stat().st_size != total or found.shape_zyx != tuple(shape_zyx):
            raise CryoaaeError(f"{path}: the written file does not hold what was meant; nothing was changed")

    with atomic_path(path, overwrite=overwrite, check=_quietly(check)) as part:
        _reserve(part, path, total)
        mapped = np.memmap(part, voxel, "r+", offset, stored)
        data = np.transpose(mapped, order)
        yield data
        _fill_statistics(path, record, data, dtype)
        mapped.flush()
        with part.open("r+b") as stream:
            stream.write(record.tobytes() + extended)


def write_volume(
    path: Path | str,
    data: NDArray[Any],
    *,
    like: Volume | None = None,
    voxel_size_angstrom: float | None = None,
    dtype: str = "float32",
    label: str = "",
    overwrite: bool = False,
) -> None:
    """Write an array (z, y, x) as an MRC file; parameters and errors as for `create_volume`."""
    z, y, x = data.shape
    with create_volume(
        path, (z, y, x), like=like, voxel_size_angstrom=voxel_size_angstrom,
        dtype=dtype, label=label, overwrite=overwrite,
    ) as out:  # fmt: skip
        for start, slab in slabs(np.asarray(data)):
            with np.errstate(over="ignore", invalid="ignore"):  # found, with its remedy, on exit
                out[start : start + slab.shape[0]] = slab


def _quietly(check: Any) -> Any:
    """Run a check of our own file without repeating the reader's warnings to the user."""

    def run(part: Path) -> None:
        before, log.disabled = log.disabled, True
        try:
            check(part)
        finally:
            log.disabled = before

    return run


def _reserve(part: Path, path: Path, total: int) -> None:
    """Take the whole room at once: a full disk met through a memory map would kill the process."""
    try:
        with part.open("wb") as stream:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(stream.fileno(), 0, total)
            else:
                stream.truncate(total)
    except PermissionError as error:
        raise InputError(
            path, f"cannot be written ({error.strerror})", "choose another output folder"
        ) from error
    except FileNotFoundError as error:
        raise InputError(path, f"its folder {path.parent} does not exist", "make the folder first") from error
    except OSError as error:
        raise ResourceError(
            f"{path}: {total} bytes cannot be reserved ({error.strerror}); free some space"
        ) from error


def _fill_statistics(path: Path, record: NDArray[Any], data: NDArray[Any], dtype: str) -> None:
    found: Statistics = measure(data)
    if found.nonfinite and dtype == "float16":
        raise InputError("--dtype float16", f"{found.nonfinite} values of {path} exceed 65504", "use float32")
    if found.nonfinite:
        raise CryoaaeError(
            f"{path}: the result holds {found.nonfinite} non-finite voxels, first at (z, y, x) = "
            f"{found.first_nonfinite_zyx}; nothing was written"
        )
    with np.errstate(over="ignore"):
        for name, value in zip(
            ("dmin", "dmax", "dmean", "rms"),
            (found.minimum, found.maximum, found.mean, found.std),
            strict=True,
        ):
            record[name] = value


def _new_header(
    shape_zyx: tuple[int, int, int], like: Volume | None, voxel: float | None, dtype: str, label: str
) -> tuple[NDArray[Any], bytes, tuple[int, int, int]]:
    """Return header record (little-endian), extended header and map axes."""
    if dtype not in WRITTEN_MODES:
        raise InputError("--dtype", f"{dtype} is not written", f"choose one of {', '.join(WRITTEN_MODES)}")
    voxel = like.voxel_size_angstrom if voxel is None and like is not None else voxel
    if voxel is None or not (math.isfinite(voxel) and voxel > 0):
        raise InputError("--voxel-size", f"{voxel} is no voxel size to write", "state it in angstrom")
    record, extended, axes = _source_header(like)
    source_shape = like.shape if like is not None and "record" in like.header else None
    stored_by_axis = dict(zip((3, 2, 1), shape_zyx, strict=True))
    for name, axis in zip(("nx", "ny", "nz"), axes, strict=True):
        record[name] = stored_by_axis[axis]
    sizes_xyz = tuple(shape_zyx)[::-1]
    unchanged = source_shape == tuple(shape_zyx) and like is not None and _states(record, voxel)
    for letter, size in zip("xyz", sizes_xyz, strict=True):
        if not unchanged:
            record["m" + letter], record["cella"][letter] = size, size * voxel
        if like is not None:
            record["origin"][letter] = like.origin_angstrom_xyz["xyz".index(letter)]
    if source_shape != tuple(shape_zyx) and bytes(record["exttyp"]) not in TEXT_EXTENSIONS:
        extended = b""  # one entry a section: no longer true
    record["mode"], record["nversion"], record["map"] = WRITTEN_MODES[dtype], 20141, b"MAP "
    record["machst"] = (0x44, 0x44, 0, 0)
    record["mapc"], record["mapr"], record["maps"] = axes
    record["ispg"] = int(record["ispg"]) or 1
    record["nsymbt"] = len(extended)
    _put_labels(record, like.header.get("labels", ()) if like is not None else (), label)
    return record, extended, axes


def _states(record: NDArray[Any], voxel: float) -> bool:
    """Whether the copied cell gives the voxel size that is wanted, so that its bits can stay."""
    cell = [float(record["cella"][axis]) for axis in "xyz"]
    grid = [int(record["m" + axis]) for axis in "xyz"]
    if 0 in grid:
        return False
    mean = math.fsum(c / m for c, m in zip(cell, grid, strict=True)) / 3
    return abs(mean - voxel) <= 1e-6 * voxel


def _source_header(like: Volume | None) -> tuple[NDArray[Any], bytes, tuple[int, int, int]]:
    little = HEADER_DTYPE.newbyteorder("<")
    if like is None or "record" not in like.header:
        record = np.zeros((), dtype=little)
        for axis in ("alpha", "beta", "gamma"):
            record["cellb"][axis] = 90.0
        return record, b"", (1, 2, 3)
    order = like.header["byte_order"]
    record = np.frombuffer(like.header["record"], HEADER_DTYPE.newbyteorder(order))[0].astype(little)
    extended: bytes = like.header["extended"]
    if order == ">" and bytes(record["exttyp"]) not in TEXT_EXTENSIONS and extended:
        log.warning("%s: its big-endian extended header is not copied", like.source)
        extended = b""
    # The IMOD flags speak of the sign of bytes and of the source's byte order: not true any more.
    extra = bytearray(bytes(record["extra2"]))
    extra[40:48] = bytes(8)
    record = np.array(record)
    record["extra2"] = np.void(bytes(extra))
    return record, extended, like.header["map_axes"]


def _put_labels(record: NDArray[Any], kept: tuple[str, ...], label: str) -> None:
    ours = f"cryoaae {_version()} {label}".strip()
    texts = [*[text for text in kept if text != ours][-(LABELS - 1) :], ours]
    record["nlabl"] = len(texts)
    for i in range(LABELS):
        text = texts[i] if i < len(texts) else ""
        record["label"][i] = text.encode("latin-1", "replace")[:LABEL_BYTES]


def _version() -> str:
    try:
        return metadata.version("cryoaae")
    except metadata.PackageNotFoundError:
        return "unknown"
