"""Adapt the general restorer to tomograms: a short fit on their own halves that starts from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryoaae.fitting.settings import FitSettings
from cryoaae.io.project import TomogramInput
from cryoaae.restoration.fit import fit
from cryoaae.restoration.work import MRC_SUFFIXES


def adapted_path(output: Path) -> Path:
    """Run folder beside an output file, or within an output folder."""
    if output.suffix.lower() in MRC_SUFFIXES:
        return output.with_name(f"{output.stem}_adapted")
    return output / "adapted"


def adapt(
    items: Sequence[TomogramInput],
    run_path: Path,
    *,
    minutes: float,
    precision: str = "auto",
    density: str = "auto",
    mask: str = "none",
    seed: int = 0,
    overwrite: bool = False,
    **keywords: Any,
) -> Path:
    """Fit the general restorer further, or go on with an interrupted run; return the run folder.

    Parameters
    ----------
    items : sequence of TomogramInput
    run_path : path
    minutes : float
    precision : {"auto", "float32", "bfloat16"}
        Of the network's layers while they are fitted.
    density : {"auto", "bright", "dark"}
        What is said of the structures.
    mask : {"none", "auto"}
        Where patches are taken from, of tomograms that have no mask.
    seed : int
    overwrite : bool
        Start again where a run stands.
    **keywords
        ``contrast_transfer``, ``device``, ``threads``, ``progress`` and how files are opened, as for `fit`.

    Raises
    ------
    InputError, ResourceError, FittingDivergedError, InterruptedRunError
    """
    settings = FitSettings(minutes=minutes, precision=precision, density=density, mask=mask, seed=seed)
    run_path.parent.mkdir(exist_ok=True)
    resume = run_path.exists() and not overwrite
    return fit(list(items), run_path, settings=settings, resume=resume, overwrite=overwrite, **keywords)
