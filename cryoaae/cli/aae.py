"""`cryoaae aae`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cryoaae.cli import options as o
from cryoaae.errors import InputError


def command(
    variant: Annotated[
        str,
        typer.Argument(
            metavar="VARIANT",
            help="aae, labelled, supervised, semisupervised, clustering, dimension-reduction, "
            "vae, wae, sinkhorn or evia.",
        ),
    ],
    data: Annotated[str, typer.Option("--data", help="'digits' (built in), or a folder of IDX files such as MNIST.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Run folder to make.")],
    labels: Annotated[int | None, typer.Option("--labels", help="Labelled examples to use.", min=0)] = None,
    latent: Annotated[
        str | None, typer.Option("--latent", help="Prior of the style: gaussian, mixture, swiss_roll, uniform.")
    ] = None,
    divergence: Annotated[
        str | None, typer.Option("--divergence", help="adversarial, mmd, sinkhorn, sliced or kl.")
    ] = None,
    clusters: Annotated[int | None, typer.Option("--clusters", help="Classes of the categorical code.", min=2)] = None,
    epochs: Annotated[float | None, typer.Option("--epochs", help="Passes through the images.", min=0.001)] = None,
    stack_seeds: Annotated[
        int | None, typer.Option("--stack-seeds", help="Fit so many seeds side by side in one run.", min=1)
    ] = None,
    beside: Annotated[
        Path | None, typer.Option("--beside", help="Another run on the same images to show on the same page.")
    ] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="One of configs/aae; default: the variant's.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML file instead of a preset, such as a run's config.yaml.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="key=value, prior.std=5; repeatable.")] = None,
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
    """Fit a 2-D adversarial autoencoder or a relative of it on images, and score it."""
    from cryoaae.config import load_aae_config, recorded_stack
    from cryoaae.divergences import DIVERGENCES
    from cryoaae.priors import PRIORS

    settings = load_aae_config(
        variant, preset=preset, file=config, overrides=overrides or (), labels=labels, epochs=epochs, seed=seed,
        classes=clusters,
        parts={
            "prior": _known("--latent", PRIORS, latent),
            "divergence": _known("--divergence", DIVERGENCES, divergence),
        },
    )  # fmt: skip
    stack_seeds = stack_seeds or recorded_stack(config)
    if dry_run:
        from cryoaae.autoencoding.run import check_run
        from cryoaae.runs.resources import choose_device

        check_run(
            data, output, settings, stack_seeds=stack_seeds, beside=beside, resume=resume, overwrite=overwrite,
            device=choose_device(device),
        )  # fmt: skip
        plan = {"run": output, "data": data, "settings": settings.model_dump(mode="json")}
        o.would(plan, [f"would fit {variant} on {data} into {output}", f"{settings}"], as_json=as_json)
        return
    from cryoaae.autoencoding.run import fit_autoencoder

    with o.told(quiet=quiet, verbose=verbose) as progress:
        folder = fit_autoencoder(
            data, output, settings, stack_seeds=stack_seeds, beside=beside, resume=resume, overwrite=overwrite,
            device=device, threads=threads, progress=progress,
        )  # fmt: skip
        progress.message(f"wrote {folder / 'result.json'} and figures beside it")
    o.show({"run": folder}, as_json=as_json)


def _known(option: str, registry: Any, name: str | None) -> str | None:
    """Return a part's name, or refuse it in terms of its option."""
    if name is not None and name not in list(registry):
        raise InputError(option, f"'{name}' is not a {registry.kind}", f"choose one of {', '.join(registry)}")
    return name
