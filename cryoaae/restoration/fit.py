"""Fit a restorer on the user's own tomograms: inputs in, a run folder out."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cryoaae.errors import InputError
from cryoaae.fitting.loop import Loop, run
from cryoaae.fitting.session import Session, check_start, check_tomogram, prepare
from cryoaae.fitting.settings import FitSettings
from cryoaae.io.checkpoint import load_latest
from cryoaae.io.project import (
    Tomogram,
    TomogramInput,
    files_of,
    open_tomogram,
    pairs_table,
    resolve_inputs,
    split_inputs,
)
from cryoaae.models.general import load_any
from cryoaae.restoration.contrast import Transfers
from cryoaae.restoration.fit_posterior import (
    begin_anew,
    check_posterior,
    ended,
    fit_posterior,
    keep,
    run_config,
    with_transfers,
)
from cryoaae.restoration.fit_recorder import Recorder
from cryoaae.restoration.fit_sampler import SamplerSettings
from cryoaae.runs.folder import RunFolder
from cryoaae.runs.progress import NullProgress, Progress
from cryoaae.runs.ranks import check_together, joined, ranks, wait_for_all
from cryoaae.runs.resources import choose_device, keep_freed_memory, set_threads


def fit(
    inputs: Sequence[TomogramInput | Path | str] | TomogramInput | Path | str,
    run_path: Path | str,
    *,
    even: Sequence[Path | str] | Path | str = (),
    odd: Sequence[Path | str] | Path | str = (),
    tilts: Sequence[Path | str] | Path | str | None = None,
    tilt_range: tuple[float, float] | None = None,
    tilt_axis: str | float = "y",
    flip_tilts: bool = False,
    mask: Sequence[Path | str] | Path | str | None = None,
    settings: FitSettings | None = None,
    init: Path | str | None = None,
    posterior: SamplerSettings | None = None,
    keep_restorer: bool = False,
    contrast_transfer: Transfers | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    threads: int | None = None,
    voxel_size_angstrom: float | None = None,
    lenient: bool = False,
    fill_nonfinite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Fit a restorer and write a run folder.

    Parameters
    ----------
    inputs : paths or TomogramInput
        Single volumes, or inputs resolved already; or give `even` and `odd`.
    run_path : path
        Run folder to make: ``model.safetensors``, checkpoints, ``metrics.csv``, previews.
    even, odd, tilts, tilt_range, tilt_axis, flip_tilts, mask
        As on the command line; see `io.project.resolve_inputs`.
    settings : FitSettings, optional
        Default: the `fast` preset.
    init : path, optional
        Run or weights to start from instead of from the spectrum; ``general``: the restorer that comes along.
    posterior : SamplerSettings, optional
        Fit the sampler of draws on the same halves afterwards: ``sampler.safetensors``.
    keep_restorer : bool
        With `posterior`: fit no restorer, keep the one to start from as it is.
    contrast_transfer : ContrastTransfer or mapping, optional
        Of all tomograms, or of each by its name: the fit then sees them as restoring with it will show them. For fits
        that start from the general restorer.
    resume : bool
        Go on with an interrupted run; bit-identical on CPU when limited by steps. A restorer whose fit has ended
        stays as it is when a sampler is asked for.
    device, threads : str, int
        ``auto``, ``cpu``, ``cuda[:i]``; CPU threads.

    Returns
    -------
    Path
        The run folder.

    Raises
    ------
    InputError, ResourceError, FittingDivergedError, InterruptedRunError

    Notes
    -----
    Under torchrun every process takes its share of each batch; see `runs.ranks`.
    """
    settings = settings or FitSettings()
    progress = progress or NullProgress()
    set_threads(threads)
    keep_freed_memory()
    with joined(choose_device(device)) as chosen:
        return _fit_here(
            inputs, Path(run_path), chosen, settings, init=init, posterior=posterior, keep_restorer=keep_restorer,
            transfers=contrast_transfer, resume=resume, overwrite=overwrite, progress=progress,
            geometry={
                "even": even, "odd": odd, "tilts": tilts, "tilt_range": tilt_range, "tilt_axis": tilt_axis,
                "flip_tilts": flip_tilts, "mask": mask,
            },
            opening={
                "voxel_size_angstrom": voxel_size_angstrom, "lenient": lenient, "fill_nonfinite": fill_nonfinite,
                "density": settings.density,
            },
        )  # fmt: skip


