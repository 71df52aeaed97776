"""Evidence for the references of a mixture from particles that were not averaged into them.

The particles of each reference fall into two halves. Each half is averaged anew, in the poses that the mixture found,
and the particles of the other half are scored against it in any pose, over the whole band. A reference's own noise,
which explains the particles that it comes from and no others, so counts for nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cryoaae.runs.progress import Progress
from cryoaae.subtomograms.band import BandedParticles
from cryoaae.subtomograms.merging import Evidence
from cryoaae.subtomograms.mixture import Mixture, Stages
from cryoaae.subtomograms.pose_search import refine, search
from cryoaae.subtomograms.references import References

# Coarse poses of a particle under a reference whose neighbours are searched.
CANDIDATES = 4


def held_out_evidence(mixture: Mixture, stages: Stages, which: Tensor, progress: Progress) -> Evidence:
    """Score all particles against the references `which` (m,), each made of the half that a particle is not in."""
    particles = mixture.particles
    poses = mixture.fine_poses(stages)[0]
    members = poses.class_log_weight[:, which].argmax(dim=1)
    half = halves(members)
    scores = torch.zeros(len(particles), len(which), device=half.device)
    for one in (0, 1):
        rows = (half != one).nonzero()[:, 0]
        part = particles.only(rows)
        for column, k in enumerate(which.tolist()):
            progress.check()
            reference = mixture.made_anew(k, poses, half == one, stages.fine)
            scores[rows, column] = _log_likelihood(part, reference, stages, mixture.noise_power)
    return Evidence.of(scores, members)


def halves(groups: Tensor) -> Tensor:
    """0 or 1 for each of groups (n,), by turns within a group."""
    same = torch.nn.functional.one_hot(groups).cumsum(dim=0)
    return same.gather(1, groups[:, None])[:, 0] % 2


def _log_likelihood(part: BandedParticles, reference: References, stages: Stages, noise_power: Tensor) -> Tensor:
    """Log-likelihood (n,) of particles, in the likeliest pose, over that of no reference."""
    coarse, fine, alone = stages.coarse, stages.fine, torch.zeros(1, device=noise_power.device)
    first = search(part, reference.turned(coarse.turns), coarse, noise_power, alone, keep=CANDIDATES)
    candidates = stages.children[first.cell].flatten(1)
    return refine(part, reference.turned(fine.turns), fine, noise_power, alone, candidates, keep=1).gain
