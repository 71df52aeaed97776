"""`cryoaae generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cryoaae.cli import options as o


def command(
    run: Annotated[
        Path,
        typer.Argument(
            callback=o.present, help="Run folder of cryoaae cluster, or of cryoaae fit --preset volumetric."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to make.")],
    class_name: Annotated[
        str | None, typer.Option("--class", help="A cluster: its label, or else its number from 1; default: any.")
    ] = None,
    count: Annotated[int, typer.Option("--count", help="Volumes to write.", min=1)] = 16,
    traverse: Annotated[
        int | None, typer.Option("--traverse", help="Walk along this axis of the style, from 1; needs --class.")
    ] = None,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    threads: o.Threads = None,
    overwrite: o.Overwrite = False,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Write volumes that a fitted model makes: draws of a class, a walk along an axis of the style, or patches."""
    from cryoaae.errors import InputError
    from cryoaae.restoration.code_draws import generate_patches, is_restorer
    from cryoaae.subtomograms.generate import generate

    shared: dict[str, Any] = {
        "count": count, "seed": seed, "device": device, "threads": threads, "overwrite": overwrite, "dry_run": dry_run,
    }  # fmt: skip
    patches = is_restorer(run)
    if patches and (class_name is not None or traverse is not None):
        raise InputError(run, "a restorer's codes have no classes", "leave out --class and --traverse")
    with o.told(quiet=quiet, verbose=verbose) as progress:
        if patches:
            paths = generate_patches(run, output, progress=progress, **shared)
        else:
            paths = generate(run, output, class_name=class_name, traverse=traverse, progress=progress, **shared)
        if not dry_run:
            progress.message(f"wrote {len(paths)} volumes into {paths[0].parent}")
    if dry_run:
        o.would({"files": paths}, [f"would write {len(paths)} volumes into {paths[0].parent}"], as_json=as_json)
    else:
        o.show({"files": paths}, as_json=as_json)
