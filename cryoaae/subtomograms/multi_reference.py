"""Multi-reference alignment: classes, poses and averages of subtomograms at once, without labels or templates.

Expectation-maximisation for  x_i = H_i P_R t_k e^{-2 pi i q d} + noise:  `pose_search` says which reference k, turned
by R and moved by d, each particle may be; the M-step re-estimates noise, proportions and, with one monotone step,
references (`references`). Proportions are learned, so that classes need not be of one size.

1. Seeds: single particles, the next one drawn with odds of what those so far leave unexplained (k-means++ with poses).
2. Coarse: low frequencies, a coarse grid of rotations, temperature falling to 1; more references than classes.
3. Fine: the whole band and the fine grid, near the likeliest coarse poses only.
4. Merge: references that explain each other's particles as well as their own, judged on held-out halves, become one
   (`merging`), until as many are left as asked for; then fine again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cryoaae.errors import InputError
from cryoaae.runs.progress import NullProgress, Progress
from cryoaae.subtomograms.band import BandedParticles
from cryoaae.subtomograms.held_out import held_out_evidence
from cryoaae.subtomograms.merging import merged
from cryoaae.subtomograms.mixture import Mixture, Stages
from cryoaae.subtomograms.pose_search import SearchGrid, shift_grid
from cryoaae.subtomograms.references import References
from cryoaae.subtomograms.rotation_grid import nearest_rotations, rotation_grid

# The last iterations of the coarse search sow nothing and have temperature 1.
SETTLING = 3


@dataclass(frozen=True)
class AlignmentSettings:
    """How particles are classified and aligned.

    Parameters
    ----------
    clusters : int
        Classes asked for.
    over : float
        So many times more references at first; those that are one structure are merged.
    coarse_freq : float
        Highest frequency of the coarse search, cycles a voxel; the fine one uses the whole band.
    coarse_step_deg, fine_step_deg : float
        Distance of neighbouring rotations.
    shift_voxels : float
        Furthest shift searched; a seed that is off the centre needs more than the particles' own.
    coarse_iterations, fine_iterations, final_iterations : int
        The last after merging.
    temperature : float
        At the start of the coarse search.
    starts : int
        Coarse searches from different seeds, of which the likeliest goes on.
    """

    clusters: int = 8
    over: float = 2.0
    coarse_freq: float = 0.16
    coarse_step_deg: float = 24.0
    fine_step_deg: float = 15.0
    shift_voxels: float = 3.0
    coarse_iterations: int = 10
    fine_iterations: int = 4
    final_iterations: int = 4
    temperature: float = 4.0
    starts: int = 1

    def __post_init__(self) -> None:
        rules = [
            ("clusters", self.clusters >= 1, self.clusters, "give 1 or more"),
            ("over", self.over >= 1, self.over, "give 1 or more"),
            ("temperature", self.temperature >= 1, self.temperature, "give 1 or more"),
            ("starts", self.starts >= 1, self.starts, "give 1 or more"),
            ("coarse_iterations", self.coarse_iterations >= 1, self.coarse_iterations, "give 1 or more"),
            ("coarse_freq", 0 < self.coarse_freq < 0.5, self.coarse_freq, "give cycles a voxel, below 0.5"),
            ("fine_step_deg", 5 <= self.fine_step_deg <= self.coarse_step_deg, self.fine_step_deg,
             "give 5 degrees or more, up to coarse_step_deg"),
        ]
        for option, good, value, remedy in rules:
            if not good:
                raise InputError(option, f"'{value}' cannot be used", remedy)


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
    merge_losses : tuple of float
        Log-likelihood of all particles lost at each merge, judged on held-out halves; a leap is where what differs was
        joined.
    """

    classes: Tensor
    probabilities: Tensor
    rotations: Tensor
    shifts_zyx: Tensor
    references: Tensor
    proportions: Tensor
    log_likelihood: tuple[float, ...]
    merge_losses: tuple[float, ...]


