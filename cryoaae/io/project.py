"""Which files belong together: the one resolver of inputs for every command and the public functions."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cryoaae.errors import InputError
from cryoaae.io.mrc import open_volume
from cryoaae.io.mrc_values import same_values
from cryoaae.io.tilts import TILT_SUFFIXES, check_tilt_range, parse_tilt_axis, read_tilts
from cryoaae.io.tomogram_files import (
    PathLike,
    TomogramFiles,
    expanded,
    file_of,
    listed,
    paired,
    refuse_same_file,
    singles,
)
from cryoaae.physics.ctf import ContrastTransfer
from cryoaae.physics.wedge import MissingWedge
from cryoaae.volume import Volume

log = logging.getLogger("cryoaae")

VOXEL_TOLERANCE = 1e-3


@dataclass(frozen=True)
class TomogramInput:
    """The files of one tomogram: two halves, or a single volume, its missing wedge, and where there is something."""

    name: str
    even: Path | None
    odd: Path | None
    single: Path | None
    wedge: MissingWedge
    mask: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.even, self.odd, self.single) if path is not None)

    @property
    def has_halves(self) -> bool:
        return self.even is not None and self.odd is not None


@dataclass(frozen=True)
class Tomogram:
    """The opened volumes of one tomogram; halves, and the mask, have the same shape and voxel size.

    `transfer` is what the microscope made of them, where it is to be undone.
    """

    name: str
    even: Volume | None
    odd: Volume | None
    single: Volume | None
    wedge: MissingWedge
    mask: Volume | None = None
    transfer: ContrastTransfer | None = None

    @property
    def volumes(self) -> tuple[Volume, ...]:
        return tuple(volume for volume in (self.even, self.odd, self.single) if volume is not None)


def resolve_inputs(
    inputs: Iterable[PathLike] | PathLike = (),
    *,
    even: Iterable[PathLike] | PathLike = (),
    odd: Iterable[PathLike] | PathLike = (),
    tilts: Iterable[PathLike] | PathLike | None = None,
    tilt_range: tuple[float, float] | None = None,
    tilt_axis: float | str = "y",
    flip_tilts: bool = False,
    default_wedge: MissingWedge | None = None,
    mask: Iterable[PathLike] | PathLike | None = None,
) -> list[TomogramInput]:
    """Find the tomograms a user means, never by the order of names.

    Parameters
    ----------
    inputs : paths
        Single volumes: MRC files, folders, globs; or a tomograms STAR file.
    even, odd : paths
        Halves: files, folders or globs, paired by their names without half tokens and pixel size.
    tilts : paths, optional
        Tilt files (file, folder or glob), paired by name; a lone file belongs to a lone tomogram.
    tilt_range : (float, float), optional
        Lowest and highest tilt in degrees, for all tomograms.
    tilt_axis : "y", "x" or float
        Tilt axis in the xy plane; degrees from y towards x.
    flip_tilts : bool
        Whether the angles have the opposite sign.
    default_wedge : MissingWedge, optional
        Used where neither tilts nor a range is given.
    mask : paths, optional
        Volumes that say where the specimen is (above one half), paired as tilt files are.

    Raises
    ------
    InputError
        For names without a partner (with the nearest one), mixed or missing inputs.
    """
    inputs, even, odd = listed(inputs), listed(even), listed(odd)
    if (even or odd) and inputs:
        raise InputError("inputs", "single volumes and --even/--odd together", "give the one or the other")
    if bool(even) != bool(odd):
        given, missing = ("--even", "--odd") if even else ("--odd", "--even")
        raise InputError(
            given, f"given without {missing}", f"give {missing} too, or the volumes as single ones"
        )
    if not (even or inputs):
        raise InputError("inputs", "no tomogram given", "give MRC files, a folder, or --even and --odd")
    files = paired(expanded(even, "--even"), expanded(odd, "--odd")) if even else singles(inputs)
    axis = parse_tilt_axis(tilt_axis)
    wedges = _wedges(files, listed(tilts), tilt_range, axis, flip_tilts, default_wedge)
    masks = expanded(listed(mask), "--mask")
    return [
        TomogramInput(
            item.name, item.even, item.odd, item.single, wedge,
            file_of(item, masks, len(files), option="--mask", kind="mask") if masks else None,
        )
        for item, wedge in zip(files, wedges, strict=True)
    ]  # fmt: skip


def files_of(items: Sequence[TomogramInput]) -> list[Path]:
    """All that is read: volumes of all tomograms, then their masks."""
    masks = [item.mask for item in items if item.mask is not None]
    return [path for item in items for path in item.paths] + masks


def split_inputs(
    inputs: Iterable[PathLike | TomogramInput] | PathLike | TomogramInput,
) -> tuple[list[PathLike], list[TomogramInput]]:
    """Paths, still to be resolved, or inputs that were resolved before; a mixture is refused."""
    listed = [inputs] if isinstance(inputs, str | Path | TomogramInput) else list(inputs)
    resolved = [item for item in listed if isinstance(item, TomogramInput)]
    paths = [item for item in listed if not isinstance(item, TomogramInput)]
    if resolved and paths:
        raise InputError("inputs", "paths and resolved inputs together", "give the one or the other")
    return paths, resolved


def pairs_table(items: Sequence[TomogramInput]) -> str:
    """Text table of which files were taken together."""
    rows = [("tomogram", "even or single", "odd", "tilts")]
    for item in items:
        lo, hi = item.wedge.tilt_range_deg
        count = f" ({len(item.wedge.tilts_deg)})" if item.wedge.tilts_deg else ""
        first = item.even if item.has_halves else item.single
        rows.append((item.name, str(first), str(item.odd or "-"), f"{lo:g} to {hi:g}{count}"))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def open_tomogram(
    item: TomogramInput,
    *,
    voxel_size_angstrom: float | None = None,
    lenient: bool = False,
    fill_nonfinite: bool = False,
    density: str | None = None,
) -> Tomogram:
    """Open the volumes of a tomogram and check that its halves can be halves of one.

    Raises
    ------
    InputError
        When shapes or voxel sizes differ, the halves are the same data, or the mask leaves nothing.
    """

    def opened(path: Path | None) -> Volume | None:
        if path is None:
            return None
        return open_volume(
            path, voxel_size_angstrom=voxel_size_angstrom, lenient=lenient, fill_nonfinite=fill_nonfinite,
            density=density,
        )  # fmt: skip

    if item.even is not None and item.odd is not None:
        refuse_same_file(item.even, item.odd)
    tomogram = Tomogram(item.name, opened(item.even), opened(item.odd), opened(item.single), item.wedge)
    if item.mask is not None:
        tomogram = replace(tomogram, mask=_open_mask(item.mask, tomogram.volumes[0]))
    if tomogram.even is not None and tomogram.odd is not None:
        _check_halves(tomogram.even, tomogram.odd)
    return tomogram


def _open_mask(path: Path, volume: Volume) -> Volume:
    mask = open_volume(path, voxel_size_angstrom=volume.voxel_size_angstrom, allow_constant=True)
    if mask.shape != volume.shape:
        shapes = " and ".join(" x ".join(map(str, each.shape)) for each in (mask, volume))
        raise InputError(path, f"the mask and the tomogram have shapes {shapes} (z, y, x)", "give the tomogram's own")
    if not any((plane > 0.5).any() for plane in mask.data):
        raise InputError(path, "the mask leaves nothing", "give one that is 1 where the specimen is")
    return mask


def _check_halves(even: Volume, odd: Volume) -> None:
    source = f"{even.source} and {odd.source}"
    if even.shape != odd.shape:
        shapes = " and ".join(" x ".join(map(str, volume.shape)) for volume in (even, odd))
        raise InputError(source, f"the halves have shapes {shapes} (z, y, x)", "give halves of one tomogram")
    a, b = even.voxel_size_angstrom, odd.voxel_size_angstrom
    if abs(a - b) > VOXEL_TOLERANCE * max(a, b):
        raise InputError(
            source,
            f"the halves have voxel sizes {a:g} and {b:g} angstrom",
            "correct them, or state --voxel-size",
        )
    if same_values(even.data, odd.data):
        raise InputError(
            source,
            "halves are not independent: their data are identical",
            "give both half maps, or one as single",
        )


# -- tilts ---------------------------------------------------------------------------------------


def _wedges(
    files: Sequence[TomogramFiles],
    tilts: Sequence[PathLike],
    tilt_range: tuple[float, float] | None,
    axis: float,
    flip: bool,
    default: MissingWedge | None,
) -> list[MissingWedge]:
    if tilts and tilt_range is not None:
        raise InputError("--tilts", "given together with --tilt-range", "give the one or the other")
    if tilt_range is not None:
        lo, hi = (float(v) for v in tilt_range)
        check_tilt_range(lo, hi)
        return [MissingWedge((lo, hi), None, axis, flip)] * len(files)
    if not tilts:
        if default is None:
            raise InputError(
                "--tilts", "the tilt angles are not known", "give --tilts FILE or --tilt-range LO HI"
            )
        return [default] * len(files)
    available = expanded(tilts, "--tilts", TILT_SUFFIXES)
    return [
        MissingWedge.from_tilts(
            read_tilts(file_of(item, available, len(files), option="--tilts", kind="tilt file")),
            tilt_axis_deg=axis, flipped=flip,
        )
        for item in files
    ]


