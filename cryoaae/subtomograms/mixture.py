"""The mixture that a multi-reference alignment fits: references, their proportions and the noise, step by step."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from cryoaae.runs.progress import Progress
from cryoaae.subtomograms.band import BandedParticles, bin_means, signal_power
from cryoaae.subtomograms.pose_search import Poses, SearchGrid, refine, search
from cryoaae.subtomograms.references import LEAST_POWER, References, Turns

# References are centred where their particles lie further than this off the centre on average.
OFF_CENTRE_VOXELS = 0.25
# References with fewer particles are dead.
DEAD_PARTICLES = 2.0
# No proportion falls below this share of one particle.
LEAST_PARTICLES = 0.1
# No contrast falls below this share of what it was, so that a shell can come back.
LEAST_CONTRAST = 1e-3
# Steps from nothing to a reference, poses known.
STEPS_ANEW = 6
# Coarse poses of a particle whose neighbours are searched.
KEPT = 8
# Names of the tensors that say what a mixture is.
STATE = ("grid", "power", "log_proportions", "noise_power", "signal_power", "owners")
# Of references that any particle may be of, and of particles of which no class is known.
ANY = -1


@dataclass(frozen=True)
class Stages:
    """Both grids, which fine rotations lie about each coarse one, and how far apart these are."""

    coarse: SearchGrid
    fine: SearchGrid
    children: Tensor
    step_deg: float


@dataclass
class Mixture:
    """References, their proportions and the noise, being fitted.

    Parameters
    ----------
    particles : BandedParticles
    references : References
    log_proportions : (k,)
    noise_power : (q,)
    signal_power : (shells,)
        tau^2 of a fresh seed.
    owners : (k,) int64
        Known class to which a reference belongs; -1: none.
    labels : (n,) int64, optional
        Known class of each particle, which may then be of no reference of another; -1: not known.
    history : list of float
        Log-likelihood a particle at each E-step.
    """

    particles: BandedParticles
    references: References
    log_proportions: Tensor
    noise_power: Tensor
    signal_power: Tensor
    owners: Tensor
    labels: Tensor | None = None
    history: list[float] = field(default_factory=list)

    @classmethod
    def seeded(
        cls,
        particles: BandedParticles,
        owners: Tensor,
        labels: Tensor | None,
        grid: SearchGrid,
        generator: torch.Generator,
        progress: Progress,
    ) -> Mixture:
        """References that are single particles, far from each other in every pose, each of its owner's particles."""
        signal, device, count = signal_power(particles), particles.coefficients.device, len(owners)
        one = torch.zeros(1, device=device)
        mixture = cls(
            particles, References(particles.band, 1, signal, device), one, particles.noise_power.clone(), signal,
            owners.to(device), None if labels is None else labels.to(device),
        )  # fmt: skip
        seeds = References(particles.band, count, signal, device)
        gain = torch.full((len(particles),), -torch.inf, device=device)
        for k in range(count):
            progress.check()
            row = mixture._unexplained_of(k, gain, grid.count, generator)
            mixture._seed(0, row)
            seeds.grid[k] = mixture.references.grid[0]
            turned = mixture.references.turned(grid.turns)
            gain = torch.maximum(gain, search(particles, turned, grid, mixture.noise_power, one, keep=1).gain)
        mixture.references = seeds
        mixture.log_proportions = torch.full((count,), 1 / count, device=device).log()
        return mixture

    @classmethod
    def of_state(cls, particles: BandedParticles, state: dict[str, Any], labels: Tensor | None = None) -> Mixture:
        """Build from what `state` gave."""
        device = particles.coefficients.device
        grid, power, proportions, noise, signal, owners = (state[name].to(device) for name in STATE)
        references = References(particles.band, len(grid), signal, device)
        references.grid, references.power = grid, power
        known = None if labels is None else labels.to(device)
        return cls(particles, references, proportions, noise, signal, owners, known, list(state["history"]))

    def state(self) -> dict[str, Any]:
        """All but the particles, as tensors and plain data."""
        found = (
            self.references.grid, self.references.power, self.log_proportions, self.noise_power, self.signal_power,
            self.owners,
        )  # fmt: skip
        return {**dict(zip(STATE, found, strict=True)), "history": list(self.history)}

    @property
    def allowed(self) -> Tensor | None:
        """References (n, k) that each particle may be of; None: any."""
        if self.labels is None:
            return None
        known = self.labels[:, None]
        return (known == ANY) | (known == self.owners)

    def _unexplained_of(self, which: int, gain: Tensor, coefficients: int, generator: torch.Generator) -> int:
        """Draw a particle for a reference: one of its owner's, where it has one."""
        owner = int(self.owners[which])
        if self.labels is not None and owner != ANY:
            gain = torch.where(self.labels == owner, gain, torch.nan)
        return self._unexplained(gain, 1, coefficients, generator)[0]

    def _unexplained(self, gain: Tensor, count: int, coefficients: int, generator: torch.Generator) -> list[int]:
        """Draw particles with odds of the power, over that of the noise, that their likeliest pose leaves.

        l = (|x|^2 - |x - H P t|^2) / sigma^2, so that is |x|^2 / sigma^2 - l; the least of it is taken for noise. Those
        with no number for a gain are not drawn.
        """
        power = self.particles.coefficients[:, :coefficients].abs().square() / self.noise_power[:coefficients]
        left = power.sum(dim=1) - gain
        least = left[left.isfinite()].min() if bool(left.isfinite().any()) else 0.0
        odds = torch.where(left.isfinite(), left - least, 1.0).clamp(min=1e-6)
        odds = torch.where(gain.isnan(), 0.0, odds)
        return [int(row) for row in torch.multinomial(odds.double().cpu(), count, generator=generator)]

    def _seed(self, which: int, row: int) -> None:
        """Make a reference of the Wiener estimate of one particle."""
        transfer = self.particles.transfer(slice(row, row + 1), len(self.particles.band))[0]
        prior = self.signal_power[self.particles.band.shells.to(transfer.device)]
        estimate = self.particles.coefficients[row] * transfer / (transfer.square() + self.noise_power / prior)
        self.references.put(which, estimate)
        self.references.power[which] = self.signal_power

    def iterate_coarse(
        self, grid: SearchGrid, temperature: float, generator: torch.Generator | None = None
    ) -> None:
        """One E-step over the whole coarse grid, and one M-step.

        With a generator, references are centred and those that died are sown again from particles that are explained
        badly; neither is an ascent of the likelihood.
        """
        turned = self.references.turned(grid.turns)
        poses = search(
            self.particles, turned, grid, self.noise_power, self.log_proportions, allowed=self.allowed,
            temperature=temperature,
        )  # fmt: skip
        self.note(poses, temperature, grid.count)
        self._maximise(poses, turned, grid)
        if generator is not None:
            self._centre(poses, grid)
            self._revive(poses, grid.count, generator)

    def alive(self) -> Tensor:
        """References that are not dead; at least the largest, and the largest of each owner: (m,) int64."""
        proportions = self.log_proportions.exp()
        living = proportions >= min(DEAD_PARTICLES / len(self.particles), float(proportions.max()))
        for owner in self.owners[self.owners != ANY].unique():
            living[torch.where(self.owners == owner, proportions, -1.0).argmax()] = True
        return living.nonzero()[:, 0]

    def _revive(self, poses: Poses, coefficients: int, generator: torch.Generator) -> None:
        """Sow references again that hold less than `DEAD_PARTICLES`."""
        proportions = self.log_proportions.exp()
        dead = (proportions * len(self.particles) < DEAD_PARTICLES).nonzero()[:, 0].tolist()
        if dead:
            free = [k for k in dead if self.owners[k] == ANY]
            rows = self._unexplained(poses.gain, len(free), coefficients, generator) if free else []
            owned = [k for k in dead if self.owners[k] != ANY]
            rows += [self._unexplained_of(k, poses.gain, coefficients, generator) for k in owned]
            for k, row in zip(free + owned, rows, strict=True):
                self._seed(k, row)
            proportions[dead] = 1 / len(proportions)
            self.log_proportions = (proportions / proportions.sum()).log()

    def iterate_fine(self, stages: Stages) -> None:
        """One iteration over the whole band: coarse search for candidates, then their neighbours."""
        poses, turned, _ = self.fine_poses(stages)
        self.note(poses, 1.0, stages.fine.count)
        self._maximise(poses, turned, stages.fine)

    def fine_poses(self, stages: Stages) -> tuple[Poses, Tensor, Poses]:
        """Poses on the fine grid, the references turned by its rotations, and the poses of the coarse search."""
        coarse, fine = stages.coarse, stages.fine
        first = search(
            self.particles, self.references.turned(coarse.turns), coarse, self.noise_power, self.log_proportions,
            allowed=self.allowed, keep=KEPT,
        )  # fmt: skip
        which, rotation = first.cell // len(coarse.rotations), first.cell % len(coarse.rotations)
        candidates = which[..., None] * len(fine.rotations) + stages.children[rotation]
        turned = self.references.turned(fine.turns)
        poses = refine(
            self.particles, turned, fine, self.noise_power, self.log_proportions, candidates.flatten(1),
            allowed=self.allowed,
        )  # fmt: skip
        return poses, turned, first

    def class_probabilities(self, particles: BandedParticles, stages: Stages) -> Tensor:
        """Probabilities (n, k) of the classes for other particles of the same band and noise, in any pose."""
        poses = replace(self, particles=particles, labels=None, history=[]).fine_poses(stages)[0]
        return torch.softmax(poses.class_log_weight, dim=1)

    def note(self, poses: Poses, temperature: float, count: int) -> None:
        """Log-likelihood of the first coefficients: the ratio over noise alone, and noise alone."""
        noise, left = self.noise_power[:count].double(), self.particles.coefficients[:, :count].abs().double().square()
        measured = self._times_measured(count) / len(self.particles)
        alone = -(left.mean(dim=0) / noise + measured * (torch.pi * noise).log()).sum()
        self.history.append(float(temperature * poses.log_evidence.double().mean() + alone))

    def _times_measured(self, count: int) -> Tensor:
        """How many particles measured each of the first coefficients, (count,) float64."""
        members = torch.bincount(self.particles.support_index, minlength=len(self.particles.supports)).double()
        return members @ self.particles.supports[:, :count].double()

    def _maximise(self, poses: Poses, turned: Tensor, grid: SearchGrid) -> None:
        """Re-estimate proportions, noise and references."""
        count = grid.count
        mass = self._mass(poses, grid)
        self.log_proportions = ((mass + LEAST_PARTICLES) / (mass + LEAST_PARTICLES).sum()).log()
        sums = self._sums(poses, grid)
        self._estimate_noise(sums, turned, count)
        for k, (cells, values, weights) in enumerate(sums):
            if not len(cells):
                continue
            noise = self.noise_power[:count]
            turns = Turns(grid.turns.index[cells], grid.turns.share[cells])
            self.references.ascend(k, turns, (values - weights * turned[k, cells]) / noise, weights / noise)

    def match_brightness(self) -> None:
        """Take for the contrast of all particles the one factor that gives them the power of the references."""
        shells = self.particles.band.shells
        expected, found = self.signal_power.cpu()[shells].sum(), signal_power(self.particles).cpu()[shells].sum()
        factor = float((found / expected.clamp(min=LEAST_POWER)).sqrt())
        self.particles = replace(self.particles, contrast=self.particles.contrast * factor)

    def adapt(self, poses: Poses, turned: Tensor, grid: SearchGrid) -> None:
        """Re-estimate contrast and noise under references and proportions that stay as they are.

        Particles of another set differ in brightness and in what the microscope does to each frequency: in every shell
        the contrast of all of them is that factor on the references which leaves least,  sum Re conj(P t) S / sum W
        |P t|^2  times what it was, and not negative. Proportions that followed the particles would sweep all of a set
        that says little into one class.
        """
        count, sums = grid.count, self._sums(poses, grid)
        shells = self.particles.band.shells[:count].to(turned.device)
        found = torch.zeros(2, self.particles.band.shell_count, dtype=torch.float64, device=turned.device)
        for k, (cells, values, weights) in enumerate(sums):
            own = turned[k, cells]
            rows = torch.stack([(own.conj() * values).real, weights * own.abs().square()])
            found.index_add_(1, shells, rows.double().sum(dim=1))
        factor = torch.where(found[1] > 0, found[0] / found[1].clamp(min=1e-12), 1.0).clamp(min=LEAST_CONTRAST).float()
        self.particles = replace(self.particles, contrast=self.particles.contrast * factor)
        by_shell = factor[shells]
        matched = [(cells, values * by_shell, weights * by_shell.square()) for cells, values, weights in sums]
        self._estimate_noise(matched, turned, count)

    def _mass(self, poses: Poses, grid: SearchGrid) -> Tensor:
        """Particles of each reference, (k,)."""
        which = poses.cell // len(grid.rotations)
        empty = torch.zeros(len(self.references), device=which.device)
        return empty.index_add_(0, which.flatten(), poses.weight.flatten())

    def _sums(self, poses: Poses, grid: SearchGrid) -> list[tuple[Tensor, Tensor, Tensor]]:
        """`_posed_sums` of each reference."""
        rotations, weight = len(grid.rotations), poses.weight
        which = poses.cell // rotations
        return [self._posed_sums(poses, weight * (which == k), grid, rotations) for k in range(len(self.references))]

    def _posed_sums(
        self, poses: Poses, weight: Tensor, grid: SearchGrid, rotations: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rotations in use, and sums over particles in each: S (r, q) complex and W (r, q)."""
        row, place = (weight > 1e-4).nonzero(as_tuple=True)
        cells, slot = (poses.cell[row, place] % rotations).unique(return_inverse=True)
        count, device = grid.count, weight.device
        values = torch.zeros(len(cells), count, dtype=torch.complex64, device=device)
        weights = torch.zeros(len(cells), count, device=device)
        for low in range(0, len(row), 1024):
            part = slice(low, low + 1024)
            transfer = self.particles.transfer(row[part], count)
            share = weight[row[part], place[part]][:, None]
            back = grid.phases[poses.shift[row[part], place[part]]].conj()
            values.index_add_(0, slot[part], share * transfer * self.particles.coefficients[row[part], :count] * back)
            weights.index_add_(0, slot[part], share * transfer.square())
        return cells, values, weights

    def _estimate_noise(self, sums: list[tuple[Tensor, Tensor, Tensor]], turned: Tensor, count: int) -> None:
        """Mean |x - H P t|^2 over particles and poses, in each bin: |x|^2 - 2 Re conj(P t) S + W |P t|^2."""
        particles = self.particles
        left = particles.coefficients[:, :count].abs().double().square().sum(dim=0)
        for k, (cells, values, weights) in enumerate(sums):
            own = turned[k, cells]
            left += (weights * own.abs().square() - 2 * (own.conj() * values).real).double().sum(dim=0)
        found = bin_means(left, self._times_measured(count), particles.noise_bins[:count])
        self.noise_power[:count] = found.float().clamp(min=LEAST_POWER)

    def _centre(self, poses: Poses, grid: SearchGrid) -> None:
        """Move references so that the shifts of their particles, in their frame, have mean zero."""
        rotations = len(grid.rotations)
        cell, shift = poses.cell[:, 0], poses.shift[:, 0]
        own = torch.einsum("nij,ni->nj", grid.rotations[cell % rotations], grid.shifts_zyx[shift])  # R^T d
        for k in range(len(self.references)):
            chosen = own[cell // rotations == k]
            if len(chosen) > 1 and float(torch.linalg.vector_norm(chosen.mean(dim=0))) > OFF_CENTRE_VOXELS:
                self.references.move(k, chosen.mean(dim=0))

    def made_anew(self, which: int, poses: Poses, chosen: Tensor, grid: SearchGrid) -> References:
        """A reference made of nothing but its particles among those `chosen`, (n,) bool, in poses of the grid."""
        rotations, noise = len(grid.rotations), self.noise_power[: grid.count]
        weight = poses.weight * (poses.cell // rotations == which) * chosen[:, None]
        cells, values, weights = self._posed_sums(poses, weight, grid, rotations)
        made = References(self.particles.band, 1, self.references.power[which], noise.device)
        turns = Turns(grid.turns.index[cells], grid.turns.share[cells])
        for _ in range(STEPS_ANEW if len(cells) else 0):
            made.ascend(0, turns, (values - weights * made.turned(turns)[0]) / noise, weights / noise)
        return made

    def keep(self, groups: list[Tensor]) -> None:
        """Keep the largest reference of each group (m,) of them, with the proportions of all in it."""
        proportions = self.log_proportions.exp()
        self.owners = torch.stack([self.owners[own].max() for own in groups])
        self.references.keep([int(own[proportions[own].argmax()]) for own in groups])
        held = torch.stack([proportions[own].sum() for own in groups])
        self.log_proportions = (held / held.sum()).log()
