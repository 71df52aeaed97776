"""`cryoaae energy`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cryoaae.cli import options as o


def command(
    restored: Annotated[Path, typer.Argument(callback=o.present, help="The restored tomogram (MRC).")],
    model: Annotated[
        Path,
        typer.Option(
            "--model", callback=o.present, help="Run folder of `cryoaae fit` with --prior, or with codes (volumetric)."
        ),
    ],
    even: Annotated[Path, typer.Option("--even", help="Raw even half.")],
    odd: Annotated[Path, typer.Option("--odd", help="Raw odd half.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The map (MRC).")],
    tilts: Annotated[Path | None, typer.Option("--tilts", help=".tlt or .rawtlt file; default: the model's.")] = None,
    tilt_range: o.TiltRange = None,
    tilt_axis: o.TiltAxis = "y",
    flip_tilts: o.FlipTilts = False,
    turns: Annotated[int, typer.Option("--turns", help="Turns at each place, to average over.")] = 8,
    step: Annotated[
        int | None, typer.Option("--step", help="Working voxels between places; default: a third of a patch.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option("--by", help="prior, code or reference; default: the run's prior on structure, if it has one."),
    ] = None,
    descend: Annotated[
        Path | None,
        typer.Option(
            "--descend", metavar="MRC", help="Also move it to where data and prior are met best (a MAP), and write it."
        ),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", help="Of the descent, at most.")] = 30,
    weight: Annotated[float, typer.Option("--weight", help="Of the prior in the descent; 0 is a Wiener filter.")] = 1.0,
    seed: o.Seed = 0,
    voxel_size: o.VoxelSize = None,
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
    """Map where a restoration looks unlike anything measured, by the prior or the codes of its model."""
    from cryoaae.restoration.energy import EnergyOptions, energy, plan_energy
    from cryoaae.restoration.energy_descent import told_of

    chosen = EnergyOptions(
        turns=turns, step=step, seed=seed, device=device, allow_scale=allow_scale, by=by, descend=descend, steps=steps,
        weight=weight,
    )
    opening = o.opening(voxel_size, lenient=lenient, fill_nonfinite=fill_nonfinite)
    if dry_run:
        lines = plan_energy(
            restored, output, model=model, even=even, odd=odd, tilts=tilts, tilt_range=tilt_range, tilt_axis=tilt_axis,
            flip_tilts=flip_tilts, overwrite=overwrite, options=chosen, opening=opening,
        )  # fmt: skip
        o.would({"energy": lines}, lines, as_json=as_json)
        return
    with o.told(quiet=quiet, verbose=verbose) as progress:
        result = energy(
            restored, output, model=model, even=even, odd=odd, tilts=tilts, tilt_range=tilt_range,
            tilt_axis=tilt_axis, flip_tilts=flip_tilts, threads=threads, overwrite=overwrite, progress=progress,
            options=chosen, opening=opening,
        )  # fmt: skip
        progress.message(
            f"energy above that of real patches: mean {result['mean']:.3g}, highest {result['highest']:.3g}; a real "
            f"patch scatters by {result['real_sd']:.3g}; {result['unusual']:.0%} of patches lie above all but 1 % of "
            "real ones"
        )
        progress.message(f"wrote {output}")
        if "descent" in result:
            progress.message(told_of(result["descent"]))
            progress.message(f"wrote {descend}: not the mean, nor a draw")
    o.show(result, as_json=as_json)
