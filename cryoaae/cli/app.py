"""The commands, gathered."""

from __future__ import annotations

from typing import Annotated

import typer

from cryoaae.cli import (
    aae,
    cluster,
    doctor,
    embed,
    energy,
    evaluate,
    extract,
    fit,
    generate,
    inspect,
    restore,
    sample,
    simulate,
    validate,
)

app = typer.Typer(
    name="cryoaae",
    help="Restore cryo-electron tomograms: denoise, fill the missing wedge, and say what is measured.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from cryoaae import __version__

        typer.echo(f"cryoaae {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


for _module in (
    simulate, fit, restore, sample, validate, evaluate, energy, extract, cluster, embed, generate, inspect, aae, doctor,
):  # fmt: skip
    app.command(name=_module.__name__.rpartition(".")[2])(_module.command)
