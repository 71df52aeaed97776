"""Which files belong together: the one resolver of inputs for every command and the public functions."""

from __future__ import annotations

import difflib
import glob
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryoaae.errors import InputError
from cryoaae.io.mrc import open_volume
from cryoaae.io.mrc_values import same_values
from cryoaae.io.names import MAP_SUFFIXES, PACKED_SUFFIXES, file_beside, match_name, side_of
from cryoaae.io.tilts import TILT_SUFFIXES, check_tilt_range, parse_tilt_axis, read_tilts
from cryoaae.physics.wedge import MissingWedge
from cryoaae.volume import Volume

log = logging.getLogger("cryoaae")

PathLike = str | Path
VOXEL_TOLERANCE = 1e-3


@dataclass(frozen=True)
class TomogramInput:
    """The files of one tomogram: two halves, or a single volume, and its missing wedge."""

    name: str
    even: Path | None
    odd: Path | None
    single: Path | None
    wedge: MissingWedge

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.even, self.odd, self.single) if path is not None)

    @property
    def has_halves(self) -> bool:
        return self.even is not None and self.odd is not None


@dataclass(frozen=True)
class Tomogram:
    """The opened volumes of one tomogram; halves have the same shape and voxel size."""

    name: str
    even: Volume | None
    odd: Volume | None
    single: Volume | None
    wedge: MissingWedge

    @property
    def volumes(self) -> tuple[Volume, ...]:
        return tuple(volume for volume in (self.even, self.odd, self.single) if volume is not None)


@dataclass(frozen=True)
class _Files:
    """What is known of a tomogram before its tilts are."""

    name: str
    even: Path | None = None
    odd: Path | None = None
    single: Path | None = None

    @property
    def folders(self) -> set[Path]:
        return {path.parent for path in (self.even, self.odd, self.single) if path is not None}


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

    Raises
    ------
    InputError
        For names without a partner (with the nearest one), mixed or missing inputs.
    """
    inputs, even, odd = _listed(inputs), _listed(even), _listed(odd)
    if (even or odd) and inputs:
        raise InputError("inputs", "single volumes and --even/--odd together", "give the one or the other")
    if bool(even) != bool(odd):
        given, missing = ("--even", "--odd") if even else ("--odd", "--even")
        raise InputError(
            given, f"given without {missing}", f"give {missing} too, or the volumes as single ones"
        )
    if not (even or inputs):
        raise InputError("inputs", "no tomogram given", "give MRC files, a folder, or --even and --odd")
    files = _paired(_expand(even, "--even"), _expand(odd, "--odd")) if even else _singles(inputs)
    axis = parse_tilt_axis(tilt_axis)
    wedges = _wedges(files, _listed(tilts), tilt_range, axis, flip_tilts, default_wedge)
    return [
        TomogramInput(item.name, item.even, item.odd, item.single, wedge)
        for item, wedge in zip(files, wedges, strict=True)
    ]


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
        When shapes or voxel sizes differ, or the halves are the same data.
    """

    def opened(path: Path | None) -> Volume | None:
        if path is None:
            return None
        return open_volume(
            path, voxel_size_angstrom=voxel_size_angstrom, lenient=lenient, fill_nonfinite=fill_nonfinite,
            density=density,
        )  # fmt: skip

    if item.even is not None and item.odd is not None:
        _refuse_same_file(item.even, item.odd)
    tomogram = Tomogram(item.name, opened(item.even), opened(item.odd), opened(item.single), item.wedge)
    if tomogram.even is not None and tomogram.odd is not None:
        _check_halves(tomogram.even, tomogram.odd)
    return tomogram


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


def _refuse_same_file(even: Path, odd: Path) -> None:
    if even.exists() and odd.exists() and even.samefile(odd):
        raise InputError(
            f"{even} and {odd}", "halves are not independent: they are the same file",
            "give both half maps, or one as single",
        )  # fmt: skip


def _by_name(paths: Sequence[Path], option: str) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for path in paths:
        name = match_name(path)
        if name in named:
            raise InputError(option, f"{named[name]} and {path} both are {name!r}", "give each tomogram once")
        named[name] = path
    return named


def _listed(paths: Iterable[PathLike] | PathLike | None) -> list[PathLike]:
    if paths is None:
        return []
    return [paths] if isinstance(paths, str | Path) else list(paths)


def _expand(given: Sequence[PathLike], option: str, suffixes: tuple[str, ...] = MAP_SUFFIXES) -> list[Path]:
    """Files that paths, folders and globs stand for, each once."""
    found: dict[Path, None] = {}
    for entry in given:
        path = Path(entry)
        if path.is_dir():
            here = sorted(
                child for child in path.iterdir() if _has_suffix(child, suffixes) and child.is_file()
            )
        elif path.exists() or not glob.has_magic(str(entry)):
            here = [path]  # what is wrong with a missing file, its reader says
        else:
            here = sorted(Path(match) for match in glob.glob(str(entry), recursive=True))  # noqa: PTH207
        if not here:
            raise InputError(entry, f"holds or matches no file for {option}", f"need {', '.join(suffixes)}")
        if not path.exists() and here == [path] and not os.path.lexists(path):
            raise InputError(path, f"no such file ({option})", _nearest_file(path))
        found.update(dict.fromkeys(here))
    return list(found)


