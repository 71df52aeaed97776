"""Fit a member of the 2-D family: images in, a run folder with result, figures and weights out."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cryoaae.autoencoding.build import build
from cryoaae.autoencoding.diagnostics import Diagnostics
from cryoaae.autoencoding.draw import draw_run, read_run
from cryoaae.autoencoding.evaluate import evaluate_member
from cryoaae.autoencoding.feed import ImageFeed, Labelled
from cryoaae.autoencoding.judge import Judge
from cryoaae.autoencoding.settings import WITH_CLASSES, AutoencodingSettings
from cryoaae.draws import Draws
from cryoaae.errors import InputError, InterruptedRunError
from cryoaae.fitting.loop import Loop
from cryoaae.io.atomic import write_text
from cryoaae.io.checkpoint import load_latest, save_rotating
from cryoaae.io.images import Images, ImageSplit, choose_labelled, load_images
from cryoaae.io.weights import save_weights
from cryoaae.models.autoencoder import Autoencoder
from cryoaae.priors.prior import UNLABELLED
from cryoaae.runs.folder import RunFolder
from cryoaae.runs.progress import NullProgress, Progress
from cryoaae.runs.resources import choose_device, keep_freed_memory, set_threads

WATCHED = 2000
# Variants whose decoder turns draws of the prior into images without more ado.
GENERATIVE = ("aae", "vae", "wae", "sinkhorn")


@dataclass(frozen=True)
class EpochSchedule:
    """What the loop reads of the settings, with epochs turned into steps."""

    learning_rate: float
    warm_up_steps: int
    ema_decay: float
    steps: int
    evaluations: int
    minutes: float | None = None
    patience: int = 1


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
    folder, config = Path(run_path), _config(data, settings, stack_seeds)
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
    config = _config(data, settings, stack_seeds)
    RunFolder.check(Path(run_path), config, inputs=_files(data), overwrite=overwrite, resume=resume)
    if beside is not None:
        if beside.resolve() == Path(run_path).resolve():
            raise InputError("--beside", "is the run's own folder", "name another run")
        read_run(beside, str(data))
    return FamilyRun(split, settings, stack_seeds, device)


def _config(data: Path | str, settings: AutoencodingSettings, stack_seeds: int | None) -> dict[str, Any]:
    return {**settings.model_dump(mode="json"), "stack_seeds": stack_seeds, "data": str(data)}


def _files(data: Path | str) -> list[Path]:
    return [] if str(data) == "digits" else sorted(p for p in Path(data).iterdir() if "ubyte" in p.name)


class FamilyRun:
    """A fit ready to run: model, feed and loop of one model or of a stack.

    Parameters
    ----------
    data : ImageSplit
    settings : AutoencodingSettings
    stack_seeds : int or None
    device : torch.device
    dtype : torch.dtype
    """

    def __init__(
        self,
        data: ImageSplit,
        settings: AutoencodingSettings,
        stack_seeds: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.settings = settings
        self.seeds: int | list[int] = settings.seed
        if stack_seeds is not None:
            self.seeds = list(range(settings.seed, settings.seed + stack_seeds))
        parts = (data.train, data.validation, data.test)
        self.data = ImageSplit(*(Images(p.pixels.to(device, dtype), p.labels.to(device), p.shape) for p in parts))
        self.labels = data.classes
        # Weights and labelled examples are drawn on the CPU, so that they are the same on every device.
        first = Draws.seeded(self.seeds, dtype=dtype)
        model = build(settings, data.train.shape, self.labels, first).to(device=device, dtype=dtype)
        draws = Draws.seeded(self.seeds, device=device, dtype=dtype)
        self.feed = ImageFeed(
            self.data.train.pixels, draws, known=self._known(first), labelled=self._labelled(first),
            batch_size=settings.batch_size, labelled_batch_size=settings.labelled_batch_size,
        )  # fmt: skip
        steps = max(1, round(settings.epochs * self.feed.steps_per_epoch))
        self.loop = Loop(
            model, self.feed,
            EpochSchedule(
                settings.learning_rate, settings.warm_up_steps, settings.ema_decay, steps, settings.evaluations
            ),
        )  # fmt: skip

    def _choose(self, draws: Draws) -> Tensor:
        """Indices of the labelled examples of each member, equally many of each label."""
        count = self.settings.labels or 0
        if count >= len(self.data.train.labels):
            every = torch.arange(len(self.data.train.labels), device=self.data.train.labels.device)
            return every.expand(*draws.stack, -1)
        if count % self.labels or not count:
            raise InputError("--labels", f"{count} is no multiple of {self.labels} classes", "give 100 or 1000")
        labels, each = self.data.train.labels.cpu(), count // self.labels
        return draws.each(lambda g: choose_labelled(labels, each, g)).to(self.data.train.labels.device)

    def _labelled(self, draws: Draws) -> Labelled | None:
        if self.settings.variant not in WITH_CLASSES or not self.settings.labels:
            return None
        chosen = self._choose(draws)
        return Labelled(chosen, self.data.train.labels[chosen])

    def _known(self, draws: Draws) -> Tensor | None:
        """Labels told beside the images, (*stack, n)."""
        every = self.data.train.labels.expand(*draws.stack, -1)
        if self.settings.variant == "supervised":
            return every
        if self.settings.variant != "labelled":
            return None
        if self.settings.labels is None:
            return every
        chosen = self._choose(draws)
        return torch.full_like(every, UNLABELLED).scatter(-1, chosen, every.gather(-1, chosen))

    def member(self, index: int) -> Autoencoder:
        """Averaged model of one member, without the stack."""
        average: Autoencoder = self.loop.average
        if isinstance(self.seeds, int):
            return average
        device, dtype = self.data.train.pixels.device, self.data.train.pixels.dtype
        alone = build(self.settings, self.data.train.shape, self.labels, Draws.seeded(0, dtype=dtype))
        alone.load_state_dict({k: v[index] for k, v in average.state_dict().items()})
        return alone.to(device=device, dtype=dtype)

    @property
    def told_classes(self) -> bool:
        """Whether the model was told what its classes are: all labels, or those of some examples."""
        settings = self.settings
        return settings.variant == "supervised" or (settings.variant in WITH_CLASSES and bool(settings.labels))

    def all_seeds(self) -> list[int]:
        """Seed of each member."""
        return [self.seeds] if isinstance(self.seeds, int) else self.seeds


class Recorder:
    """Runs the loop and writes what it does: readings, checkpoints, result, figures, weights."""

    def __init__(
        self, run: FamilyRun, folder: Path, progress: Progress, *, resume: bool, beside: Path | None = None
    ) -> None:
        self.beside = beside
        self.run, self.loop, self.folder, self.progress = run, run.loop, folder, progress
        validation = run.data.validation
        self.diagnostics = Diagnostics(validation.pixels[:WATCHED], validation.labels[:WATCHED], run.seeds)
        self.cpu_seconds, self.started = 0.0, time.process_time()
        self.last_checkpoint = time.monotonic()
        if resume and any((folder / "checkpoints").glob("*.ckpt")):
            state = load_latest(folder / "checkpoints")
            self.loop.load_state(state["loop"])
            self.diagnostics.load_state(state["readings"])
            self.cpu_seconds = float(state["cpu_seconds"])

    def fit(self) -> None:
        """Run to the end, then score and draw."""
        settings, budget = self.run.settings, self.loop.budget
        self.progress.start("fitting", 1.0 - budget.fraction, "fit")
        shown = budget.fraction
        try:
            while self.loop.finished() is None:
                if budget.fraction >= len(self.diagnostics.readings) / settings.evaluations:
                    self._read()
                terms = self.loop.step()
                self.progress.advance(budget.fraction - shown, step=budget.step, loss=sum(terms.values()))
                shown = budget.fraction
                if time.monotonic() - self.last_checkpoint >= settings.checkpoint_every_seconds:
                    self.checkpoint()
                self.progress.check()
        except InterruptedRunError:
            self.checkpoint()
            self.progress.message(f"stopped at step {budget.step}; go on with --resume")
            raise
        self._read()
        self.checkpoint()
        self.progress.finish()
        self._finish()

    def _read(self) -> None:
        """Take a reading; neither its time nor its draws belong to the fit."""
        self._take_time()
        budget, readings = self.loop.budget, self.diagnostics.readings
        if not readings or readings[-1].step < budget.step:  # else taken up again where it was read last
            self.diagnostics.read(self.loop.average, budget.step, budget.fraction, self.cpu_seconds)
            write_text(self.folder / "metrics.csv", self._table())
            self.diagnostics.check()
            self.loop.keep_good()
        self.started = time.process_time()

    def _take_time(self) -> None:
        now = time.process_time()
        self.cpu_seconds, self.started = self.cpu_seconds + now - self.started, now

    def checkpoint(self) -> None:
        """Write the state of the run; the one before is kept."""
        self._take_time()
        state = {
            "loop": self.loop.state(),
            "readings": self.diagnostics.state(),
            "cpu_seconds": self.cpu_seconds,
        }
        save_rotating(self.folder / "checkpoints", state)
        self.last_checkpoint = time.monotonic()

    def _finish(self) -> None:
        settings, run = self.run.settings, self.run
        self.progress.start("scoring", float(len(run.all_seeds())), "model")
        judge = Judge(run.data) if run.told_classes else None
        generative = settings.variant in GENERATIVE

        members = []
        for index, seed in enumerate(run.all_seeds()):
            members.append(evaluate_member(run.member(index), run.data, seed, parzen=generative, judge=judge))
            self.progress.advance()
        self.progress.finish()
        weights = dict(self.loop.average.state_dict())
        facts = {"settings": settings.model_dump(mode="json"), "shape": list(run.data.train.shape)}
        save_weights(self.folder / "model.safetensors", weights, {**facts, "seeds": run.all_seeds()})
        result = self.result(members)
        write_text(self.folder / "result.json", json.dumps(result, indent=2) + "\n")
        draw_run(run, self.diagnostics, self.folder, self.beside)

    def result(self, members: Sequence[dict[str, float]]) -> dict[str, Any]:
        """What `result.json` holds: metrics, means over the seeds, and each seed's own."""
        seeds = self.run.all_seeds()
        means = {name: sum(m[name] for m in members) / len(members) for name in members[0]}
        return {
            "variant": self.run.settings.variant,
            "metrics": means,
            "seeds": seeds,
            "failed_seeds": {str(seeds[member]): why for member, why in self.diagnostics.failed().items()},
            "each_seed": list(members),
            "steps": self.loop.budget.step,
            "cpu_seconds": round(self.cpu_seconds, 1),
            "seconds": round(self.loop.budget.seconds, 1),
        }

    def _table(self) -> str:
        """Readings as CSV: a row a reading, a column a diagnostic and seed."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        names, seeds = list(self.diagnostics.readings[0].values), self.run.all_seeds()
        writer.writerow(["step", "cpu_seconds", *(f"{name}_seed{seed}" for name in names for seed in seeds)])
        for reading in self.diagnostics.readings:
            values = (f"{v:.6g}" for name in names for v in reading.values[name])
            writer.writerow([reading.step, f"{reading.cpu_seconds:.1f}", *values])
        return text.getvalue()
