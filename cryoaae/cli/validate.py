"""`cryoaae validate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cryoaae.cli import options as o


def command(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for report.html and report.json.")],
    model: o.Model = None,
    inputs: o.Inputs = None,
    even: o.Even = None,
    odd: o.Odd = None,
    tilts: o.Tilts = None,
    tilt_range: o.TiltRange = None,
    tilt_axis: o.TiltAxis = "y",
    flip_tilts: o.FlipTilts = False,
    voxel_size: o.VoxelSize = None,
    density: o.Density = None,
    hold_out_deg: Annotated[
        float, typer.Option("--hold-out-deg", help="Width of the narrowest sector of tilts that is hidden, degrees.")
    ] = 15.0,
    seed: o.Seed = 0,
    allow_scale: Annotated[bool, typer.Option("--allow-scale", help="Accept another voxel size.")] = False,
    lenient: o.Lenient = False,
    fill_nonfinite: o.FillNonfinite = None,
    device: o.Device = "auto",
    threads: o.Threads = None,
    overwrite: o.Overwrite = False,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Check on your own data what of a restoration can be trusted: hidden tilts, null tests, tilt geometry."""
    from cryoaae.restoration.validate import ValidateOptions, plan_validation, validate

    chosen = ValidateOptions(hold_out_deg=hold_out_deg, seed=seed, device=device, allow_scale=allow_scale)
    opening = o.opening(voxel_size, lenient=lenient, fill_nonfinite=fill_nonfinite, density=density)
    if dry_run:
        lines = plan_validation(
            inputs or (), output, model=model, even=even or (), odd=odd or (), tilts=tilts, tilt_range=tilt_range,
            tilt_axis=tilt_axis, flip_tilts=flip_tilts, threads=threads, overwrite=overwrite, options=chosen,
            opening=opening,
        )  # fmt: skip
        o.would({"validate": lines}, lines, as_json=as_json)
        return
    with o.told(quiet=quiet, verbose=verbose) as progress:
        results = validate(
            inputs or (), output, model=model, even=even or (), odd=odd or (), tilts=tilts, tilt_range=tilt_range,
            tilt_axis=tilt_axis, flip_tilts=flip_tilts, threads=threads, overwrite=overwrite, progress=progress,
            options=chosen, opening=opening,
        )  # fmt: skip
        for result in results:
            progress.message(f"{result['name']}: {result['verdict']}")
            for reason in result["reasons"]:
                progress.message(f"  {reason['check']} ({reason['level']}): {reason['sentence']}")
        progress.message(f"wrote {output}")
    o.show(results, as_json=as_json)
