"""`cryoaae cluster`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cryoaae.cli import options as o
from cryoaae.errors import InputError

if TYPE_CHECKING:
    from cryoaae.subtomograms.settings import ClusterSettings


def command(
    stores: Annotated[
        list[Path], typer.Argument(callback=o.present, help="Stores of subtomograms, made by cryoaae extract.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Run folder to make.")],
    by: Annotated[
        str | None,
        typer.Option(
            "--by", metavar="WAY",
            help="alignment: classes and poses at once; autoencoder: classes blind to the pose, and a model; both. "
            "Default: alignment.",
        ),
    ] = None,
    clusters: Annotated[str, typer.Option("--clusters", help="How many, or auto: found.")] = "auto",
    labels: Annotated[
        list[Path] | None,
        typer.Option("--labels", help="The store's particle list with the class of some particles; one a store."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", callback=o.present,
            help="Run folder whose model, or references, are used; nothing is fitted.",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", help="Fit the autoencoder for so many steps.", min=1)
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="Fit the autoencoder for so long.", min=0.01)
    ] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="One of configs/cluster: fast, full.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file instead of a preset.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, such as alignment.starts=3; repeatable.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of every random draw.", min=0)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    device: o.Device = "auto",
    threads: o.Threads = None,
    overwrite: o.Overwrite = False,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Cluster subtomograms without templates, labels or poses: find classes and their averages, and report them."""
    from cryoaae.config import load_cluster_config
    from cryoaae.subtomograms.cluster import ALIGNMENT, cluster, plan
    from cryoaae.subtomograms.cluster_files import RESULT

    fitting = {"--steps": steps, "--minutes": minutes, "--preset": preset, "--config": config, "--set": overrides}
    given = [name for name, value in fitting.items() if value is not None]
    settings: ClusterSettings | None = None
    if model is None:
        settings = load_cluster_config(
            preset=preset, file=config, overrides=overrides or (), steps=steps, minutes=minutes, seed=seed
        )
    elif given:
        raise InputError(", ".join(given), "is for fitting, and --model is fitted", "leave it out")
    if by == ALIGNMENT or (by is None and model is None):
        _check_for_alignment(steps, minutes, overrides or [])
    with o.told(quiet=quiet, verbose=verbose) as progress:
        folder = cluster(
            stores, output, by=by, clusters=_number(clusters), labels=labels or (), model=model, settings=settings,
            device=device, threads=threads, resume=resume, overwrite=overwrite, dry_run=dry_run, progress=progress,
        )  # fmt: skip
        if not dry_run:
            progress.message(f"wrote {folder / 'report.html'}")
    if dry_run:
        found = plan(stores, by=by, clusters=_number(clusters), model=model, settings=settings)
        said = f"would cluster {', '.join(map(str, stores))} into {folder}"
        known = {"run": folder, "stores": stores, **found, "settings": settings and settings.model_dump(mode="json")}
        o.would(known, [said, *(f"{name}: {value}" for name, value in found.items())], as_json=as_json)
    else:
        o.show({"run": folder, **json.loads((folder / RESULT).read_text())}, as_json=as_json)


def _check_for_alignment(steps: int | None, minutes: float | None, overrides: list[str]) -> None:
    """Refuse what only the autoencoder would heed."""
    own = ("alignment.", "seed=", "checkpoint_every_seconds=")
    others = [f"--set {text}" for text in overrides if not text.strip().startswith(own)]
    named = {"--steps": steps, "--minutes": minutes}
    others += [name for name, value in named.items() if value is not None]
    if others:
        raise InputError(others[0], "is for the autoencoder", "give --by autoencoder or --by both, or leave it out")


def _number(text: str) -> int | None:
    """Number of clusters; None for "auto"."""
    if text == "auto":
        return None
    if text.isdecimal() and int(text) >= 2:
        return int(text)
    raise InputError("--clusters", f"'{text}' is not a number of clusters", "give auto, or 2 or more")
