"""`cryoaae extract`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryoaae.cli import options as o
from cryoaae.errors import InputError

if TYPE_CHECKING:
    from cryoaae.subtomograms.extract import ExtractResult, PickOptions


def command(
    output: Annotated[Path, typer.Option("-o", "--output", help="The store to make, STORE.h5.")],
    box: Annotated[int, typer.Option("--box", help="Edge of a subtomogram, voxels.")],
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(help="Tomograms (MRC files, a folder, a tomogram STAR), or the tomogram STAR of 2-D stacks."),
    ] = None,
    particles: Annotated[
        Path | None,
        typer.Option("--particles", help="STAR (RELION 3 to 5, Warp), optimisation set, Dynamo .tbl or CSV."),
    ] = None,
    pick: Annotated[
        bool, typer.Option("--pick", help="Propose blobs of one size in a restored tomogram instead of a list.")
    ] = False,
    diameter: Annotated[float | None, typer.Option("--diameter", help="Of the particles to pick, angstrom.")] = None,
    distance: Annotated[
        float | None, typer.Option("--distance", help="Least distance of picked particles, angstrom.")
    ] = None,
    count: Annotated[int | None, typer.Option("--count", help="Most particles to pick.", min=1)] = None,
    border: Annotated[
        str, typer.Option("--border", help="Boxes that reach out of the tomogram: skip, pad or refuse.")
    ] = "skip",
    density: Annotated[str, typer.Option("--density", help="Particles are bright or dark in the input.")] = "bright",
    coordinates: Annotated[
        str,
        typer.Option("--coordinates", help="auto, voxel, angstrom, or angstrom per pixel of the coordinates."),
    ] = "auto",
    tilts: o.Tilts = None,
    tilt_range: o.TiltRange = None,
    tilt_axis: o.TiltAxis = "y",
    flip_tilts: o.FlipTilts = False,
    voxel_size: o.VoxelSize = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted extraction.")] = False,
    threads: o.Threads = None,
    overwrite: o.Overwrite = False,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Cut subtomograms at the places of a particle list (or of proposals) into one store."""
    from cryoaae.runs.resources import set_threads
    from cryoaae.subtomograms.extract import extract

    set_threads(threads)
    with o.told(quiet=quiet, verbose=verbose) as progress:
        result = extract(
            inputs or (), output, box=box, particles=particles, pick=_pick_options(pick, diameter, distance, count),
            tilts=tilts, tilt_range=tilt_range, tilt_axis=tilt_axis, flip_tilts=flip_tilts, border=border,
            density=density, coordinates=_number_or_word(coordinates), voxel_size_angstrom=voxel_size, resume=resume,
            overwrite=overwrite, dry_run=dry_run, progress=progress,
        )  # fmt: skip
        if not dry_run:
            progress.message(("kept, made before from the same: " if result.skipped else "wrote ") + _said(result))
        if result.picks is not None:
            progress.message(f"wrote {result.picks}: blobs of that size, to be sorted")
    if dry_run:
        o.would(asdict(result), [f"would write {_said(result)}"], as_json=as_json)
    else:
        o.show(asdict(result), as_json=as_json)


def _said(result: ExtractResult) -> str:
    left = ", ".join(f"{count} {reason}" for reason, count in result.counts.items() if count)
    return (
        f"{result.path}: {result.particles} particles of {result.box}^3 voxels of {result.voxel_size_angstrom:g} A "
        f"from {result.kind}" + (f" ({left})" if left else "")
    )


def _pick_options(pick: bool, diameter: float | None, distance: float | None, count: int | None) -> PickOptions | None:
    from cryoaae.subtomograms.extract import PickOptions

    if not pick:
        if any(value is not None for value in (diameter, distance, count)):
            raise InputError("--diameter, --distance, --count", "are of --pick", "give --pick, or leave them out")
        return None
    if diameter is None:
        raise InputError("--pick", "needs the particles' diameter", "give --diameter ANGSTROM")
    return PickOptions(diameter, distance, count)


def _number_or_word(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
