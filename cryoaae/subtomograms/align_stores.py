"""Aligns the particles of stores: reads them, goes on where it was stopped, gives poses in the stores' own terms."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoaae.errors import InterruptedRunError
from cryoaae.io.checkpoint import load_latest, save_rotating
from cryoaae.io.store import SubtomogramStore
from cryoaae.runs.progress import Progress
from cryoaae.runs.resources import preflight
from cryoaae.subtomograms.alignment_settings import AlignmentSettings
from cryoaae.subtomograms.band import BandedParticles, band_of_stores, particles_of_stores
from cryoaae.subtomograms.effort import Effort, multiplications_a_second
from cryoaae.subtomograms.labels import Labels
from cryoaae.subtomograms.mixture import Mixture, Stages
from cryoaae.subtomograms.multi_reference import Aligner, Alignment, tasks
from cryoaae.subtomograms.pose_agreement import VIEWS, sampled, turned_copies
from cryoaae.subtomograms.standard import ParticlePoses, Particles, measure_standard

# Under the run folder; the checkpoints of an autoencoder lie beside it.
CHECKPOINTS = Path("checkpoints") / "alignment"

# The poses of copies are the same for every run.
COPY_SEED = 0


@dataclass(frozen=True)
class Cost:
    """What an alignment will take."""

    minutes: float
    memory_gb: float


@dataclass(frozen=True)
class AlignedStores:
    """Particles of stores, aligned.

    Parameters
    ----------
    alignment : Alignment
    poses : ParticlePoses
    mixture : Mixture
    stages : Stages
    order : (k,) int64
        The mixture's number of each class.
    names : tuple of str
        Of the classes; by default their numbers from 1.
    mirrored : bool or None
        Whether particles were assigned to mirror images of references; None: they were aligned by themselves.
    """

    alignment: Alignment
    poses: ParticlePoses
    mixture: Mixture
    stages: Stages
    order: Tensor
    names: tuple[str, ...] = ()
    mirrored: bool | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class."""
        return self.names or tuple(str(k + 1) for k in range(len(self.order)))

    @property
    def features(self) -> Tensor:
        """Log-likelihood of each particle under each class in any pose, in standard deviations, (n, k) float32."""
        evidence = self.alignment.evidence
        return ((evidence - evidence.mean(dim=0)) / evidence.std(dim=0).clamp(min=1e-6)).float()

    @property
    def columns(self) -> dict[str, NDArray[np.generic]]:
        """What ``codes.npz`` holds of it where there is no autoencoder, and so no style."""
        probabilities = self.alignment.probabilities.float().numpy()
        return {
            "class_probabilities": probabilities, "features": self.features.numpy(),
            "style": np.zeros((len(probabilities), 0), np.float32),
        }  # fmt: skip

    def particles(self, stores: Sequence[SubtomogramStore]) -> Particles:
        """The particles of the stores in the poses found, on the grid that they were aligned on."""
        grid = self.mixture.particles.band.box
        return Particles(stores, measure_standard(stores, grid - grid % 2), self.poses)

    def classified(self, particles: BandedParticles) -> Tensor:
        """Class probabilities (n, k) of other particles of the same band, in any pose."""
        return shares(self.mixture.class_probabilities(particles, self.stages)[:, self.order]).cpu()


def expected_cost(stores: Sequence[SubtomogramStore], settings: AlignmentSettings) -> Cost:
    """Minutes on this machine, whose speed is measured, and memory; nothing is read but the stores' tables."""
    effort = _effort(stores, settings)
    operations = sum(effort.of_task(name) for name, _ in tasks(settings)) + effort.fine
    return Cost(operations / multiplications_a_second() / 60, effort.memory_bytes / 1e9)


def _effort(stores: Sequence[SubtomogramStore], settings: AlignmentSettings) -> Effort:
    grid = settings.grid(stores[0].box)
    return Effort.expected(sum(map(len, stores)), band_of_stores(stores, settings.freq_max, grid), settings)