def align(
    particles: BandedParticles,
    settings: AlignmentSettings | None = None,
    *,
    generator: torch.Generator,
    progress: Progress | None = None,
) -> Alignment:
    """Classify and align particles from seeds drawn among them.

    Parameters
    ----------
    particles : BandedParticles
    settings : AlignmentSettings, optional
    generator : torch.Generator
        On the CPU.
    progress : Progress, optional

    Raises
    ------
    InputError
        For fewer particles than classes.
    """
    settings, progress = settings or AlignmentSettings(), progress or NullProgress()
    count = round(settings.over * settings.clusters)
    if len(particles) < count:
        raise InputError("particles", f"{len(particles)} for {count} references", "ask for fewer clusters")
    stages = search_stages(particles, settings)
    iterations = settings.starts * settings.coarse_iterations + settings.fine_iterations + settings.final_iterations
    progress.start("aligning", iterations, "iterations")
    try:
        starts = [_coarse(particles, stages, settings, count, generator, progress) for _ in range(settings.starts)]
        mixture = max(starts, key=lambda one: one.history[-1])
        mixture.run(stages, settings.fine_iterations, progress)
        losses = _merge(mixture, stages, settings.clusters, progress)
        mixture.run(stages, settings.final_iterations, progress)
        return _result(mixture, stages, losses)
    finally:
        progress.finish()


def search_stages(particles: BandedParticles, settings: AlignmentSettings) -> Stages:
    """Both grids of rotations and shifts, for the particles' band."""
    device = particles.coefficients.device
    turner = References(particles.band, 1, torch.ones(particles.band.shell_count), device)

    def grid(step_deg: float, count: int, shift_step: float) -> SearchGrid:
        rotations = rotation_grid(step_deg).to(device)
        shifts = shift_grid(settings.shift_voxels, shift_step).to(device)
        phases = particles.band.shift_phases(shifts)[:, :count]
        return SearchGrid(rotations, turner.turns(rotations, count), shifts, phases)

    coarse = grid(settings.coarse_step_deg, particles.band.count_up_to(settings.coarse_freq), 1.5)
    fine = grid(settings.fine_step_deg, len(particles.band), 1.0)
    # Twice as many as fall to each on average: neighbourhoods overlap.
    near = max(4, 2 * round(len(fine.rotations) / len(coarse.rotations)))
    return Stages(coarse, fine, nearest_rotations(coarse.rotations, fine.rotations, near))


def _coarse(
    particles: BandedParticles,
    stages: Stages,
    settings: AlignmentSettings,
    count: int,
    generator: torch.Generator,
    progress: Progress,
) -> Mixture:
    mixture = Mixture.seeded(particles, count, stages.coarse, generator, progress)
    annealed = max(1, settings.coarse_iterations - SETTLING)
    for i in range(settings.coarse_iterations):
        progress.check()
        early = i < annealed
        mixture.iterate_coarse(
            stages.coarse, settings.temperature ** max(0.0, 1 - i / annealed), generator if early else None
        )
        progress.advance(1, log_likelihood=mixture.history[-1])
    return mixture


def _merge(mixture: Mixture, stages: Stages, clusters: int, progress: Progress) -> list[float]:
    """Leave `clusters` of the references that are alive, at most; give the loss of each merge."""
    alive = mixture.alive()
    if len(alive) <= clusters:
        mixture.keep(list(alive.split(1)))
        return []
    groups, losses = merged(held_out_evidence(mixture, stages, alive, progress), clusters)
    mixture.keep([alive[group] for group in groups])
    return losses


def _result(mixture: Mixture, stages: Stages, losses: list[float]) -> Alignment:
    """A last E-step, and everything as the caller wants it."""
    poses, _ = mixture.fine_poses(stages)
    mixture.note(poses, 1.0, stages.fine.count)
    probabilities = torch.softmax(poses.class_log_weight, dim=1)
    rotations = len(stages.fine.rotations)
    # The likeliest pose in the likeliest class, which need not hold the likeliest pose of all.
    of_class = poses.cell // rotations == probabilities.argmax(dim=1, keepdim=True)
    place = torch.where(of_class, poses.log_weight, -torch.inf).argmax(dim=1, keepdim=True)
    cell, shift = poses.cell.gather(1, place)[:, 0], poses.shift.gather(1, place)[:, 0]
    return Alignment(
        cell // rotations, probabilities, stages.fine.rotations[cell % rotations],
        stages.fine.shifts_zyx[shift], mixture.references.volumes(), mixture.log_proportions.exp(),
        tuple(mixture.history), tuple(losses),
    )  # fmt: skip
