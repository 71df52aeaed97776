"""The page with a slider over a run's training, alone or beside another run's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from cryoaae.autoencoding.diagnostics import Diagnostics, Reading, plane_extent
from cryoaae.autoencoding.settings import AutoencodingSettings, unused_settings
from cryoaae.errors import InputError
from cryoaae.io.atomic import write_text
from cryoaae.io.checkpoint import load_latest
from cryoaae.priors import PRIORS
from cryoaae.priors.prior import Prior
from cryoaae.registry import make_part
from cryoaae.reports.latent_page import LatentFrame, LatentHistory, latent_page
from cryoaae.runs.folder import read_mapping

if TYPE_CHECKING:
    from cryoaae.autoencoding.family import FamilyRun

PRIOR_DRAWS = 1500
# How the curves of a run are called where people read them.
CURVE_TITLES = {
    "accuracy_style": "discriminator accuracy",
    "accuracy_class": "discriminator accuracy, class",
    "mmd2": "unbiased MMD",
    "half_squared_error": "held-out reconstruction",
    "cluster_error": "held-out error of named clusters",
    "jensen_shannon_style": "estimated JSD (lower bound)",
}
REFERENCES = {"discriminator accuracy": 0.5, "discriminator accuracy, class": 0.5}


def write_page(run: FamilyRun, diagnostics: Diagnostics, folder: Path, beside: Path | None = None) -> None:
    """Write ``latent.html``; `beside` is the folder of another run on the same images."""
    histories = [latent_history(run.settings, diagnostics)]
    if beside is not None:
        settings, readings = read_run(beside)
        other = Diagnostics(diagnostics.pixels, diagnostics.labels, diagnostics.seeds, readings)
        histories.append(latent_history(settings, other))
    drawable = [h for h in histories if h is not None]
    if drawable:
        images = run.data.validation
        title = " beside ".join(h.title for h in drawable)
        thumbnails = None  # the page has them in grey alone
        if images.shape[0] == 1:
            shown = images.pixels[: len(drawable[0].labels)].unflatten(-1, images.shape[1:])
            thumbnails = shown.cpu().double().numpy()
        write_text(folder / "latent.html", latent_page(drawable, title=title, thumbnails=thumbnails))


def curves(diagnostics: Diagnostics) -> dict[str, tuple[list[float], list[float]]]:
    """Mean over the seeds of every diagnostic that has a title, by that title."""
    steps = [float(r.step) for r in diagnostics.readings]
    found = {}
    for name, title in CURVE_TITLES.items():
        if name in diagnostics.readings[0].values:
            found[title] = (steps, [float(np.mean(r.values[name])) for r in diagnostics.readings])
    return found


def latent_history(settings: AutoencodingSettings, diagnostics: Diagnostics) -> LatentHistory | None:
    """Training of a run as the page shows it: the first two numbers of each code; None of codes of one number."""
    frames = [
        LatentFrame(r.step, r.codes.numpy(), None if r.boundary is None else r.boundary.numpy())
        for r in diagnostics.readings
        if r.codes is not None
    ]
    if not frames:
        return None
    prior: Prior = make_part(PRIORS, settings.prior)
    divergence = settings.divergence["name"]
    return LatentHistory(
        title=settings.variant if settings.variant == "evia" else f"{settings.variant} ({divergence})",
        frames=frames,
        labels=diagnostics.labels[: len(frames[0].codes)].cpu().numpy(),
        prior=prior.sample(PRIOR_DRAWS, generator=torch.Generator().manual_seed(0))[:, :2].numpy(),
        extent=plane_extent(prior.scale),
        curves=curves(diagnostics),
        references=REFERENCES,
        note="" if prior.dim == 2 else f"The first two of the {prior.dim} numbers of each style code.",
    )


def read_run(folder: Path, data: str | None = None) -> tuple[AutoencodingSettings, list[Reading]]:
    """Settings and readings of another run, which must be on the images `data` if those are named.

    Raises
    ------
    InputError
        If the folder holds no such run.
    """
    state = load_latest(folder / "checkpoints")
    if "readings" not in state:
        raise InputError(folder, "is no run of `cryoaae aae`", "give a folder that it made")
    config = read_mapping(folder / "config.yaml")
    if data is not None and config.get("data") != data:
        raise InputError(folder, f"was made from {config.get('data')}, not {data}", "show runs on the same images")
    known = {k: v for k, v in config.items() if k in AutoencodingSettings.model_fields}
    try:
        # Of an older version the record may hold defaults of settings that the variant has no use for.
        idle = unused_settings(known)
        settings = AutoencodingSettings(**{k: v for k, v in known.items() if k not in idle})
    except (ValueError, KeyError) as error:
        raise InputError(folder / "config.yaml", "damaged", "give another run") from error
    return settings, [Reading(**reading) for reading in state["readings"]]
