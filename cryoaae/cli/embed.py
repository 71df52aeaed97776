"""`cryoaae embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cryoaae.cli import options as o


def command(
    store: Annotated[
        Path, typer.Argument(callback=o.present, help="A store of subtomograms, made by cryoaae extract.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to make.")],
    model: Annotated[Path, typer.Option("--model", callback=o.present, help="Run folder of cryoaae cluster.")],
    device: o.Device = "auto",
    threads: o.Threads = None,
    overwrite: o.Overwrite = False,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Write the codes of subtomograms under a fitted model."""
    from cryoaae.subtomograms.embed import CODES, embed

    with o.told(quiet=quiet, verbose=verbose) as progress:
        folder = embed(
            store, output, model=model, device=device, threads=threads, overwrite=overwrite, dry_run=dry_run,
            progress=progress,
        )  # fmt: skip
        if not dry_run:
            progress.message(f"wrote {folder / CODES}")
    plan = {"folder": folder, "codes": folder / CODES}
    if dry_run:
        o.would(plan, [f"would embed {store} into {folder / CODES}"], as_json=as_json)
    else:
        o.show(plan, as_json=as_json)