def _fit_here(
    inputs: Any,
    run_path: Path,
    device: torch.device,
    settings: FitSettings,
    *,
    init: Path | str | None,
    posterior: SamplerSettings | None,
    keep_restorer: bool,
    transfers: Transfers | None,
    resume: bool,
    overwrite: bool,
    progress: Progress,
    geometry: dict[str, Any],
    opening: dict[str, Any],
) -> Path:
    """The fit in this process; where there are several, the first alone writes what is kept."""
    rank, count = ranks()
    _check_shares(settings, count)
    items = as_items(inputs, **geometry)
    paths = files_of(items)
    config = run_config(settings, init, keep_restorer=keep_restorer, transfers=transfers)
    if not resume and rank == 0:  # else the folder is compared with the inputs when it is taken up again
        RunFolder.check(run_path, config, overwrite=overwrite)
    # Before the folder is made, or an old run cleared: a bad input must cost nothing.
    opened = [open_tomogram(item, **opening) for item in items]
    tomograms = with_transfers(opened, transfers, settings, init, keep_restorer=keep_restorer)
    for tomogram in tomograms:
        check_tomogram(tomogram, settings)
    check_posterior(tomograms, posterior, settings, keep_restorer=keep_restorer)
    from_spectrum = init is None and settings.start == "spectrum" and not keep_restorer
    start = None if from_spectrum else load_any(init)
    if not keep_restorer:
        check_start(start, settings)
    if rank:
        wait_for_all()  # until the folder is made
        _follow(run_path, tomograms, settings, device, start, resume=resume, progress=progress)
        return run_path
    with RunFolder.create(run_path, "fit", config, inputs=paths, overwrite=overwrite, resume=resume) as folder:
        wait_for_all()
        progress.message(pairs_table(items))
        _warn_singles(tomograms, progress)
        if settings.hold_out_deg:
            progress.message(
                f"{settings.hold_out_deg:g} degrees of tilts are hidden from fitting, for `cryoaae validate`; fit "
                "again without --hold-out-deg for the restoration to keep"
            )
        if keep_restorer:
            keep(start, folder.path)
        elif not (posterior is not None and resume and ended(folder.path, settings)):
            progress.start("measuring spectra, preparing patches", None, "")
            session = prepare(tomograms, settings, device=device, scratch=folder.path / "scratch", init=start)
            progress.finish()
            _say_places(session, progress)
            if resume:
                _resume(session.loop, folder.path)
            begin_anew(folder.path)
            Recorder(session, folder, settings, progress, device, start=str(init or settings.start)).fit()
            shutil.rmtree(folder.path / "scratch", ignore_errors=True)
        if posterior is not None:
            fit_posterior(tomograms, folder, posterior, device=device, resume=resume, progress=progress)
    return folder.path


def _check_shares(settings: FitSettings, count: int) -> None:
    """Refuse what several processes cannot share out."""
    if settings.batch_size < count:
        problem = f"{settings.batch_size} patches a step for {count} processes"
        raise InputError("batch_size", problem, f"give --set batch_size={count} or more")
    if count > 1 and settings.prior != "none":
        raise InputError("--prior", "is for one process", "start one, or fit without a prior")
    if count > 1 and settings.latent_prior != "none":
        raise InputError("latent_prior", "is for one process", "start one, or fit without a prior")


def _follow(
    run_path: Path,
    tomograms: list[Tomogram],
    settings: FitSettings,
    device: torch.device,
    init: Any,
    *,
    resume: bool,
    progress: Progress,
) -> None:
    """Take part in a fit that the first process records; nothing is left behind."""
    own = run_path / "scratch"
    own.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=own, ignore_cleanup_errors=True) as scratch:
        loop = prepare(tomograms, settings, device=device, scratch=Path(scratch), init=init).loop
        if resume:
            _resume(loop, run_path)
        run(
            loop, on_step=lambda _: None, on_evaluation=lambda _: None,
            on_time=lambda: check_together(progress, device),
        )  # fmt: skip


def as_items(
    inputs: Sequence[TomogramInput | Path | str] | TomogramInput | Path | str, **keywords: Any
) -> list[TomogramInput]:
    """Resolve paths, or take inputs that were resolved already; keywords of `resolve_inputs`."""
    paths, resolved = split_inputs(inputs)
    return resolved or resolve_inputs(paths, **keywords)


def _say_places(session: Session, progress: Progress) -> None:
    """How much of a tomogram patches are taken from, where that is not all."""
    for source in session.feed.pool.sources:
        if source.places is not None:
            share = source.volume / math.prod(source.working_shape_zyx)
            progress.message(f"{source.name}: patches are taken from {100 * share:.0f} % of it")


def _warn_singles(tomograms: list[Tomogram], progress: Progress) -> None:
    single = [t.name for t in tomograms if t.single is not None]
    if single:
        progress.message(
            f"{', '.join(single)}: a single volume, no halves. Its noise is estimated from its quietest "
            "blocks, so denoising is weaker and held-out checks against the other half are impossible; "
            "give --even and --odd if you have them."
        )


def _resume(loop: Loop, folder: Path) -> None:
    checkpoints = folder / "checkpoints"
    if any(checkpoints.glob("*.ckpt")):  # stopped before the first one: start again
        loop.load_state(load_latest(checkpoints))
