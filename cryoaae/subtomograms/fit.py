"""Fits the volumetric autoencoder to the particles of stores: readings, checkpoints and weights in a run folder."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor

from cryoaae.draws import Draws
from cryoaae.errors import InterruptedRunError
from cryoaae.fitting.loop import Loop
from cryoaae.io.atomic import write_text
from cryoaae.io.checkpoint import load_latest, save_rotating
from cryoaae.models.volumetric import VolumetricAutoencoder
from cryoaae.runs.progress import Progress
from cryoaae.subtomograms.feed import ParticleFeed
from cryoaae.subtomograms.labels import Labels
from cryoaae.subtomograms.model_files import FittedModel, build_model
from cryoaae.subtomograms.settings import ClusterSettings
from cryoaae.subtomograms.standard import Particles
from cryoaae.subtomograms.watch import Watch

# Particles of the fixed batch that is watched, which is held in memory: fewer of boxes larger than this.
WATCHED, WATCHED_BOX, LEAST_WATCHED = 128, 32, 16


class VolumetricFit:
    """A fit ready to run.

    Parameters
    ----------
    particles : Particles
    settings : ClusterSettings
    labels : Labels
    device : torch.device
    averages : (classes, z, y, x), optional
        Whitened averages of the classes, which the decoder adds to.
    """

    def __init__(
        self,
        particles: Particles,
        settings: ClusterSettings,
        labels: Labels,
        device: torch.device | str = "cpu",
        averages: Tensor | None = None,
    ) -> None:
        self.particles, self.settings, self.labels = particles, settings, labels
        # Weights are drawn on the CPU, so that they are the same on every device.
        model = build_model(settings, particles.standard, Draws.seeded(settings.seed), averages).to(device)
        self.feed = self._feed(model, settings.seed, settings.batch_size, device)
        self.loop = Loop(model, self.feed, settings)
        count = max(LEAST_WATCHED, int(WATCHED * min(1.0, (WATCHED_BOX / particles.box) ** 3)))
        watched = self._feed(model, settings.seed + 1, count, device)
        self.watch = Watch(watched.batch(), settings.seed)

    def _feed(
        self, model: VolumetricAutoencoder, seed: int, batch_size: int, device: torch.device | str
    ) -> ParticleFeed:
        settings = self.settings
        return ParticleFeed(
            self.particles, model, Draws.seeded(seed, device=device), self.labels.classes,
            canonical=settings.frame == "reference", shift=settings.shift, batch_size=batch_size,
            labelled_batch_size=settings.labelled_batch_size, seed=seed,
            measured_again=settings.structure_batch_size if settings.structure_weight > 0 else 0,
        )  # fmt: skip

    def run(self, folder: Path, progress: Progress, *, resume: bool = False) -> FittedModel:
        """Fit to the end.

        Raises
        ------
        InterruptedRunError, FittingDivergedError
        """
        if resume and any((folder / "checkpoints").glob("*.ckpt")):
            state = load_latest(folder / "checkpoints")
            self.loop.load_state(state["loop"])
            self.watch.rows = state["readings"]
        try:
            self._steps(folder, progress)
        except InterruptedRunError:
            self._checkpoint(folder)
            progress.message(f"stopped at step {self.loop.budget.step}; go on with --resume")
            raise
        self._checkpoint(folder)
        return FittedModel(self.loop.average.eval(), self.particles.standard, self.settings, self.labels.names)

    def _steps(self, folder: Path, progress: Progress) -> None:
        loop, budget = self.loop, self.loop.budget
        progress.start("fitting", 1.0 - budget.fraction, "fit")
        shown, last_checkpoint = budget.fraction, time.monotonic()
        while loop.finished() is None:
            if budget.fraction >= len(self.watch.rows) / self.settings.evaluations:
                self._read(folder)
            terms = loop.step()
            progress.advance(budget.fraction - shown, step=budget.step, loss=sum(terms.values()))
            shown = budget.fraction
            if time.monotonic() - last_checkpoint >= self.settings.checkpoint_every_seconds:
                self._checkpoint(folder)
                last_checkpoint = time.monotonic()
            progress.check()
        self._read(folder)
        progress.finish()

    def _read(self, folder: Path) -> None:
        budget = self.loop.budget
        if not self.watch.rows or self.watch.rows[-1]["step"] < budget.step:
            self.watch.read(self.loop.average, budget.step, budget.seconds)
            write_text(folder / "metrics.csv", self.watch.table())
            self.loop.keep_good()

    def _checkpoint(self, folder: Path) -> None:
        save_rotating(folder / "checkpoints", {"loop": self.loop.state(), "readings": self.watch.state()})
