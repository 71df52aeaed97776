"""Multi-reference alignment: classes, poses and averages of subtomograms at once, without labels or templates.

Expectation-maximisation for  x_i = H_i P_R t_k e^{-2 pi i q d} + noise:  `pose_search` says which reference k, turned
by R and moved by d, each particle may be; the M-step re-estimates noise, proportions and, with one monotone step,
references (`references`). Proportions are learned, so that classes need not be of one size.

1. Seeds: single particles, the next one drawn with odds of what those so far leave unexplained (k-means++ with poses).
2. Coarse: low frequencies, a coarse grid of rotations, temperature falling to 1; more references than classes.
3. Fine: the whole band and the fine grid, near the likeliest coarse poses only.
4. Merge: references that explain each other's particles as well as their own, judged on held-out halves, become one
   (`merging`), until as many are left as asked for, or as are told apart; then fine again.

Each of these is done task by task, and between two tasks everything needed to go on is in `Aligner.state`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cryoaae.errors import InputError
from cryoaae.runs.progress import NullProgress, Progress
from cryoaae.subtomograms.alignment_settings import AlignmentSettings
from cryoaae.subtomograms.band import BandedParticles
from cryoaae.subtomograms.effort import Effort
from cryoaae.subtomograms.held_out import held_out_evidence
from cryoaae.subtomograms.merging import merged, told_apart
from cryoaae.subtomograms.mixture import ANY, Mixture, Stages
from cryoaae.subtomograms.pose_refinement import refined_poses
from cryoaae.subtomograms.pose_search import COARSE_SHIFT, FINE_SHIFT, SearchGrid, shift_grid
from cryoaae.subtomograms.references import References
from cryoaae.subtomograms.rotation_grid import nearest_rotations, neighbours, rotation_grid

# The last iterations of the coarse search sow nothing and have temperature 1.
SETTLING = 3
SEED, COARSE, CHOOSE, FINE, MERGE, FINAL = "seed", "coarse", "choose", "fine", "merge", "final"


@dataclass(frozen=True)
class Alignment:
    """What was found of n particles in k classes.

    Parameters
    ----------
    classes : (n,) int64
    probabilities : (n, k)
    rotations : (n, 3, 3)
        Likeliest; each turns its class's reference onto the particle.
    shifts_zyx : (n, 3)
        From the centre of the box to the particle, voxels.
    references : (k, z, y, x)
        Averages, band-limited, in the particles' box.
    proportions : (k,)
    log_likelihood : tuple of float
        Of a particle, at each iteration; temperature, coefficients and grid differ between the stages.
    merge_shares : tuple of float
        Share of what two references explain that is lost by one for both, pair by pair down to a single class,
        judged on held-out halves (`merging.told_apart`); a leap is where what differs is joined.
    evidence : (n, k)
        Log-likelihood of each particle under each class, over all poses of the coarse search, over that of none.
    explained : float
        Mean log-likelihood of a particle, in its likeliest pose, under its class made of the half that it is not in,
        over that of none; of particles assigned to references, under these.
    """

    classes: Tensor
    probabilities: Tensor
    rotations: Tensor
    shifts_zyx: Tensor
    references: Tensor
    proportions: Tensor
    log_likelihood: tuple[float, ...]
    merge_shares: tuple[float, ...]
    evidence: Tensor
    explained: float


def align(
    particles: BandedParticles,
    settings: AlignmentSettings | None = None,
    *,
    generator: torch.Generator,
    labels: Tensor | None = None,
    progress: Progress | None = None,
) -> Alignment:
    """Classify and align particles from seeds drawn among them.

    Parameters
    ----------
    particles : BandedParticles
    settings : AlignmentSettings, optional
    generator : torch.Generator
        On the CPU.
    labels : (n,) int64, optional
        Known class of each particle, from 0; -1: not known.
    progress : Progress, optional

    Raises
    ------
    InputError
        For fewer particles than references.
    """
    return Aligner(particles, settings or AlignmentSettings(), generator, labels).run(progress or NullProgress())


class Aligner:
    """An alignment that can be stopped between two of its tasks, and gone on with.

    Parameters
    ----------
    particles : BandedParticles
    settings : AlignmentSettings
    generator : torch.Generator
        On the CPU.
    labels : (n,) int64, optional
        Known class of each particle; -1: not known. Each has references of its own, which are sown from its particles
        and merged into one, and no particle that is known can be of another's; the settings then ask for as many
        classes as are known, or more.

    Raises
    ------
    InputError
        For fewer particles than references.
    """

    def __init__(
        self,
        particles: BandedParticles,
        settings: AlignmentSettings,
        generator: torch.Generator,
        labels: Tensor | None = None,
    ) -> None:
        self.particles, self.settings, self.generator, self.labels = particles, settings, generator, labels
        self.count = settings.first_references(len(particles))
        self.owners = _owners(self.count, settings, labels)
        if len(particles) < self.count:
            raise InputError("particles", f"{len(particles)} for {self.count} references", "ask for fewer clusters")
        self.stages = search_stages(particles, settings)
        self.tasks = tasks(settings)
        self.done = 0
        self.mixture: Mixture | None = None
        self.best: Mixture | None = None
        self.shares: tuple[float, ...] = ()
        self.explained = 0.0
        self._drawn = generator.get_state()

    def run(self, progress: Progress, after_task: Callable[[], None] = lambda: None) -> Alignment:
        """Do the tasks that are left; `after_task` is called after each, for checkpoints.

        Raises
        ------
        InterruptedRunError
            `state` is then that after the last whole task.
        """
        effort = Effort.expected(len(self.particles), self.particles.band, self.settings)
        left = self.tasks[self.done :]
        progress.start("aligning", sum(effort.of_task(name) for name, _ in left) + effort.of_task(FINE), "operation")
        try:
            for name, number in left:
                progress.check()
                self._do(name, number, progress)
                self.done += 1
                self._drawn = self.generator.get_state()
                facts = {"log_likelihood": self.fitted.history[-1]} if self.fitted.history else {}
                progress.advance(effort.of_task(name), **facts)
                after_task()
            return replace(pose_all(self.fitted, self.stages, self.shares, progress), explained=self.explained)
        finally:
            progress.finish()

    def _do(self, name: str, number: int, progress: Progress) -> None:
        if name == SEED:
            self.mixture = Mixture.seeded(
                self.particles, self.owners, self.labels, self.stages.coarse, self.generator, progress
            )
            return
        assert self.mixture is not None
        if name == COARSE:
            annealed = max(1, self.settings.coarse_iterations - SETTLING)
            temperature = self.settings.temperature ** max(0.0, 1 - number / annealed)
            self.mixture.iterate_coarse(
                self.stages.coarse, temperature, self.generator if number < annealed else None
            )
        elif name == CHOOSE:
            if self.best is None or self.mixture.history[-1] > self.best.history[-1]:
                self.best = self.mixture
            if number == self.settings.starts - 1:
                self.mixture, self.best = self.best, None
        elif name == MERGE:
            self._merge(self.mixture, progress)
        else:
            self.mixture.iterate_fine(self.stages)

    def _merge(self, mixture: Mixture, progress: Progress) -> None:
        """Leave as many as were asked for, or as are told apart, of the references that are alive."""
        alive, wanted = mixture.alive(), self.settings.clusters
        evidence = held_out_evidence(mixture, self.stages, alive, progress)
        groups, shares = told_apart(evidence)
        self.shares, self.explained = tuple(shares), evidence.explained
        if wanted is not None:
            groups = merged(evidence, wanted, mixture.owners[alive].tolist())[0]
        mixture.keep([alive[group] for group in groups])

    @property
    def fitted(self) -> Mixture:
        """What the tasks so far have made."""
        assert self.mixture is not None
        return self.mixture

    def state(self) -> dict[str, Any]:
        """Everything needed to go on after the last whole task, as tensors and plain data."""
        return {
            "done": self.done, "shares": list(self.shares), "explained": self.explained, "generator": self._drawn,
            "mixture": self.mixture and self.mixture.state(), "best": self.best and self.best.state(),
        }  # fmt: skip

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.done, self.shares, self._drawn = int(state["done"]), tuple(state["shares"]), state["generator"]
        self.explained = float(state["explained"])
        self.generator.set_state(self._drawn)
        self.mixture, self.best = (
            None if state[name] is None else Mixture.of_state(self.particles, state[name], self.labels)
            for name in ("mixture", "best")
        )


def _owners(count: int, settings: AlignmentSettings, labels: Tensor | None) -> Tensor:
    """Known class to which each reference at first belongs, as many of each; -1: none."""
    owners = torch.full((count,), ANY)
    if labels is None:
        return owners
    known = int(labels.max()) + 1
    if settings.clusters is None or settings.clusters < known:
        raise ValueError(f"{known} labels for {settings.clusters} clusters")
    owned = round(settings.over * known)
    owners[:owned] = torch.arange(owned) % known
    return owners


def tasks(settings: AlignmentSettings) -> list[tuple[str, int]]:
    """What an alignment does, in order: names, and numbers of iterations (or of starts, where one is chosen)."""
    coarse = [(COARSE, i) for i in range(settings.coarse_iterations)]
    starts = [task for start in range(settings.starts) for task in ((SEED, start), *coarse, (CHOOSE, start))]
    fine = [(FINE, i) for i in range(settings.fine_iterations)]
    return [*starts, *fine, (MERGE, 0), *((FINAL, i) for i in range(settings.final_iterations))]


def search_stages(particles: BandedParticles, settings: AlignmentSettings) -> Stages:
    """Both grids of rotations and shifts, for the particles' band."""
    device = particles.coefficients.device
    turner = References(particles.band, 1, torch.ones(particles.band.shell_count), device)

    def grid(step_deg: float, count: int, shift_step: float) -> SearchGrid:
        rotations = rotation_grid(step_deg).to(device)
        shifts = shift_grid(settings.shift_voxels, shift_step).to(device)
        phases = particles.band.shift_phases(shifts)[:, :count]
        return SearchGrid(rotations, turner.turns(rotations, count), shifts, phases)

    coarse = grid(settings.coarse_step_deg, particles.band.count_up_to(settings.coarse_freq), COARSE_SHIFT)
    fine = grid(settings.fine_step_deg, len(particles.band), FINE_SHIFT)
    near = neighbours(settings.coarse_step_deg, settings.fine_step_deg)
    return Stages(coarse, fine, nearest_rotations(coarse.rotations, fine.rotations, near), settings.fine_step_deg)


