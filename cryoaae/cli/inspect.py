"""`cryoaae inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cryoaae.cli import options as o


def command(
    path: Annotated[Path, typer.Argument(help="A tomogram, tilts, weights, a checkpoint or a run folder.")],
    tilts: Annotated[Path | None, typer.Option("--tilts", help="Tilts to compare with the data.")] = None,
    tilt_range: o.TiltRange = None,
    tilt_axis: o.TiltAxis = "y",
    flip_tilts: o.FlipTilts = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for the figure and JSON.")] = None,
    voxel_size: o.VoxelSize = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Show what a file holds; for a tomogram also the missing wedge that its spectrum shows."""
    from cryoaae.io.tilts import check_tilt_range, parse_tilt_axis, read_tilts
    from cryoaae.physics.wedge import MissingWedge
    from cryoaae.restoration.inspection import inspect

    axis = parse_tilt_axis(tilt_axis)
    stated = None
    if tilts is not None:
        stated = MissingWedge.from_tilts(read_tilts(tilts), tilt_axis_deg=axis, flipped=flip_tilts)
    elif tilt_range is not None:
        check_tilt_range(*tilt_range)
        stated = MissingWedge(tilt_range, tilt_axis_deg=axis, flipped=flip_tilts)
    result = inspect(path, stated=stated, voxel_size_angstrom=voxel_size, output=output)
    if as_json:
        o.show(result, as_json=True)
        return
    if not quiet:
        for sentence in result.get("sentences", []):
            typer.echo(sentence)
    for warning in result.get("warnings", []):
        typer.echo(f"warning: {warning}", err=True)
