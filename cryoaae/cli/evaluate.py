"""`cryoaae evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cryoaae.cli import options as o
from cryoaae.errors import InputError, ItemsFailedError


def command(
    restored: Annotated[Path, typer.Argument(callback=o.present, help="The restored tomogram (MRC).")],
    truth: Annotated[Path | None, typer.Option("--truth", help="The true density (MRC), if it is known.")] = None,
    even: Annotated[Path | None, typer.Option("--even", help="Raw even half.")] = None,
    odd: Annotated[Path | None, typer.Option("--odd", help="Raw odd half.")] = None,
    single: Annotated[Path | None, typer.Option("--single", help="The tomogram, where there are no halves.")] = None,
    particles: Annotated[
        Path | None,
        typer.Option("--particles", help="The truth's particles (STAR, .tbl or CSV): count lost and invented ones."),
    ] = None,
    tilts: Annotated[Path | None, typer.Option("--tilts", help=".tlt or .rawtlt file.")] = None,
    tilt_range: o.TiltRange = None,
    tilt_axis: o.TiltAxis = "y",
    flip_tilts: o.FlipTilts = False,
    baselines: Annotated[bool, typer.Option("--baselines/--no-baselines", help="Score every null beside it.")] = True,
    density: Annotated[str, typer.Option("--density", help="auto, bright or dark.")] = "auto",
    require_wedge: Annotated[
        bool, typer.Option("--require-wedge", help="Exit with 1 if the best null is better in the wedge.")
    ] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for report, figures and JSON.")] = None,
    voxel_size: o.VoxelSize = None,
    threads: o.Threads = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Judge a restoration against a truth and every null, or against the other raw half."""
    from cryoaae.reports.evaluation import plain_table
    from cryoaae.restoration.evaluate import evaluate
    from cryoaae.runs.resources import set_threads

    if require_wedge and (truth is None or not baselines):
        raise InputError("--require-wedge", "needs a truth and the baselines", "give --truth and --baselines")
    set_threads(threads)
    wedge = o.stated_wedge(tilts, tilt_range, tilt_axis, flip_tilts)
    if wedge is None:
        raise InputError("--tilts", "the tilt geometry is not given", "give --tilts FILE or --tilt-range LO HI")
    with o.told(quiet=quiet, verbose=verbose) as progress:
        result = evaluate(
            restored, wedge=wedge, truth=truth, even=even, odd=odd, single=single, particles=particles,
            baselines=baselines,
            density=density, voxel_size_angstrom=voxel_size, output=output, progress=progress,
        )  # fmt: skip
    if as_json:
        o.show(result, as_json=True)
    elif not quiet:
        if result.get("rows"):
            typer.echo(plain_table(result["rows"]))
        for sentence in result.get("sentences", []):
            typer.echo(sentence)
        if output is not None:
            typer.echo(f"report: {output / 'report.html'}")
    if require_wedge and not result.get("beats_best_null_in_wedge"):
        raise ItemsFailedError(f"{restored}: not above the best null in the wedge")