def pose_all(mixture: Mixture, stages: Stages, shares: tuple[float, ...], progress: Progress) -> Alignment:
    """A last E-step, poses between those of the grid, and everything as the caller wants it."""
    poses, _, coarse = mixture.fine_poses(stages)
    mixture.note(poses, 1.0, stages.fine.count)
    if mixture.labels is not None:  # what the particles themselves say, whatever is known of them
        coarse = replace(mixture, labels=None).fine_poses(stages)[2]
    probabilities = torch.softmax(poses.class_log_weight, dim=1)
    fine, rotations = stages.fine, len(stages.fine.rotations)
    # The likeliest pose in the likeliest class, which need not hold the likeliest pose of all.
    of_class = poses.cell // rotations == probabilities.argmax(dim=1, keepdim=True)
    place = torch.where(of_class, poses.log_weight, -torch.inf).argmax(dim=1, keepdim=True)
    cell, shift = poses.cell.gather(1, place)[:, 0], poses.shift.gather(1, place)[:, 0]
    turned, moved = refined_poses(
        mixture.particles, mixture.references, mixture.noise_power, cell // rotations, fine.rotations[cell % rotations],
        fine.shifts_zyx[shift], step_deg=stages.step_deg, step_voxels=FINE_SHIFT, progress=progress,
    )  # fmt: skip
    return Alignment(
        cell // rotations, probabilities, turned, moved, mixture.references.volumes(), mixture.log_proportions.exp(),
        tuple(mixture.history), shares, coarse.class_log_weight - mixture.log_proportions, float(poses.gain.mean()),
    )  # fmt: skip
