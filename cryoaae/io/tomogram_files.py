"""Files of tomograms as users name them: files, folders, globs and STAR files, paired by their names."""

from __future__ import annotations

import difflib
import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryoaae.errors import InputError
from cryoaae.io.names import MAP_SUFFIXES, PACKED_SUFFIXES, file_beside, match_name, side_of

PathLike = str | Path


@dataclass(frozen=True)
class TomogramFiles:
    """What is known of a tomogram before its tilts are."""

    name: str
    even: Path | None = None
    odd: Path | None = None
    single: Path | None = None

    @property
    def folders(self) -> set[Path]:
        return {path.parent for path in (self.even, self.odd, self.single) if path is not None}


def listed(paths: Iterable[PathLike] | PathLike | None) -> list[PathLike]:
    """A list of what may be one path, several or none."""
    if paths is None:
        return []
    return [paths] if isinstance(paths, str | Path) else list(paths)


def expanded(given: Sequence[PathLike], option: str, suffixes: tuple[str, ...] = MAP_SUFFIXES) -> list[Path]:
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


def _by_name(paths: Sequence[Path], option: str) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for path in paths:
        name = match_name(path)
        if name in named:
            raise InputError(option, f"{named[name]} and {path} both are {name!r}", "give each tomogram once")
        named[name] = path
    return named


def refuse_same_file(even: Path, odd: Path) -> None:
    """Refuse one file under two names."""
    if even.exists() and odd.exists() and even.samefile(odd):
        raise InputError(
            f"{even} and {odd}", "halves are not independent: they are the same file",
            "give both half maps, or one as single",
        )  # fmt: skip


def paired(even: Sequence[Path], odd: Sequence[Path]) -> list[TomogramFiles]:
    """Halves paired by their names; a left-over one is refused with its nearest match."""
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
        refuse_same_file(evens[name], odds[name])
    return [TomogramFiles(name, evens[name], odds[name]) for name in evens]


def singles(inputs: Sequence[PathLike]) -> list[TomogramFiles]:
    """Single volumes, and what tomograms STAR files among the inputs list."""
    files: list[TomogramFiles] = []
    plain = [entry for entry in inputs if Path(entry).suffix.lower() != ".star"]
    for entry in inputs:
        if entry not in plain:
            files += _from_star(Path(entry))
    sides: dict[str, Path] = {}
    names: dict[str, Path] = {}
    for path in expanded(plain, "inputs") if plain else []:
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
        files.append(TomogramFiles(name, single=path))
    return files


def _from_star(path: Path) -> list[TomogramFiles]:
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
            refuse_same_file(half1, half2)
            files.append(TomogramFiles(name, half1, half2))
        elif whole:
            files.append(TomogramFiles(name, single=whole))
        else:
            raise InputError(
                path, f"{name} has neither rlnTomoReconstructedTomogramHalf1 and Half2 nor "
                "rlnTomoReconstructedTomogram", "reconstruct with half maps",
            )  # fmt: skip
    if not files:
        raise InputError(path, "lists no tomogram", "give a tomograms STAR with rows")
    return files


# -- what belongs to a tomogram: tilts, masks ---------------------------------------------------------


def file_of(item: TomogramFiles, available: Sequence[Path], tomograms: int, *, option: str, kind: str) -> Path:
    """The file with the tomogram's name, or the only one beside it, or the only one at all.

    Parameters
    ----------
    available : sequence of Path
        What was given for `option`; a `kind` of file, in words.
    tomograms : int
        How many there are: a lone file belongs to a lone tomogram.
    """
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
        problem = f"several {kind}s have" if named else f"no {kind} has"
        raise InputError(option, f"{problem} the name {item.name!r}", f"the nearest is {near[0]!r}; rename it")
    return named[0]
