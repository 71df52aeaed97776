"""`fit --posterior` in a run folder: what is asked of its inputs, when its restorer stands, and the sampler's fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from cryoaae.errors import InputError
from cryoaae.fitting.budget import Budget, Plateau
from cryoaae.fitting.loop import PLATEAU_AFTER
from cryoaae.fitting.settings import FitSettings
from cryoaae.io.checkpoint import load_latest
from cryoaae.io.project import Tomogram
from cryoaae.models.general import NAME, load_any
from cryoaae.restoration.contrast import Transfers, transfer_of
from cryoaae.restoration.fit_sampler import SamplerFit, SamplerSettings, require_pairs
from cryoaae.restoration.plain import plain
from cryoaae.restoration.sampler_weights import FILE, RESTORER
from cryoaae.runs.folder import RunFolder
from cryoaae.runs.progress import Progress
from cryoaae.runs.ranks import ranks

# Written last by the fit of a restorer.
PAGE = "report.html"


def run_config(
    settings: FitSettings,
    init: Path | str | None,
    *,
    keep_restorer: bool,
    transfers: Transfers | None = None,
) -> dict[str, Any]:
    """What a run is known by, plain data: the settings of its restorer's fit, or the restorer that it keeps."""
    if keep_restorer:
        return {"restorer": str(init or NAME)}
    if transfers is None:
        return asdict(settings)
    each = transfers if isinstance(transfers, Mapping) else {"": transfers}
    return asdict(settings) | {"contrast_transfer": {name: str(one) for name, one in each.items()}}


def with_transfers(
    tomograms: Sequence[Tomogram],
    transfers: Transfers | None,
    settings: FitSettings,
    init: Path | str | None,
    *,
    keep_restorer: bool = False,
) -> list[Tomogram]:
    """Tomograms with what the microscope made of them, so that fitting sees them as restoring will show them.

    Raises
    ------
    InputError
        Where the fit starts from the spectrum, or is none: restoring then shows them as they are; where a tomogram's
        transfer is not among them.
    """
    if transfers is None:
        return list(tomograms)
    if keep_restorer or (init is None and settings.start == "spectrum"):
        problem = "is for fits that start from the general restorer"
        raise InputError("--defocus", problem, "leave it out; `restore --defocus` undoes it afterwards")
    return [replace(tomogram, transfer=transfer_of(transfers, tomogram.name)) for tomogram in tomograms]


def check_posterior(
    tomograms: Sequence[Tomogram], posterior: SamplerSettings | None, settings: FitSettings, *, keep_restorer: bool
) -> None:
    """Refuse what a sampler cannot be fitted on, before anything is made.

    Raises
    ------
    InputError
    """
    if posterior is None:
        if keep_restorer:
            raise InputError("--keep-restorer", "nothing would be fitted", "add --posterior")
        return
    if ranks()[1] > 1:
        raise InputError("--posterior", "is for one process", "fit with several, then --resume --posterior with one")
    if settings.hold_out_deg:
        problem = "would be shown the tilts that --hold-out-deg hides"
        raise InputError("--posterior", problem, "leave one of them out")
    require_pairs(tomograms)


def ended(folder: Path, settings: FitSettings) -> bool:
    """Whether a run's restorer stands, and more steps are not asked for."""
    if not all((folder / name).is_file() for name in (RESTORER, PAGE)):
        return False
    state = load_latest(folder / "checkpoints")
    budget = Budget(settings.steps, settings.minutes, int(state["step"]), float(state["seconds"]))
    plateau = Plateau(settings.patience, float(state["plateau"][0]), int(state["plateau"][1]))
    return budget.fraction >= 1.0 or (plateau.flat and budget.fraction >= PLATEAU_AFTER)


def begin_anew(folder: Path) -> None:
    """Remove what holds for a restorer that is about to change: its sampler, and the page that says it has ended."""
    for name in (FILE, PAGE):
        (folder / name).unlink(missing_ok=True)


def keep(model: Any, folder: Path) -> None:
    """Put a restorer into a run as it is, fitted before or general."""
    model.save(folder / RESTORER)


def fit_posterior(
    tomograms: Sequence[Tomogram],
    folder: RunFolder,
    settings: SamplerSettings,
    *,
    device: torch.device,
    resume: bool,
    progress: Progress,
) -> None:
    """Fit the sampler for the run's restorer, and record it.

    Raises
    ------
    InputError, FittingDivergedError
    InterruptedRunError
        The state of the sampler's fit is kept; with `resume` it goes on.
    """
    model = load_any(folder.path)
    made = SamplerFit(tomograms, model, folder.path, settings, device=device, progress=progress)
    folder.record["posterior"] = plain(made.run(resume=resume))
