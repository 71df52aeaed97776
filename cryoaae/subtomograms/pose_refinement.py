"""Poses between those of the grid: each particle's own neighbourhood is searched again, finer and finer.

About the likeliest pose (R, d) of a particle, R is tried with small rotations in its own frame and d with small shifts,
under the log-likelihood of `pose_search`. References are turned for each particle alone. A round starts from the best
of the one before, at half its step. What is found for a particle does not depend on the others.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cryoaae.runs.progress import Progress
from cryoaae.subtomograms.band import BandedParticles
from cryoaae.subtomograms.references import References

ROUNDS = 3
# Coefficients of turned references that are held at a time.
CHUNK = 2**20


def refined_poses(
    particles: BandedParticles,
    references: References,
    noise_power: Tensor,
    classes: Tensor,
    rotations: Tensor,
    shifts_zyx: Tensor,
    *,
    step_deg: float,
    step_voxels: float,
    progress: Progress,
) -> tuple[Tensor, Tensor]:
    """Refine the poses of n particles in their classes.

    Parameters
    ----------
    particles : BandedParticles
    references : References
    noise_power : (q,)
    classes : (n,) int64
    rotations : (n, 3, 3)
    shifts_zyx : (n, 3)
        Voxels of the band's grid.
    step_deg, step_voxels : float
        Of the grids that the poses are from.

    Returns
    -------
    rotations : (n, 3, 3)
    shifts_zyx : (n, 3)

    Raises
    ------
    InterruptedRunError
    """
    turns, moves = small_rotations().to(rotations), small_shifts().to(shifts_zyx)
    rows = max(1, CHUNK // (len(turns) * len(particles.band)))
    found = []
    for low in range(0, len(particles), rows):
        progress.check()
        part = particles.only(torch.arange(low, min(low + rows, len(particles)), device=classes.device))
        own = slice(low, low + rows)
        pose = rotations[own], shifts_zyx[own]
        for again in range(1, ROUNDS + 1):
            near = _scaled(turns, math.radians(step_deg) / 2**again)
            pose = _best(part, references, noise_power, classes[own], *pose, near, moves * step_voxels / 2**again)
        found.append(pose)
    return torch.cat([r for r, _ in found]), torch.cat([d for _, d in found])


def small_rotations() -> Tensor:
    """Rotation vectors (m, 3) to try, in steps: none, and one along each of 26 directions of a cube, unit length."""
    line = torch.tensor([-1.0, 0.0, 1.0])
    cube = torch.cartesian_prod(line, line, line)
    lengths = torch.linalg.vector_norm(cube, dim=1, keepdim=True)
    return torch.where(lengths > 0, cube / lengths.clamp(min=1), 0.0)


def small_shifts() -> Tensor:
    """Shifts (t, 3) to try, in steps: none, and one along each axis."""
    eye = torch.eye(3)
    return torch.cat([torch.zeros(1, 3), eye, -eye])


def _scaled(vectors: Tensor, angle_rad: float) -> Tensor:
    """Rotations (m, 3, 3) about vectors (m, 3) of length 0 or 1: exponentials of their cross products."""
    a, b, c = (angle_rad * vectors).unbind(dim=1)
    zero = torch.zeros_like(a)
    skew = torch.stack([zero, -c, b, c, zero, -a, -b, a, zero], dim=1).reshape(-1, 3, 3)
    return torch.linalg.matrix_exp(skew)


def _best(
    particles: BandedParticles,
    references: References,
    noise_power: Tensor,
    classes: Tensor,
    rotations: Tensor,
    shifts_zyx: Tensor,
    turns: Tensor,
    moves: Tensor,
) -> tuple[Tensor, Tensor]:
    """The likeliest of all small turns and moves of each particle's pose."""
    band, count = particles.band, len(particles.band)
    tried = torch.einsum("nij,mjk->nmik", rotations, turns)
    turned = references.turned_each(classes, tried)  # (n, m, q)
    transfer = particles.transfer(slice(None), count)
    weighted = particles.coefficients * transfer / noise_power
    norm = torch.einsum("nmq,nq->nm", turned.abs().square(), transfer.square() / noise_power)
    shifts = shifts_zyx[:, None] + moves
    back = band.shift_phases(shifts.reshape(-1, 3)).reshape(*shifts.shape[:2], count).conj()
    cross = torch.einsum("nmq,ntq->nmt", turned.conj(), weighted[:, None] * back).real
    score = (2 * cross - norm[..., None]).flatten(1)
    best = score.argmax(dim=1)
    which, row = best // len(moves), torch.arange(len(best), device=best.device)
    return tried[row, which], shifts[row, best % len(moves)]