def _has_suffix(path: Path, suffixes: tuple[str, ...]) -> bool:
    name = path.name.lower()
    for packed in PACKED_SUFFIXES:
        name = name.removesuffix(packed)
    return name.endswith(suffixes) and not name.startswith(".")


def _nearest_file(path: Path) -> str:
    names = [child.name for child in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean {near[0]}?" if near else "check the name"


# -- halves and singles --------------------------------------------------------------------------


def _paired(even: Sequence[Path], odd: Sequence[Path]) -> list[_Files]:
    evens, odds = _by_name(even, "--even"), _by_name(odd, "--odd")
    for mine, others, side, other in ((evens, odds, "even", "odd"), (odds, evens, "odd", "even")):
        for name, path in mine.items():
            if name not in others:
                near = difflib.get_close_matches(name, others, n=1, cutoff=0.0)
                hint = (
                    f"the nearest {other} is {others[near[0]]} ({near[0]!r})"
                    if near
                    else f"give its {other} half"
                )
                raise InputError(path, f"no {other} half is named {name!r}", f"{hint}; rename one of them")
            if side_of(path) == other:
                raise InputError(path, f"given as {side}, but its name says {other}", "swap --even and --odd")
    for name in evens:
        _refuse_same_file(evens[name], odds[name])
    return [_Files(name, evens[name], odds[name]) for name in evens]


def _singles(inputs: Sequence[PathLike]) -> list[_Files]:
    files: list[_Files] = []
    plain = [entry for entry in inputs if Path(entry).suffix.lower() != ".star"]
    for entry in inputs:
        if entry not in plain:
            files += _from_star(Path(entry))
    sides: dict[str, Path] = {}
    names: dict[str, Path] = {}
    for path in _expand(plain, "inputs") if plain else []:
        name = match_name(path)
        if name in names:
            if side_of(path) and side_of(names[name]) and side_of(path) != side_of(names[name]):
                raise InputError(
                    path, f"is a half of the same tomogram as {names[name]}", "give --even and --odd"
                )
            # Same name twice but no halves (other folder or suffix): keep them apart by the whole name.
            name = f"{path.absolute().parent.name}_{path.name}"
        if name in sides or name in names:
            raise InputError(path, f"and {names[name]} both are {name!r}", "give each tomogram once")
        names[name] = path
        files.append(_Files(name, single=path))
    return files


def _from_star(path: Path) -> list[_Files]:
    """Rows of a RELION tomograms STAR: half 1 is even, half 2 is odd."""
    import starfile

    if not path.is_file():
        raise InputError(path, "no such file", _nearest_file(path))
    try:
        tables = starfile.read(path, always_dict=True)
        table = next(t for t in tables.values() if "rlnTomoName" in getattr(t, "columns", t))
        rows = [table] if isinstance(table, dict) else table.to_dict("records")
    except StopIteration as error:
        raise InputError(
            path, "has no table with rlnTomoName", "give a tomograms STAR of RELION 5"
        ) from error
    except Exception as error:
        raise InputError(
            path, f"not a STAR file ({type(error).__name__})", "give a tomograms STAR"
        ) from error
    files = []
    for row in rows:
        name = str(row["rlnTomoName"])
        half1, half2, whole = (
            file_beside(path, row.get(f"rlnTomoReconstructedTomogram{which}")) for which in ("Half1", "Half2", "")
        )
        if half1 and half2:
            _refuse_same_file(half1, half2)
            files.append(_Files(name, half1, half2))
        elif whole:
            files.append(_Files(name, single=whole))
        else:
            raise InputError(
                path, f"{name} has neither rlnTomoReconstructedTomogramHalf1 and Half2 nor "
                "rlnTomoReconstructedTomogram", "reconstruct with half maps",
            )  # fmt: skip
    if not files:
        raise InputError(path, "lists no tomogram", "give a tomograms STAR with rows")
    return files


# -- tilts ---------------------------------------------------------------------------------------


def _wedges(
    files: Sequence[_Files],
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
    available = _expand(tilts, "--tilts", TILT_SUFFIXES)
    return [
        MissingWedge.from_tilts(
            read_tilts(_tilt_file(item, available, len(files))), tilt_axis_deg=axis, flipped=flip
        )
        for item in files
    ]


def _tilt_file(item: _Files, available: Sequence[Path], tomograms: int) -> Path:
    """The tilt file with the tomogram's name, or the only one beside it, or the only one at all."""
    named = [path for path in available if match_name(path) == item.name]
    if not named and tomograms == 1 and len(available) == 1:
        return available[0]
    beside = [path for path in available if path.absolute().parent in {f.absolute() for f in item.folders}]
    if not named and len({match_name(path) for path in beside}) == 1 and tomograms == 1:
        named = beside
    if len(named) > 1:  # aligned angles say more than nominal ones
        named = [path for path in named if path.suffix.lower() == ".tlt"] or named
    if len(named) != 1:
        near = difflib.get_close_matches(item.name, [match_name(p) for p in available], n=1, cutoff=0.0)
        problem = "several tilt files have" if named else "no tilt file has"
        raise InputError(
            "--tilts", f"{problem} the name {item.name!r}", f"the nearest is {near[0]!r}; rename it"
        )
    return named[0]
