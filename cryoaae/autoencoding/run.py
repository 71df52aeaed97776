"""Fit a member of the 2-D family: images in, a run folder with result, figures and weights out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cryoaae.autoencoding.family import FamilyRun
from cryoaae.autoencoding.page import read_run
from cryoaae.autoencoding.recorder import Recorder
from cryoaae.autoencoding.settings import AutoencodingSettings, unused_settings
from cryoaae.errors import InputError
from cryoaae.io.images import load_images
from cryoaae.runs.folder import RunFolder
from cryoaae.runs.progress import NullProgress, Progress
from cryoaae.runs.resources import choose_device, keep_freed_memory, set_threads


def fit_autoencoder(
    data: Path | str,
    run_path: Path | str,
    settings: AutoencodingSettings,
    *,
    stack_seeds: int | None = None,
    beside: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Fit a member of the family and write a run folder.

    Parameters
    ----------
    data : path or "digits"
        A folder of IDX files (MNIST), or scikit-learn's digits.
    run_path : path
        Folder to make: ``result.json``, figures, ``latent.html``, ``model.safetensors``.
    settings : AutoencodingSettings
    stack_seeds : int, optional
        Fit so many models side by side, with the seeds that follow one another from `settings.seed`:
        the same as separate runs, and faster.
    beside : path, optional
        Folder of another run on the same images, to be shown beside this one in ``latent.html``.
    resume : bool
        Go on with an interrupted run.

    Returns
    -------
    Path
        The run folder.

    Raises
    ------
    InputError, FittingDivergedError, InterruptedRunError
    """
    progress = progress or NullProgress()
    set_threads(threads)
    keep_freed_memory()
    chosen = choose_device(device)
    folder, config = Path(run_path), recorded_config(data, settings, stack_seeds)
    other = None if beside is None else Path(beside)
    run = check_run(
        data, folder, settings, stack_seeds=stack_seeds, beside=other, resume=resume, overwrite=overwrite,
        device=chosen,
    )  # fmt: skip
    with RunFolder.create(folder, "aae", config, inputs=_files(data), overwrite=overwrite, resume=resume) as record:
        Recorder(run, record.path, progress, resume=resume, beside=other).fit()
    return folder


def check_run(
    data: Path | str,
    run_path: Path | str,
    settings: AutoencodingSettings,
    *,
    stack_seeds: int | None = None,
    beside: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: torch.device | str = "cpu",
) -> FamilyRun:
    """Set a run up, or refuse what cannot be, before anything is written.

    Raises
    ------
    InputError
        For images, settings or folders that will not do.
    """
    split = load_images(data)
    config = recorded_config(data, settings, stack_seeds)
    RunFolder.check(Path(run_path), config, inputs=_files(data), overwrite=overwrite, resume=resume)
    if beside is not None:
        if beside.resolve() == Path(run_path).resolve():
            raise InputError("--beside", "is the run's own folder", "name another run")
        read_run(beside, str(data))
    run = FamilyRun(split, settings, stack_seeds, device)
    if beside is not None and run.loop.model.prior.dim < 2:
        raise InputError("--beside", "codes of one number have no page to be shown on", "leave it out")
    return run


def recorded_config(data: Path | str, settings: AutoencodingSettings, stack_seeds: int | None) -> dict[str, Any]:
    """What ``config.yaml`` holds: settings in use, the images, and how many seeds were fitted side by side."""
    used = settings.model_dump(mode="json", exclude=set(unused_settings(dict(settings))))
    return {**used, "stack_seeds": stack_seeds, "data": str(data)}


def _files(data: Path | str) -> list[Path]:
    return [] if str(data) == "digits" else sorted(p for p in Path(data).iterdir() if "ubyte" in p.name)
