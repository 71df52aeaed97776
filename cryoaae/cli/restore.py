"""`cryoaae restore`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from cryoaae.cli import options as o
from cryoaae.errors import InputError


def command(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="An MRC file for one tomogram, a folder, or STORE.h5 for a store.")
    ],
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
    adapt: Annotated[
        float | None,
        typer.Option("--adapt", help="First fit the general restorer further on these, so many minutes.", min=0.01),
    ] = None,
    mask: o.Mask = None,
    halves: Annotated[bool, typer.Option("--halves", help="Also write the two restored halves.")] = False,
    keep_measured: Annotated[
        bool, typer.Option("--keep-measured", help="Put the measured Fourier coefficients back as they were.")
    ] = False,
    defocus: o.Defocus = None,
    voltage: o.Voltage = None,
    cs: o.Cs = None,
    amplitude_contrast: o.AmplitudeContrast = None,
    phase_flipped: o.PhaseFlipped = None,
    symmetries: o.Symmetries = True,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Also write X_std.mrc: where the restoration is less certain.")
    ] = False,
    draws: Annotated[
        int | None, typer.Option("--draws", help="Draws that the spread is made from, by default 16.")
    ] = None,
    calibrate: o.Calibrate = True,
    report: Annotated[
        bool, typer.Option("--report", help="Also write X.html: input, restoration, what was measured, what filled in.")
    ] = False,
    seed: o.Seed = 0,
    dtype: Annotated[str, typer.Option("--dtype", help="float32 or float16.")] = "float32",
    allow_scale: Annotated[bool, typer.Option("--allow-scale", help="Accept another voxel size.")] = False,
    lenient: o.Lenient = False,
    fill_nonfinite: o.FillNonfinite = None,
    precision: o.Precision = "auto",
    device: o.Device = "auto",
    threads: o.Threads = None,
    overwrite: o.Overwrite = False,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Restore tomograms with the restorer that comes along, adapted or not, or with one that was fitted.

    The tilts come from the model if it was fitted on these tomograms. A store of subtomograms (STORE.h5 of `extract`)
    becomes a store of restored ones; it knows its tilts.
    """
    from cryoaae.io.names import STORE_SUFFIXES

    fitting_precision, precision = precision, "float32" if precision == "auto" else precision
    stores = [path for path in inputs or () if path.suffix.lower() in STORE_SUFFIXES]
    if stores:
        unused = {
            "--even": even, "--odd": odd, "--tilts": tilts, "--tilt-range": tilt_range, "--flip-tilts": flip_tilts,
            "--voxel-size": voxel_size, "--density": density, "--mask": mask, "--adapt": adapt, "--halves": halves,
            "--defocus": defocus, "--uncertainty": uncertainty, "--report": report, "--lenient": lenient,
            "--fill-nonfinite": fill_nonfinite,
        }  # fmt: skip
        given = [name for name, value in unused.items() if value]
        if given or dtype != "float32":
            raise InputError((given or ["--dtype"])[0], "is for tomograms, not for a store", "leave it out")
        if len(inputs or ()) > 1:
            raise InputError(stores[0], "a store is restored by itself", "give one store and nothing else")
        _restore_store(
            stores[0], output, {"model": model, "threads": threads, "overwrite": overwrite, "symmetries": symmetries,
            "keep_measured": keep_measured, "allow_scale": allow_scale, "precision": precision, "device": device},
            dry_run=dry_run, as_json=as_json, quiet=quiet, verbose=verbose,
        )  # fmt: skip
        return
    if mask is not None and adapt is None:
        raise InputError("--mask", "says where fitting takes its patches from, and nothing is fitted", "give --adapt")
    mask_word, mask_files = o.masks(mask)
    if adapt is not None and model is not None:
        raise InputError("--adapt", "is for the general restorer", "leave --model out, or fit with --init MODEL")
    if draws is not None and not uncertainty:
        raise InputError("--draws", "given without --uncertainty", "give --uncertainty too")
    if not calibrate and not uncertainty:
        raise InputError("--no-calibrate", "given without --uncertainty", "give --uncertainty too")
    spread_draws = (16 if draws is None else draws) if uncertainty else 0
    opening = o.opening(voxel_size, lenient=lenient, fill_nonfinite=fill_nonfinite, density=density)
    transfers = o.contrast_transfer(defocus, voltage, cs, amplitude_contrast, phase_flipped)
    items: list[Any] = list(inputs or ())
    run = None
    if adapt is not None:
        from cryoaae.io.project import resolve_inputs
        from cryoaae.restoration.adapt import adapted_path

        run = adapted_path(output)
        items = list(resolve_inputs(
            inputs or (), even=even or (), odd=odd or (), tilts=tilts or None, tilt_range=tilt_range,
            tilt_axis=tilt_axis, flip_tilts=flip_tilts, mask=mask_files,
        ))  # fmt: skip
    if dry_run:
        from cryoaae.restoration.engine import RestoreOptions
        from cryoaae.restoration.restore import plan_restore

        lines = plan_restore(
            items, output, model=model, even=even or (), odd=odd or (), tilts=tilts, tilt_range=tilt_range,
            tilt_axis=tilt_axis, flip_tilts=flip_tilts, threads=threads, overwrite=overwrite, dtype=dtype,
            uncertainty=spread_draws, calibrate=calibrate, seed=seed, report=report, opening=opening,
            options=RestoreOptions(
                halves=halves, keep_measured=keep_measured, symmetries=symmetries, allow_scale=allow_scale,
                precision=precision, device=device, contrast_transfer=transfers,
            ),
        )  # fmt: skip
        if run is not None:
            lines.insert(0, f"the general restorer would first be fitted further for {adapt:g} minutes -> {run}")
        o.would({"restore": lines}, lines, as_json=as_json)
        return
    from cryoaae.restoration.restore import restore

    with o.told(quiet=quiet, verbose=verbose) as progress:
        if run is not None and adapt is not None:
            from cryoaae.restoration.adapt import adapt as fit_further

            model = fit_further(
                items, run, minutes=adapt, precision=fitting_precision, mask=mask_word or "none", seed=seed,
                contrast_transfer=transfers, overwrite=overwrite, device=device, threads=threads, progress=progress,
                **opening,
            )  # fmt: skip
        results = restore(
            items, output, model=model, even=even or (), odd=odd or (), tilts=tilts, tilt_range=tilt_range,
            tilt_axis=tilt_axis, flip_tilts=flip_tilts, threads=threads,
            overwrite=overwrite, dtype=dtype, progress=progress, opening=opening, halves=halves,
            keep_measured=keep_measured, symmetries=symmetries, allow_scale=allow_scale, precision=precision,
            device=device, uncertainty=spread_draws, calibrate=calibrate, seed=seed, report=report,
            contrast_transfer=transfers,
        )  # fmt: skip
        for result in results:
            files = ", ".join(str(p) for p in result.paths)
            if result.skipped:
                progress.message(f"kept {files}: made before from the same; --overwrite makes it again")
                continue
            progress.message(
                f"wrote {files} in {result.seconds:.0f} s "
                f"({result.voxels_per_second / 1e6:.2f} million voxels/s, {100 * (1 - result.network_share):.0f} % "
                "outside the network)"
            )
            if result.undone:
                progress.message(f"contrast transfer undone: {result.undone}")
            if result.report:
                progress.message(f"look at {result.report}")
    o.show([asdict(result) for result in results], as_json=as_json)


def _restore_store(
    store: Path, output: Path, chosen: dict[str, Any], *, dry_run: bool, as_json: bool, quiet: bool, verbose: bool
) -> None:
    """A store of subtomograms in, a store of restored ones out."""
    from cryoaae.restoration.particles import plan_restore_store, restore_store

    if dry_run:
        lines = plan_restore_store(store, output, **chosen)
        o.would({"restore": lines}, lines, as_json=as_json)
        return
    with o.told(quiet=quiet, verbose=verbose) as progress:
        made = restore_store(store, output, progress=progress, **chosen)
        each = made.seconds / max(1, made.particles)
        said = f"kept {made.path}: made before from the same; --overwrite makes it again"
        progress.message(said if made.skipped else f"wrote {made.path} in {made.seconds:.0f} s ({each:.2f} a particle)")
    o.show(asdict(made), as_json=as_json)