def align_stores(
    stores: Sequence[SubtomogramStore],
    settings: AlignmentSettings,
    folder: Path,
    *,
    seed: int,
    progress: Progress,
    resume: bool = False,
    checkpoint_every_seconds: float = 60.0,
    labels: Labels | None = None,
    device: torch.device | str = "cpu",
) -> AlignedStores:
    """Align all particles, keeping what is needed to go on under a run folder.

    Classes come by falling size, none without particles; those that are known have their label for a name.

    Raises
    ------
    InputError, InterruptedRunError, ResourceError
    """
    preflight(_effort(stores, settings).memory_bytes, 0.0, folder)
    progress.start("reading particles", None, "")
    grid = settings.grid(stores[0].box)
    particles = particles_of_stores(stores, settings.freq_max, working_box=grid, device=device)
    known = labels if labels is not None and labels.names else None
    generator = torch.Generator().manual_seed(seed)
    aligner = Aligner(particles, settings, generator, None if known is None else known.classes)
    if resume and any((folder / CHECKPOINTS).glob("*.ckpt")):
        aligner.load_state(load_latest(folder / CHECKPOINTS))
    saved = time.monotonic()

    def after_task() -> None:
        nonlocal saved
        if time.monotonic() - saved >= checkpoint_every_seconds or aligner.done == len(aligner.tasks):
            save_rotating(folder / CHECKPOINTS, aligner.state())
            saved = time.monotonic()

    try:
        found = aligner.run(progress, after_task)
    except InterruptedRunError:
        if aligner.done:
            save_rotating(folder / CHECKPOINTS, aligner.state())
        progress.message(f"stopped after task {aligner.done} of {len(aligner.tasks)}; go on with --resume")
        raise
    order = by_size(found.classes)
    poses = ParticlePoses(found.rotations.cpu(), found.shifts_zyx.cpu() * (stores[0].box / grid))
    return AlignedStores(
        only_classes(found, order), poses, aligner.fitted, aligner.stages, order,
        () if known is None else known.names_of(aligner.fitted.owners[order]),
    )  # fmt: skip


def seen_again(aligned: AlignedStores, particles: Particles, progress: Progress) -> NDArray[np.int64]:
    """Class of some particles as they are, and as copies in other poses through other wedges, (views, m).

    Parameters
    ----------
    aligned : AlignedStores
    particles : Particles
        The same, on a grid that reaches beyond the band.
    progress : Progress

    Raises
    ------
    InterruptedRunError
    """
    rows = sampled(len(particles))
    generator = torch.Generator().manual_seed(COPY_SEED)
    progress.start("turning copies", float(VIEWS * len(rows)), "particle")
    found = [aligned.alignment.classes[rows]]
    for _ in range(VIEWS):
        copies = turned_copies(particles, aligned.mixture.particles, rows, generator, progress)
        found.append(aligned.classified(copies).argmax(dim=1))
    progress.finish()
    return torch.stack(found).numpy()


def by_size(classes: Tensor) -> Tensor:
    """Classes in the order of their particles (n,), the largest first, without those that no particle is of."""
    sizes = torch.bincount(classes)
    order = torch.argsort(sizes, descending=True, stable=True)
    return order[sizes[order] > 0]


def only_classes(found: Alignment, order: Tensor) -> Alignment:
    """The same, on the CPU, with some of the classes in this order; every particle is of one of them."""
    number = torch.full((len(found.proportions),), -1, device=order.device)
    number[order] = torch.arange(len(order), device=order.device)
    return replace(
        found, classes=number[found.classes].cpu(), probabilities=shares(found.probabilities[:, order]).cpu(),
        rotations=found.rotations.cpu(), shifts_zyx=found.shifts_zyx.cpu(), references=found.references[order].cpu(),
        proportions=shares(found.proportions[order]).cpu(), evidence=found.evidence[:, order].cpu(),
    )  # fmt: skip


def shares(values: Tensor) -> Tensor:
    """Values (..., k) over their sum."""
    return values / values.sum(dim=-1, keepdim=True)
