"""The 1024 bytes at the head of an MRC file: what they say, and whether it can be true."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import NDArray

from cryoaae.errors import InputError

log = logging.getLogger("cryoaae")

HEADER_BYTES = 1024
MODES: dict[int, str] = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
REFUSED_MODES = {
    3: ("complex 16-bit integers: a Fourier volume", "give a real-space map"),
    4: ("complex: a Fourier volume", "give a real-space map"),
    16: ("colour bytes", "give a grey-valued map"),
    101: ("packed 4-bit values", "convert it, e.g. with IMOD: newstack -mode 1 IN OUT"),
}
STAMPS = {b"\x44\x44": "<", b"\x44\x41": "<", b"\x11\x11": ">"}
# A side of a million voxels is beyond any tomogram: such a number is a misread one.
SANE_SIDE = 1_000_000
IMOD_STAMP = 1146047817
VOXEL_LIMITS_ANGSTROM = (0.01, 100_000.0)
ANISOTROPY_LIMIT = 0.01


@dataclass(frozen=True)
class MrcHeader:
    """A checked header.

    Parameters
    ----------
    record : 0-d structured array
        The raw header in the file's byte order.
    byte_order : "<" or ">"
    dtype : numpy dtype
        Of a stored voxel, in the file's byte order.
    stored_shape : (int, int, int)
        (sections, rows, columns).
    map_axes : (int, int, int)
        Axis (1 = x, 2 = y, 3 = z) of columns, rows and sections.
    """

    record: NDArray[Any]
    byte_order: str
    dtype: np.dtype[Any]
    stored_shape: tuple[int, int, int]
    map_axes: tuple[int, int, int]

    @property
    def extended_bytes(self) -> int:
        return int(self.record["nsymbt"])

    @property
    def data_offset(self) -> int:
        return HEADER_BYTES + self.extended_bytes

    @property
    def data_bytes(self) -> int:
        return math.prod(self.stored_shape) * self.dtype.itemsize

    @property
    def total_bytes(self) -> int:
        return self.data_offset + self.data_bytes

    @property
    def axes_zyx(self) -> tuple[int, int, int]:
        """Transposition that turns a stored array into (z, y, x)."""
        return axes_to_zyx(self.map_axes)

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        z, y, x = (self.stored_shape[axis] for axis in self.axes_zyx)
        return z, y, x

    @property
    def voxel_sizes_angstrom_xyz(self) -> tuple[float, float, float]:
        """Cell over grid, NaN where the header gives no number; may be 0 or negative."""
        cell = (float(self.record["cella"][axis]) for axis in "xyz")
        grid = (int(self.record["m" + axis]) for axis in "xyz")
        x, y, z = (c / m if m else math.nan for c, m in zip(cell, grid, strict=True))
        return x, y, z

    @property
    def origin_angstrom_xyz(self) -> tuple[float, float, float]:
        x, y, z = (float(self.record["origin"][axis]) for axis in "xyz")
        return (x, y, z) if all(map(math.isfinite, (x, y, z))) else (0.0, 0.0, 0.0)

    @property
    def labels(self) -> tuple[str, ...]:
        raw = self.record["label"][: max(0, min(10, int(self.record["nlabl"])))]
        texts = (bytes(label).decode("latin-1").rstrip("\0") for label in raw)
        return tuple(text for text in texts if text.strip())


def axes_to_zyx(map_axes: tuple[int, int, int]) -> tuple[int, int, int]:
    """Transposition of (sections, rows, columns) to (z, y, x), given the axes of columns, rows, sections."""
    sections_first = map_axes[::-1]
    return sections_first.index(3), sections_first.index(2), sections_first.index(1)


def parse_header(path: Path, raw: bytes) -> MrcHeader:
    """Read and check the first 1024 bytes of a file.

    Raises
    ------
    InputError
        Naming the field that cannot be right.
    """
    if len(raw) < HEADER_BYTES:
        raise InputError(
            path, f"{len(raw)} bytes, shorter than an MRC header of {HEADER_BYTES}", "copy the file again"
        )
    record, order = _in_byte_order(path, raw)
    _check_mode(path, int(record["mode"]))
    shape = tuple(int(record[name]) for name in ("nz", "ny", "nx"))
    sections, rows, columns = shape
    for name, size in zip(("nz", "ny", "nx"), shape, strict=True):
        if size <= 0:
            raise InputError(
                path, f"header field {name} is {size}", "the header is damaged; write the file again"
            )
    if int(record["nsymbt"]) < 0:
        raise InputError(
            path,
            f"header field nsymbt (extended header size) is {int(record['nsymbt'])}",
            "write the file again",
        )
    _check_kind(path, record, shape)
    dtype = np.dtype(order + _voxel_type(path, record))
    return MrcHeader(record, order, dtype, (sections, rows, columns), _map_axes(path, record))


def _in_byte_order(path: Path, raw: bytes) -> tuple[NDArray[Any], str]:
    """Choose the byte order: that of the machine stamp, unless only the other one makes sense."""
    stamped = STAMPS.get(raw[212:214])
    records = {
        order: np.frombuffer(raw[:HEADER_BYTES], HEADER_DTYPE.newbyteorder(order))[0] for order in "<>"
    }
    first = stamped or "<"
    other = "<" if first == ">" else ">"
    has_map = raw[208:211] == b"MAP"
    chosen = next((order for order in (first, other) if _plausible(records[order])), None)
    if chosen is None:
        if not has_map:
            raise InputError(path, "not an MRC file (no MAP marker, senseless header)", _what_instead(raw))
        return records[first], first
    if stamped != chosen:
        log.warning(
            "%s: header field machst is wrong (%s); read as %s-endian, write the file again to silence this",
            path, raw[212:216].hex(), "little" if chosen == "<" else "big",
        )  # fmt: skip
    if not has_map:
        log.warning("%s: header field MAP is missing; read on, for the other fields make sense", path)
    return records[chosen], chosen


def _plausible(record: NDArray[Any]) -> bool:
    sides = all(0 < int(record[name]) <= SANE_SIDE for name in ("nx", "ny", "nz"))
    mode = int(record["mode"])
    return sides and (mode in MODES or mode in REFUSED_MODES) and int(record["nsymbt"]) >= 0


def _what_instead(raw: bytes) -> str:
    kinds = {
        b"\x89PNG": "PNG",
        b"II*\0": "TIFF",
        b"MM\0*": "TIFF",
        b"\x89HDF": "HDF5",
        b"PK": "zip",
        b"<": "HTML or XML",
    }
    for magic, kind in kinds.items():
        if raw.startswith(magic):
            return f"it looks like {kind}; give an .mrc, .rec or .map file"
    return "give an .mrc, .rec or .map file"


def _check_mode(path: Path, mode: int) -> None:
    if mode in MODES:
        return
    what, remedy = REFUSED_MODES.get(
        mode, ("not a mode of the format", "the header is damaged; write the file again")
    )
    raise InputError(path, f"header field mode is {mode} ({what})", remedy)


def _check_kind(path: Path, record: NDArray[Any], shape: tuple[int, ...]) -> None:
    group = int(record["ispg"])
    if 401 <= group <= 630:
        raise InputError(
            path,
            f"header field ispg is {group}: a stack of volumes (4-D)",
            "give each volume as a file of its own",
        )
    if min(shape) < 2:
        raise InputError(
            path, f"a 2-D image of {' x '.join(map(str, shape))} voxels (z, y, x)", "give a 3-D tomogram"
        )
    if group == 0 and path.suffix.lower() != ".mrcs":  # which is the suffix of stacks
        log.warning(
            "%s: header field ispg is 0 (image stack); taken as a volume of %d sections", path, shape[0]
        )


def _voxel_type(path: Path, record: NDArray[Any]) -> str:
    """Numpy type code; bytes are signed by the standard, but were not in older IMOD files."""
    code = MODES[int(record["mode"])]
    if code != "i1":
        return code
    order = record.dtype["mode"].byteorder
    integer = np.dtype("i4").newbyteorder(order)
    stamp, flags = (int(v) for v in np.frombuffer(bytes(record["extra2"])[40:48], integer))
    if stamp == IMOD_STAMP:
        signed, reason = bool(flags & 1), "by the IMOD flag"
    elif float(record["dmin"]) < 0:  # which leaves no doubt
        return "i1"
    elif float(record["dmax"]) > 127:
        signed, reason = False, "by header field dmax"
    else:
        signed, reason = True, "by the MRC2014 standard"
    log.warning("%s: bytes (mode 0) read as %s %s", path, "signed" if signed else "unsigned", reason)
    return "i1" if signed else "u1"


def _map_axes(path: Path, record: NDArray[Any]) -> tuple[int, int, int]:
    columns, rows, sections = (int(record[name]) for name in ("mapc", "mapr", "maps"))
    axes = (columns, rows, sections)
    if axes == (0, 0, 0):
        log.warning("%s: header fields mapc, mapr, maps are 0; taken as 1, 2, 3", path)
        return 1, 2, 3
    if sorted(axes) != [1, 2, 3]:
        raise InputError(
            path, f"header fields mapc, mapr, maps are {axes}, not an order of 1, 2, 3", "correct the header"
        )
    if axes != (1, 2, 3):
        log.warning("%s: header fields mapc, mapr, maps are %s; axes reordered to z, y, x", path, axes)
    return axes


def choose_voxel_size(path: Path, header: MrcHeader, stated_angstrom: float | None) -> float:
    """Voxel size in angstrom: what the user states, else the header's, which must make sense.

    Raises
    ------
    InputError
        For sizes of 0, negative, not finite or absurd, and for voxels that are not cubes.
    """
    low, high = VOXEL_LIMITS_ANGSTROM
    if stated_angstrom is not None:
        if not low <= stated_angstrom <= high:  # false for NaN too
            raise InputError(
                "--voxel-size", f"{stated_angstrom} angstrom", f"give a number from {low} to {high:g}"
            )
        return float(stated_angstrom)
    sizes = header.voxel_sizes_angstrom_xyz
    text = " x ".join(f"{size:.6g}" for size in sizes)
    if not all(low <= size <= high for size in sizes):
        raise InputError(
            path,
            f"header fields cella / mx give a voxel size of {text} angstrom",
            "state it with --voxel-size",
        )
    if max(sizes) > min(sizes) * (1 + ANISOTROPY_LIMIT):
        raise InputError(
            path, f"anisotropic voxels of {text} angstrom (x, y, z)", "resample first to cubic voxels"
        )
    if sizes == (1.0, 1.0, 1.0):
        log.warning(
            "%s: a voxel size of exactly 1 angstrom is often a placeholder; correct with --voxel-size", path
        )
    return math.fsum(sizes) / 3
