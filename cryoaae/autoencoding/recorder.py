"""Runs a fit of the family and writes what it does: readings, checkpoints, result, figures, weights."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryoaae.autoencoding.diagnostics import Diagnostics
from cryoaae.autoencoding.draw import draw_run
from cryoaae.autoencoding.evaluate import evaluate_member
from cryoaae.autoencoding.family import FamilyRun
from cryoaae.autoencoding.judge import Judge
from cryoaae.draws import Draws
from cryoaae.errors import InterruptedRunError
from cryoaae.io.atomic import write_text
from cryoaae.io.checkpoint import load_latest, save_rotating
from cryoaae.io.weights import save_weights
from cryoaae.runs.progress import Progress

WATCHED = 2000
# Variants whose decoder turns draws of the prior into images without more ado.
GENERATIVE = ("aae", "vae", "wae", "sinkhorn")
# The presets' epochs are for tens of thousands of images; of a thousand they are soon over.
FEW_STEPS = 400


class Recorder:
    """Keeps the record of a fit.

    Parameters
    ----------
    run : FamilyRun
    folder : path
        Where everything is written.
    progress : Progress
    resume : bool
        Go on from the last checkpoint in the folder.
    beside : path, optional
        Another run to be shown on the same page.
    """

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
        self._say_how_few_steps()
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

    def _say_how_few_steps(self) -> None:
        per_epoch, epochs = self.run.feed.steps_per_epoch, self.run.settings.epochs
        if (steps := round(per_epoch * epochs)) < FEW_STEPS:
            self.progress.message(
                f"{epochs:g} epochs of {len(self.run.data.train):,} images are only {steps} steps; "
                f"--epochs {-(-FEW_STEPS // per_epoch)} would be {FEW_STEPS}"
            )

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
        self._settle()
        self.progress.start("scoring", float(len(run.all_seeds())), "model")
        judge = Judge(run.data) if run.told_classes else None
        generative = settings.variant in GENERATIVE

        members = []
        for index, seed in enumerate(run.all_seeds()):
            members.append(evaluate_member(run.member(index), run.data, seed, parzen=generative, judge=judge))
            self.progress.advance()
        self.progress.finish()
        weights = dict(self.loop.average.state_dict())
        facts = {
            "settings": settings.model_dump(mode="json"), "shape": list(run.data.train.shape), "spread": run.spread,
            "seeds": run.all_seeds(),
        }  # fmt: skip
        save_weights(self.folder / "model.safetensors", weights, facts)
        result = self.result(members)
        write_text(self.folder / "result.json", json.dumps(result, indent=2) + "\n")
        draw_run(run, self.diagnostics, self.folder, self.beside)

    def _settle(self) -> None:
        """The average's last part of the fit; a run taken up again when it was done settles to the same."""
        run, average = self.run, self.loop.average
        pixels = run.data.train.pixels
        draws = Draws.seeded(run.seeds, device=pixels.device, dtype=pixels.dtype)
        self.started = time.process_time()
        average.settle(pixels, draws)
        self._take_time()

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
