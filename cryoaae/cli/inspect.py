"""`cryoaae inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cryoaae.cli import options as o


def command(
    path: Annotated[
        Path,
        typer.Argument(
            callback=o.present, help="A tomogram, tilts, weights, a checkpoint, a store or a run folder."
        ),
    ],
    tilts: Annotated[Path | None, typer.Option("--tilts", help="Tilts to compare with the data.")] = None,
    tilt_range: o.TiltRange = None,
    tilt_axis: o.TiltAxis = "y",
    flip_tilts: o.FlipTilts = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for the figure and JSON.")] = None,
    voxel_size: o.VoxelSize = None,
    threads: o.Threads = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Show what a file holds; for a tomogram also the missing wedge that its spectrum shows."""
    from cryoaae.restoration.inspection import inspect
    from cryoaae.runs.resources import set_threads

    set_threads(threads)
    stated = o.stated_wedge(tilts, tilt_range, tilt_axis, flip_tilts)
    with o.told(quiet=quiet, verbose=verbose):
        result = inspect(path, stated=stated, voxel_size_angstrom=voxel_size, output=output)
    if as_json:
        o.show(result, as_json=True)
        return
    if not quiet:
        for sentence in result.get("sentences", []):
            typer.echo(sentence)
    for warning in result.get("warnings", []):
        typer.echo(f"warning: {warning}", err=True)
