"""Fit a restorer on the user's own tomograms: inputs in, a run folder out."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from cryoaae.errors import FittingDivergedError, InputError, InterruptedRunError
from cryoaae.fitting.code_report import report_codes
from cryoaae.fitting.loop import Loop, run
from cryoaae.fitting.pair_feed import BLOCK_MARGIN
from cryoaae.fitting.presence import learn_presence
from cryoaae.fitting.session import Session, check_start, check_tomogram, prepare
from cryoaae.fitting.settings import FitSettings
from cryoaae.io.atomic import write_bytes, write_text
from cryoaae.io.checkpoint import load_latest, save_rotating
from cryoaae.io.project import Tomogram, TomogramInput, open_tomogram, pairs_table, resolve_inputs, split_inputs
from cryoaae.matching.frozen import CODES_FILE as CODES
from cryoaae.matching.frozen import FILE as ENERGY
from cryoaae.matching.frozen import save_energy
from cryoaae.models.general import load_any
from cryoaae.models.restorer import Restorer
from cryoaae.models.structure_prior import StructurePrior
from cryoaae.runs.folder import RunFolder
from cryoaae.runs.progress import NullProgress, Progress
from cryoaae.runs.ranks import check_together, joined, ranks, wait_for_all
from cryoaae.runs.resources import choose_device, keep_freed_memory, set_threads

LOSS_SMOOTHING = 0.02


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
    settings: FitSettings | None = None,
    init: Path | str | None = None,
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
    even, odd, tilts, tilt_range, tilt_axis, flip_tilts
        As on the command line; see `io.project.resolve_inputs`.
    settings : FitSettings, optional
        Default: the `fast` preset.
    init : path, optional
        Run or weights to start from instead of from the spectrum; ``general``: the restorer that comes along.
    resume : bool
        Go on with an interrupted run; bit-identical on CPU when limited by steps.
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
            inputs, Path(run_path), chosen, settings, init=init, resume=resume, overwrite=overwrite, progress=progress,
            geometry={
                "even": even, "odd": odd, "tilts": tilts, "tilt_range": tilt_range, "tilt_axis": tilt_axis,
                "flip_tilts": flip_tilts,
            },
            opening={
                "voxel_size_angstrom": voxel_size_angstrom, "lenient": lenient, "fill_nonfinite": fill_nonfinite,
            },
        )  # fmt: skip


def _fit_here(
    inputs: Any,
    run_path: Path,
    device: torch.device,
    settings: FitSettings,
    *,
    init: Path | str | None,
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
    paths = [p for item in items for p in item.paths]
    config = asdict(settings)
    if not resume and rank == 0:  # else the folder is compared with the inputs when it is taken up again
        RunFolder.check(run_path, config, overwrite=overwrite)
    # Before the folder is made, or an old run cleared: a bad input must cost nothing.
    tomograms = [open_tomogram(item, **opening) for item in items]
    for tomogram in tomograms:
        check_tomogram(tomogram, settings)
    start = None if init is None and settings.start == "spectrum" else load_any(init)
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
        progress.start("measuring spectra, preparing patches", None, "")
        session = prepare(tomograms, settings, device=device, scratch=folder.path / "scratch", init=start)
        progress.finish()
        if resume:
            _resume(session.loop, folder.path)
        Recorder(session, folder, settings, progress, device).fit()
        shutil.rmtree(folder.path / "scratch", ignore_errors=True)
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


class Recorder:
    """Runs the loop and writes what it does: progress, metrics, checkpoints, previews, weights."""

    def __init__(
        self, session: Session, folder: RunFolder, settings: FitSettings, progress: Progress, device: torch.device
    ) -> None:
        self.device = device
        self.session, self.loop, self.folder = session, session.loop, folder
        self.settings, self.progress = settings, progress
        self.loss: float | None = None
        self.held_out: float | None = None
        self.shown = 0.0  # share of the budget that the progress bar shows
        self.last_checkpoint = self.last_preview = time.monotonic()
        self.metrics = folder.path / "metrics.csv"
        self._trim_metrics()

    def fit(self) -> None:
        """Run to the end; write the weights that did best on the held-out boxes."""
        bin_, voxel = self.session.restorer.spec.working_bin, self.session.voxel_size_angstrom
        self.progress.message(
            f"working grid: {bin_ * voxel:.1f} A voxels (binned by {bin_}), "
            f"finest detail {2 * bin_ * voxel:.0f} A; limit {self._limit()}"
        )
        self.progress.start("fitting", 1.0, "fit")
        self._advance()
        try:
            reason = run(
                self.loop, on_step=self._on_step, on_evaluation=self._on_evaluation, on_time=self._on_time
            )
        except InterruptedRunError:
            self.checkpoint()
            self.progress.message(f"stopped at step {self.loop.budget.step}; go on with --resume")
            raise
        except FittingDivergedError:
            self.checkpoint()  # the loop has gone back to its last good state
            raise
        self.progress.finish()
        self.progress.message(f"stopped: {reason}, after {self.loop.budget.step} steps")
        self.checkpoint()
        self.preview()
        if self.loop.held_out:
            self._draw_losses()
        restorer = self.session.best()
        if self.settings.presence and restorer.presence is not None:
            self.progress.message("learning to tell structure from noise")
            learn_presence(restorer, self.session.feed.pool, margin=BLOCK_MARGIN, seed=self.settings.seed)
        if isinstance(self.loop.model, StructurePrior):
            self.loop.model.save_energy(self.folder.path / ENERGY)
        if restorer.code_dim:
            self._report_codes(restorer)
        restorer.save(self.folder.path / "model.safetensors")

    def _report_codes(self, restorer: Restorer) -> None:
        """Say what the codes are worth, and keep how those of real patches are distributed."""
        distance, found = report_codes(restorer, self.session.feed, self.settings)
        write_text(self.folder.path / "codes.json", json.dumps(found) + "\n")
        if distance is not None:
            sizes = {"patch": self.settings.prior_patch, "block": self.settings.patch_size}
            save_energy(self.folder.path / CODES, distance, **sizes)
        words = "code unused: " if found["unused"] else ""
        self.progress.message(f"{words}the output changes by {found['use']:.1%} when patches exchange their codes")

    def _limit(self) -> str:
        steps, minutes = self.settings.steps, self.settings.minutes
        return f"{steps} steps" if steps is not None else f"{minutes:g} minutes"

    # -- callbacks -----------------------------------------------------------------------------------

    def _advance(self) -> None:
        fraction = self.loop.budget.fraction
        facts: dict[str, Any] = {"step": self.loop.budget.step}
        if self.loss is not None:
            facts["loss"] = f"{self.loss:.4f}"
        if self.held_out is not None:
            facts["held_out"] = f"{self.held_out:.4f}"
        if self.loop.budget.seconds > 0:
            voxels = self.loop.budget.step * self.settings.batch_size * self.settings.patch_size**3
            facts["Mvoxels_per_s"] = f"{voxels / self.loop.budget.seconds / 1e6:.2f}"
        self.progress.advance(fraction - self.shown, **facts)
        self.shown = fraction

    def _on_step(self, record: dict[str, float]) -> None:
        if "pairs" in record:  # not a step that was skipped
            loss = record["pairs"]
            self.loss = loss if self.loss is None else self.loss + LOSS_SMOOTHING * (loss - self.loss)
        self._advance()

    def _on_evaluation(self, loss: float) -> None:
        self.held_out = loss
        new, figures = not self.metrics.exists(), self.loop.figures()
        with self.metrics.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["step", "seconds", "loss", "held_out_loss", *figures])
            fitted = "" if self.loss is None else f"{self.loss:.6f}"
            extra = (f"{value:.4f}" for value in figures.values())
            writer.writerow([self.loop.budget.step, f"{self.loop.budget.seconds:.1f}", fitted, f"{loss:.6f}", *extra])

    def _on_time(self) -> None:
        now = time.monotonic()
        if now - self.last_preview >= self.settings.preview_every_seconds:
            self.preview()
            self.last_preview = time.monotonic()
        if now - self.last_checkpoint >= self.settings.checkpoint_every_seconds:
            self.checkpoint()
            self.last_checkpoint = time.monotonic()
        check_together(self.progress, self.device)

    # -- files ---------------------------------------------------------------------------------------

    def _trim_metrics(self) -> None:
        """Drop rows later than the step we resume from: they will be written again."""
        if not self.metrics.exists():
            return
        with self.metrics.open(newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
        kept = [r for r in rows if r and int(r[0]) < self.loop.budget.step]
        with self.metrics.open("w", newline="") as file:
            csv.writer(file).writerows([header, *kept] if header else [])

    def _draw_losses(self) -> None:
        from cryoaae.reports.progress_figures import loss_figure
        from cryoaae.reports.style import png

        with self.metrics.open(newline="") as file:
            rows = list(csv.DictReader(file))
        steps = [float(row["step"]) for row in rows]
        curves = {
            title: [float(row[column] or "nan") for row in rows]
            for title, column in (("fitted", "loss"), ("kept out", "held_out_loss"))
        }
        write_bytes(self.folder.path / "loss.png", png(loss_figure(steps, curves)))

    def checkpoint(self) -> None:
        """Write the state of the loop; the one before is kept."""
        save_rotating(self.folder.path / "checkpoints", self.loop.state())

    def preview(self) -> None:
        """Draw one held-out patch: input, estimate and what the other half measured."""
        from cryoaae.reports.figures import slices_figure
        from cryoaae.reports.style import png

        if not self.loop.held_out:
            return
        batch = self.loop.held_out[0]
        with torch.no_grad():
            estimate = self.loop.average.restorer(batch.inputs[:1])
        target = self.folder.path / "previews" / f"step_{self.loop.budget.step:06d}.png"
        panels = [("input", batch.inputs), ("restored", estimate), ("other half", batch.targets)]
        voxel = self.session.restorer.spec.working_bin * self.session.voxel_size_angstrom
        arrays = [(title, tensor[0, 0].cpu().numpy()) for title, tensor in panels]
        target.parent.mkdir(exist_ok=True)
        write_bytes(target, png(slices_figure(arrays, voxel)))
