"""`cryoaae fit`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryoaae.cli import options as o
from cryoaae.errors import InputError

if TYPE_CHECKING:
    from cryoaae.restoration.fit_sampler import SamplerSettings


def command(
    output: Annotated[Path, typer.Option("-o", "--output", help="Run folder to make.")],
    inputs: o.Inputs = None,
    even: o.Even = None,
    odd: o.Odd = None,
    tilts: o.Tilts = None,
    tilt_range: o.TiltRange = None,
    tilt_axis: o.TiltAxis = "y",
    flip_tilts: o.FlipTilts = False,
    voxel_size: o.VoxelSize = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", help="fast (10 minutes), full (60), filament, cryogen1, cryogen2 or volumetric."),
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file of settings instead of a preset.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value; repeatable.")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", help="Stop after this time.", min=0.01)] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Stop after these steps (reproducible).", min=1)] = None,
    hold_out_deg: Annotated[
        float | None,
        typer.Option("--hold-out-deg", help="Hide so many degrees of tilts from fitting, for `validate`.", min=0),
    ] = None,
    prior: Annotated[
        str | None,
        typer.Option("--prior", help="none, adversarial (cryogen1) or transport (cryogen2): towards what looks real."),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            help="Of layers while fitting: float32, bfloat16, or auto, the default: with a limit in minutes what is "
            "faster, with --steps float32.",
        ),
    ] = None,
    density: o.Density = None,
    mask: o.Mask = None,
    init: Annotated[
        Path | None,
        typer.Option("--init", help="Run or weights to start from, not the restorer that comes along (`general`)."),
    ] = None,
    posterior: Annotated[
        bool,
        typer.Option("--posterior", help="Afterwards fit the sampler of draws on the same two halves, for `sample`."),
    ] = False,
    posterior_minutes: Annotated[
        float | None, typer.Option("--posterior-minutes", help="Time for it (default 5).", min=0.01)
    ] = None,
    posterior_steps: Annotated[
        int | None, typer.Option("--posterior-steps", help="Steps for it (reproducible).", min=1)
    ] = None,
    keep_restorer: Annotated[
        bool,
        typer.Option("--keep-restorer", help="With --posterior: fit no restorer, keep --init's or the general one."),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of every random draw.", min=0)] = None,
    defocus: o.Defocus = None,
    voltage: o.Voltage = None,
    cs: o.Cs = None,
    amplitude_contrast: o.AmplitudeContrast = None,
    phase_flipped: o.PhaseFlipped = None,
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
    """Fit a restorer on your own tomograms (halves where you have them) and write a run folder."""
    from cryoaae.config import load_fit_config
    from cryoaae.io.project import files_of, open_tomogram, pairs_table, resolve_inputs
    from cryoaae.runs.folder import RunFolder

    mask_word, mask_files = o.masks(mask)
    settings = load_fit_config(
        preset=preset, file=config, overrides=overrides or (), minutes=minutes, steps=steps, seed=seed,
        hold_out_deg=hold_out_deg, prior=prior, precision=precision, density=density,
        mask=mask_word,
        start="general" if str(init) == "general" else None,
    )  # fmt: skip
    init = None if str(init) == "general" else init
    items = resolve_inputs(
        inputs or (), even=even or (), odd=odd or (), tilts=tilts or None, tilt_range=tilt_range,
        tilt_axis=tilt_axis, flip_tilts=flip_tilts, mask=mask_files,
    )  # fmt: skip
    opening = o.opening(voxel_size, lenient=lenient, fill_nonfinite=fill_nonfinite)
    sampler = _sampler(posterior, posterior_minutes, posterior_steps, settings.seed)
    transfers = o.contrast_transfer(defocus, voltage, cs, amplitude_contrast, phase_flipped)
    if dry_run:
        from cryoaae.fitting.session import check_tomogram
        from cryoaae.restoration.fit_posterior import check_posterior, run_config, with_transfers

        paths = files_of(items)
        chosen = run_config(settings, init, keep_restorer=keep_restorer, transfers=transfers)
        RunFolder.check(output, chosen, inputs=paths, overwrite=overwrite, resume=resume)
        opened = with_transfers(
            [open_tomogram(item, **opening) for item in items], transfers, settings, init, keep_restorer=keep_restorer
        )
        for tomogram in opened:
            check_tomogram(tomogram, settings)
        check_posterior(opened, sampler, settings, keep_restorer=keep_restorer)
        lines = [pairs_table(items), f"would fit into {output} with {chosen}"]
        plan = {"run": output, "inputs": [item.paths for item in items], "settings": chosen}
        if sampler is not None:
            lines.append(f"and the sampler of draws with {asdict(sampler)}")
            plan["posterior"] = asdict(sampler)
        o.would(plan, lines, as_json=as_json)
        return
    from cryoaae.restoration.fit import fit

    with o.told(quiet=quiet, verbose=verbose) as progress:
        folder = fit(
            items, output, settings=settings, init=init, posterior=sampler, keep_restorer=keep_restorer,
            contrast_transfer=transfers, resume=resume, overwrite=overwrite, device=device, threads=threads,
            progress=progress, **opening,
        )  # fmt: skip
        following = "sample" if posterior else "restore"
        progress.message(f"wrote {folder / 'model.safetensors'}; next: cryoaae {following} ... --model {folder}")
    o.show({"run": folder}, as_json=as_json)


def _sampler(wanted: bool, minutes: float | None, steps: int | None, seed: int) -> SamplerSettings | None:
    """Settings of the sampler's fit; None where none is wanted.

    Raises
    ------
    InputError
        If it is told how long, but not to be fitted.
    """
    from cryoaae.restoration.fit_sampler import SamplerSettings

    if not wanted:
        for option, value in (("--posterior-minutes", minutes), ("--posterior-steps", steps)):
            if value is not None:
                raise InputError(option, "given without --posterior", "give --posterior too")
        return None
    return SamplerSettings(steps=steps, seed=seed, minutes=minutes or SamplerSettings.minutes)
