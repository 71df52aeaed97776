"""Options that commands share, and the progress they show."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from cryoaae.errors import InputError
from cryoaae.runs.progress import ConsoleProgress
from cryoaae.runs.signals import stop_on_signals


def present(given: Path | list[Path] | None) -> Path | list[Path] | None:
    """Refuse a name that nothing has, before a command loads what it computes with, which takes seconds."""
    for path in given if isinstance(given, list) else [given]:
        if path is not None and not path.exists():
            raise InputError(path, "no such file or folder", "check the name")
    return given


def known_density(given: str | None) -> str | None:
    """Refuse an unknown word; None for what goes without saying."""
    if given in (None, "auto"):
        return None
    from cryoaae.volume import DENSITY_SIGN

    if given not in DENSITY_SIGN:
        raise InputError("--density", f"{given!r} is none of {', '.join(DENSITY_SIGN)}", "give one of them")
    return given


Inputs = Annotated[list[Path] | None, typer.Argument(help="MRC files, a folder of them, or a tomograms STAR file.")]
Even = Annotated[list[str] | None, typer.Option("--even", help="Even half: file, folder or quoted glob; repeatable.")]
Odd = Annotated[list[str] | None, typer.Option("--odd", help="Odd half, paired with --even by name; repeatable.")]
Tilts = Annotated[list[str] | None, typer.Option("--tilts", help=".tlt or .rawtlt file, folder or glob.")]
TiltRange = Annotated[
    tuple[float, float] | None, typer.Option("--tilt-range", help="Lowest and highest tilt, degrees.", metavar="LO HI")
]
TiltAxis = Annotated[str, typer.Option("--tilt-axis", help="y, x, or degrees from y towards x.")]
FlipTilts = Annotated[bool, typer.Option("--flip-tilts", help="The angles have the other sign.")]
VoxelSize = Annotated[float | None, typer.Option("--voxel-size", help="Voxel size in angstrom; overrules the file.")]
Lenient = Annotated[bool, typer.Option("--lenient", help="Accept extra bytes after the data.")]
FillNonfinite = Annotated[
    str | None, typer.Option("--fill-nonfinite", help="'median': fill NaN and Inf voxels with the median.")
]
Density = Annotated[
    str | None,
    typer.Option(
        "--density", metavar="auto|bright|dark", callback=known_density,
        help="Whether structures are bright or dark, where a general restorer has to know; auto: the data tell.",
    ),
]  # fmt: skip
Mask = Annotated[
    list[str] | None,
    typer.Option(
        "--mask", metavar="P|auto|none",
        help="Where fitting takes its patches from: a volume that is 1 where the specimen is (paired by name, "
        "repeatable); auto: where there is structure; none, the default: everywhere.",
    ),
]  # fmt: skip
Model = Annotated[
    Path | None,
    typer.Option(
        "--model", callback=present,
        help="Run folder of `cryoaae fit`, or its weights; default: the general restorer that comes along.",
    ),
]
Calibrate = Annotated[
    bool,
    typer.Option(
        "--calibrate/--no-calibrate", help="Bring the spread to the errors that two halves and hidden tilts show."
    ),
]
Symmetries = Annotated[
    bool, typer.Option("--symmetries/--no-symmetries", help="Average over half turns that keep the wedge.")
]
Defocus = Annotated[
    str | None,
    typer.Option(
        "--defocus", metavar="UM|STAR",
        help="Undo the contrast transfer: underfocus in micrometres, or the STAR file of the tilt series.",
    ),
]  # fmt: skip
Voltage = Annotated[float | None, typer.Option("--voltage", help="Of --defocus, kilovolts; by default 300.")]
Cs = Annotated[float | None, typer.Option("--cs", help="Of --defocus: spherical aberration, mm; by default 2.7.")]
AmplitudeContrast = Annotated[
    float | None, typer.Option("--amplitude-contrast", help="Of --defocus, a share; by default 0.1.")
]
PhaseFlipped = Annotated[
    str | None,
    typer.Option(
        "--phase-flipped", metavar="yes|no",
        help="Of --defocus: whether the CTF's signs were corrected in the tomogram; by default yes.",
    ),
]  # fmt: skip
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:0.")]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        help="Of the network's layers: float32, or bfloat16, which some processors are faster at; auto, the default: "
        "float32, and for --adapt what is faster.",
    ),
]
Threads = Annotated[int | None, typer.Option("--threads", help="CPU threads.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing output.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be done, do nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but errors.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Say more.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of every random draw.", min=0)]


def fill(value: str | None) -> bool:
    """Whether to fill non-finite voxels."""
    if value not in (None, "median"):
        raise InputError("--fill-nonfinite", f"'{value}' is not known", "give 'median'")
    return value == "median"


def masks(given: list[str] | None) -> tuple[str | None, list[str]]:
    """The word (``auto``, ``none``) and the files that --mask was given."""
    words = [entry for entry in given or () if entry in ("auto", "none")]
    if words and len(given or ()) > 1:
        raise InputError("--mask", f"{words[0]} beside others", "give the one or the other")
    return (words[0], []) if words else (None, list(given or ()))


def opening(
    voxel_size: float | None, *, lenient: bool, fill_nonfinite: str | None, density: str | None = None
) -> dict[str, Any]:
    """Keywords of `io.project.open_tomogram`, from the options of that name."""
    said = {} if density is None else {"density": density}
    return {"voxel_size_angstrom": voxel_size, "lenient": lenient, "fill_nonfinite": fill(fill_nonfinite), **said}


def contrast_transfer(
    defocus: str | None, voltage: float | None, cs: float | None, amplitude_contrast: float | None, flipped: str | None
) -> Any:
    """What is to be undone (`restoration.contrast.Transfers`), from these options; None without --defocus."""
    optics = {"--voltage": voltage, "--cs": cs, "--amplitude-contrast": amplitude_contrast}
    given = [name for name, value in optics.items() if value is not None]
    if flipped not in (None, "yes", "no"):
        raise InputError("--phase-flipped", f"'{flipped}' is not known", "give yes or no")
    if defocus is None:
        if given or flipped:
            raise InputError((given or ["--phase-flipped"])[0], "given without --defocus", "give --defocus too")
        return None
    from cryoaae.physics.ctf import ContrastTransfer
    from cryoaae.restoration.contrast import read_transfers

    try:
        defocus_um = float(defocus)
    except ValueError:
        if given:
            raise InputError(given[0], "given with a STAR file, which states it", "leave it out") from None
        return read_transfers(Path(defocus), phase_flipped=flipped != "no")
    names = {"voltage_kv": voltage, "cs_mm": cs, "amplitude_contrast": amplitude_contrast}
    stated = {name: value for name, value in names.items() if value is not None}
    return ContrastTransfer((defocus_um,), phase_flipped=flipped != "no", **stated)


@contextmanager
def told(*, quiet: bool, verbose: bool = False) -> Iterator[ConsoleProgress]:
    """Progress on the console that the first Ctrl-C or SIGTERM stops safely."""
    log = logging.getLogger("cryoaae")
    before = log.level  # a program that runs several commands keeps its own
    log.setLevel(logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING)
    progress = ConsoleProgress(quiet=quiet)
    with stop_on_signals(progress.cancel):
        try:
            yield progress
        finally:
            progress.finish()
            log.setLevel(before)


def stated_wedge(tilts: Path | None, tilt_range: tuple[float, float] | None, axis: str, flip: bool) -> Any:
    """Wedge of one tomogram as the user states it (a `MissingWedge`), or None."""
    from cryoaae.io.tilts import check_tilt_range, parse_tilt_axis, read_tilts
    from cryoaae.physics.wedge import MissingWedge

    axis_deg = parse_tilt_axis(axis)
    if tilts is not None and tilt_range is not None:
        raise InputError("--tilts", "given together with --tilt-range", "give the one or the other")
    if tilts is not None:
        return MissingWedge.from_tilts(read_tilts(tilts), tilt_axis_deg=axis_deg, flipped=flip)
    if tilt_range is not None:
        check_tilt_range(*tilt_range)
        return MissingWedge(tilt_range, tilt_axis_deg=axis_deg, flipped=flip)
    return None


def would(plan: dict[str, Any], lines: Iterable[str], *, as_json: bool) -> None:
    """Say what a dry run found: lines for people, one object for programs."""
    if as_json:
        show(plan, as_json=True)
    else:
        for line in lines:
            typer.echo(line)


def show(result: Any, *, as_json: bool) -> None:
    """Print a result: JSON for programs, nothing else to say for people."""
    if as_json:
        typer.echo(json.dumps(result, indent=2, default=str))
