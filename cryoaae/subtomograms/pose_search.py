"""The E-step of a multi-reference alignment: which reference, turned and moved how, each particle may be.

With x_i the coefficients of particle i, H_i its transfer, sigma^2 the noise power and t_k, R, d reference, rotation
and shift,

    l_i(k, R, d) = sum_q ( 2 Re conj(H_i x_i) e^{-2 pi i q d} P_R t_k - H_i^2 |P_R t_k|^2 ) / sigma^2

is the log-likelihood over that of no reference at all. The second term matters: without it poses drift to where the
wedge hides least. Everything is a matrix product of particles, moved back by each shift, with turned references. Shifts
are maximised, poses and references weighted by  p_k^T exp(l / T)  at temperature T.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoaae.subtomograms.band import BandedParticles
from cryoaae.subtomograms.references import Turns

# Numbers in the largest matrix of scores.
CHUNK = 2**25
# Distance of neighbouring shifts in the coarse search and in the fine one, voxels.
COARSE_SHIFT, FINE_SHIFT = 1.5, 1.0


@dataclass(frozen=True)
class SearchGrid:
    """Where poses are searched.

    Parameters
    ----------
    rotations : (r, 3, 3)
    turns : Turns
        Of the rotations, for the first q coefficients of the band.
    shifts_zyx : (t, 3)
        In voxels.
    phases : (t, q) complex
        That move a volume by each shift.
    """

    rotations: Tensor
    turns: Turns
    shifts_zyx: Tensor
    phases: Tensor

    @property
    def count(self) -> int:
        """How many coefficients of the band are used."""
        return self.phases.shape[1]


@dataclass(frozen=True)
class Poses:
    """The likeliest poses of n particles, p each, and what they weigh.

    Parameters
    ----------
    cell : (n, p) int64
        Reference times rotations plus rotation.
    shift : (n, p) int64
        Of the grid's.
    log_weight : (n, p)
        log of p_k^T exp(l / T), unnormalised.
    log_evidence : (n,)
        log of their sum over all poses searched.
    class_log_weight : (n, k)
        The same sum over each reference alone.
    gain : (n,)
        Largest log-likelihood ratio l of any pose.
    """

    cell: Tensor
    shift: Tensor
    log_weight: Tensor
    log_evidence: Tensor
    class_log_weight: Tensor
    gain: Tensor

    @classmethod
    def empty(cls, count: int, kept: int, classes: int, device: torch.device) -> Poses:
        """Room for those of `count` particles.

        Taken at once: small results kept from batch to batch would lie where the large matrices of scores were, and
        these would find new room each time.
        """
        cell, shift = torch.empty(2, count, kept, dtype=torch.int64, device=device)
        log_weight, of_class = torch.empty(count, kept, device=device), torch.empty(count, classes, device=device)
        log_evidence, gain = torch.empty(2, count, device=device)
        return cls(cell, shift, log_weight, log_evidence, of_class, gain)

    def put(self, rows: slice, found: Poses) -> None:
        """Write those of some of the particles."""
        for name in ("cell", "shift", "log_weight", "log_evidence", "class_log_weight", "gain"):
            getattr(self, name)[rows] = getattr(found, name)

    @property
    def weight(self) -> Tensor:
        """Posterior weight of each pose, (n, p), summing to 1."""
        return torch.softmax(self.log_weight, dim=1)


def shift_grid(reach_voxels: float, step_voxels: float) -> Tensor:
    """Shifts (t, 3) in voxels on a cubic grid within a ball."""
    steps = math.floor(reach_voxels / step_voxels + 1e-6)
    line = step_voxels * torch.arange(-steps, steps + 1)
    shifts = torch.cartesian_prod(line, line, line)
    return shifts[shifts.square().sum(dim=1) <= reach_voxels**2 + 1e-6]


def search(
    particles: BandedParticles,
    turned: Tensor,
    grid: SearchGrid,
    noise_power: Tensor,
    log_proportions: Tensor,
    *,
    allowed: Tensor | None = None,
    temperature: float = 1.0,
    keep: int = 16,
) -> Poses:
    """Score every particle against every reference in every pose of the grid.

    Parameters
    ----------
    particles : BandedParticles
    turned : (k, r, q) complex
        References turned by the grid's rotations.
    grid : SearchGrid
    noise_power : (q,)
        sigma^2.
    log_proportions : (k,)
        log p_k.
    allowed : (n, k) bool, optional
        References that each particle may be of; None: any.
    temperature : float
        T.
    keep : int
        Poses kept of each particle.
    """
    classes, rotations, count = turned.shape
    table = torch.view_as_real(turned).reshape(classes * rotations, 2 * count)
    norms = _shell_norms(particles, turned, noise_power)
    prior = (log_proportions - math.log(rotations)).repeat_interleave(rotations)
    poses = Poses.empty(len(particles), min(keep, len(table)), classes, table.device)
    step = max(1, CHUNK // (len(grid.shifts_zyx) * len(table)))
    for rows in _chunks(len(particles), step):
        moved = _moved_back(particles, rows, grid, noise_power)
        cross = moved.reshape(-1, 2 * count) @ table.T
        best, shift = cross.reshape(moved.shape[0], moved.shape[1], -1).max(dim=1)
        power = particles.contrast[rows].square()
        norm = torch.einsum("bs,bcs->bc", power, norms[particles.support_index[rows]]) if len(norms) > 1 else (
            power @ norms[0].T
        )
        score = best - norm
        if allowed is not None:
            score.masked_fill_(~allowed[rows].repeat_interleave(rotations, dim=1), -torch.inf)
        poses.put(rows, _likeliest(score, shift, None, prior, classes, temperature, keep))
    return poses


def refine(
    particles: BandedParticles,
    turned: Tensor,
    grid: SearchGrid,
    noise_power: Tensor,
    log_proportions: Tensor,
    candidates: Tensor,
    *,
    allowed: Tensor | None = None,
    temperature: float = 1.0,
    keep: int = 8,
) -> Poses:
    """Score every particle in candidate poses of its own only; see `search`.

    Parameters
    ----------
    candidates : (n, m) int64
        Reference times rotations plus rotation; what comes twice counts once.
    """
    classes, rotations, count = turned.shape
    table = torch.view_as_real(turned).reshape(classes * rotations, 2 * count)
    prior = (log_proportions - math.log(rotations)).repeat_interleave(rotations)
    poses = Poses.empty(len(particles), min(keep, candidates.shape[1]), classes, table.device)
    for rows in _chunks(len(particles), max(1, CHUNK // (candidates.shape[1] * 4 * count))):
        cells = candidates[rows].sort(dim=1).values
        chosen = table[cells]  # (b, m, 2 q)
        moved = _moved_back(particles, rows, grid, noise_power)
        best, shift = (moved @ chosen.transpose(1, 2)).max(dim=1)
        weight = particles.transfer(rows, count).square() / noise_power[:count]
        norm = torch.einsum("bmq,bq->bm", chosen.square(), weight.repeat_interleave(2, dim=1))
        score = best - norm
        score[:, 1:][cells[:, 1:] == cells[:, :-1]] = -torch.inf
        if allowed is not None:
            score.masked_fill_(~allowed[rows].gather(1, cells // rotations), -torch.inf)
        poses.put(rows, _likeliest(score, shift, cells, prior, classes, temperature, keep))
    return poses


def _chunks(total: int, step: int) -> Iterator[slice]:
    return (slice(low, min(low + step, total)) for low in range(0, total, step))


def _moved_back(particles: BandedParticles, rows: slice, grid: SearchGrid, noise_power: Tensor) -> Tensor:
    """Particles weighted for the product with references, moved back by each shift: real (b, t, 2 q)."""
    count = grid.count
    weighted = particles.coefficients[rows, :count] * (2 * particles.transfer(rows, count) / noise_power[:count])
    moved = weighted[:, None] * grid.phases.conj()
    return torch.view_as_real(moved).reshape(moved.shape[0], moved.shape[1], 2 * count)


def _shell_norms(particles: BandedParticles, turned: Tensor, noise_power: Tensor) -> Tensor:
    """Power of turned references over that of the noise, where each wedge measures, by shell: (g, k r, shells)."""
    count = turned.shape[-1]
    power = turned.abs().square().reshape(-1, count) / noise_power[:count]
    shells = particles.band.shells[:count].to(power.device)
    norms = power.new_zeros(len(particles.supports), len(power), particles.contrast.shape[1])
    for norm, support in zip(norms, particles.supports, strict=True):
        norm.index_add_(1, shells, power * support[:count])
    return norms


def _likeliest(
    score: Tensor, shift: Tensor, cells: Tensor | None, prior: Tensor, classes: int, temperature: float, keep: int
) -> Poses:
    """Keep the best of scores (b, c); `cells` names their poses, default all in order."""
    log_weight = score / temperature + (prior if cells is None else prior[cells])
    rotations = len(prior) // classes
    if cells is None:
        by_class = torch.logsumexp(log_weight.reshape(len(score), classes, rotations), dim=2)
    else:
        of_class = torch.nn.functional.one_hot(cells // rotations, classes).bool()
        by_class = torch.where(of_class, log_weight[..., None], -torch.inf).logsumexp(dim=1)
    best, place = log_weight.topk(min(keep, log_weight.shape[1]), dim=1)
    cell = place if cells is None else cells.gather(1, place)
    return Poses(
        cell, shift.gather(1, place), best, torch.logsumexp(log_weight, dim=1), by_class, score.max(dim=1).values
    )

