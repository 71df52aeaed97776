"""`cryoaae sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cryoaae.cli import options as o
from cryoaae.errors import InputError


def command(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for mean, std, draws, modes and report.")],
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
    draws: Annotated[int, typer.Option("--draws", help="How many; more later go on from those that stand.")] = 16,
    sampler: Annotated[str, typer.Option("--sampler", help="learned, bootstrap, importance or langevin.")] = "learned",
    modes: Annotated[
        int | None, typer.Option("--modes", help="Principal modes to write; by default 4, if there are as many draws.")
    ] = None,
    keep_draws: Annotated[
        bool, typer.Option("--keep-draws/--no-draws", help="Write the draws on the tomogram's own grid.")
    ] = True,
    turns: Annotated[
        str, typer.Option("--turns", help="Of the bootstrap: any; quarter, faster; tilt-axis for what lies in one way.")
    ] = "any",
    gamma: Annotated[
        float, typer.Option("--gamma", help="Of importance and langevin: temperature; only 1 is calibrated.")
    ] = 1.0,
    temper: Annotated[
        str, typer.Option("--temper", help="What the temperature of langevin divides: data, or posterior.")
    ] = "data",
    region: Annotated[
        int, typer.Option("--region", help="Edge in working voxels of the box of importance and langevin.")
    ] = 48,
    at: Annotated[
        str | None, typer.Option("--at", help="Voxel z,y,x in the middle of that box; default: the tomogram's.")
    ] = None,
    structure: Annotated[
        Path | None, typer.Option("--structure", help="Of langevin: run of a fit with `reference_steps` to walk by.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", help="Of learned: those of a `fit --posterior`; default: the model's own; or `general`."
        ),
    ] = None,
    defocus: o.Defocus = None,
    voltage: o.Voltage = None,
    cs: o.Cs = None,
    amplitude_contrast: o.AmplitudeContrast = None,
    phase_flipped: o.PhaseFlipped = None,
    calibrate: o.Calibrate = True,
    symmetries: o.Symmetries = True,  # as for restore, whose output the mean is
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
    """Draw what a tomogram may look like: mean, spread, draws and modes; stopped, the same command goes on."""
    from cryoaae.restoration.calibrated_draws import said_of
    from cryoaae.restoration.posterior import plan_sampling, sample
    from cryoaae.restoration.sampler_weights import said_of_weights
    from cryoaae.restoration.tomogram_draws import SampleOptions

    chosen = SampleOptions(
        draws=draws, sampler=sampler, modes=modes, keep_draws=keep_draws, seed=seed, turns=turns,
        calibrate=calibrate, gamma=gamma, temper=temper, region=region, at=_voxel(at), structure=structure,
        weights=weights, symmetries=symmetries, device=device, allow_scale=allow_scale,
        contrast_transfer=o.contrast_transfer(defocus, voltage, cs, amplitude_contrast, phase_flipped),
    )  # fmt: skip
    opening = o.opening(voxel_size, lenient=lenient, fill_nonfinite=fill_nonfinite, density=density)
    if dry_run:
        lines = plan_sampling(
            inputs or (), output, model=model, even=even or (), odd=odd or (), tilts=tilts, tilt_range=tilt_range,
            tilt_axis=tilt_axis, flip_tilts=flip_tilts, threads=threads, overwrite=overwrite, options=chosen,
            opening=opening,
        )  # fmt: skip
        o.would({"sample": lines}, lines, as_json=as_json)
        return
    with o.told(quiet=quiet, verbose=verbose) as progress:
        results = sample(
            inputs or (), output, model=model, even=even or (), odd=odd or (), tilts=tilts, tilt_range=tilt_range,
            tilt_axis=tilt_axis, flip_tilts=flip_tilts, threads=threads, overwrite=overwrite, progress=progress,
            options=chosen, opening=opening,
        )  # fmt: skip
        for result in results:
            if result["sampling"] is not None:
                progress.message(f"{result['name']}: {result['sampling']['message']}")
            progress.message(
                f"{result['name']}: {result['draws']} draws by the {result['sampler']} sampler"
                f"{said_of_weights(result['weights'])}, spread {result['spread_rms']:.3g} in the tomogram's "
                f"units, {said_of(result['calibration'])}"
            )
        progress.message(f"wrote {output}")
    o.show(results, as_json=as_json)


def _voxel(text: str | None) -> tuple[int, int, int] | None:
    """Voxel z,y,x of an option.

    Raises
    ------
    InputError
    """
    if text is None:
        return None
    try:
        z, y, x = (int(number) for number in text.split(","))
    except ValueError:
        raise InputError("--at", f"'{text}' is no voxel", "give three whole numbers, z,y,x") from None
    return z, y, x
