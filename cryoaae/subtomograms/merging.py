"""Which references of a multi-reference alignment are one structure: those whose particles either explains as well.

How alike two averages are does not tell: few particles make copies of one class unlike, and a common outline makes two
classes alike. What tells are particles that were averaged into neither (`held_out`). With l_ik the log-likelihood of
particle i in its likeliest pose under reference k, and <.>_a the mean over the particles of a,

    d_ab = ( <l_ia - l_ib>_a + <l_ib - l_ia>_b ) / 2

is the squared distance of the two structures, over the noise power. The reference's own noise lowers l_ia for the
particles of both and so cancels: but for the grid of poses, copies have distance 0 on average, however few particles
they were made of. With n_a and n_b particles, one reference at their mean loses

    n_a n_b / (n_a + n_b) d_ab

of the log-likelihood of all particles, and the pair that loses least is merged first (Ward). A merged reference counts
with the mean of its parts' log-likelihoods, by number of particles.

Where the number of classes is to be found, the measure is the share  d_ab / <l>_ab  of the log-likelihood that the two
explain. On the grid of poses no two copies lie alike: theirs is 0.02 to 0.10 whatever the noise, that of different
structures 0.16 and more (docs/decisions/0018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# References that lose no more than this share of what they explain are one structure.
APART = 0.125


@dataclass(frozen=True)
class Evidence:
    """What particles say of k references that they were not averaged into.

    Parameters
    ----------
    sums : (k, k)
        Of l_ib over the particles of a, at (a, b).
    counts : (k,)
        Particles of each reference.
    """

    sums: Tensor
    counts: Tensor

    @classmethod
    def of(cls, log_likelihood: Tensor, members: Tensor) -> Evidence:
        """From l_ik (n, k), and the reference of each particle (n,)."""
        own = torch.nn.functional.one_hot(members, log_likelihood.shape[1]).double()
        return cls(own.T @ log_likelihood.double(), own.sum(dim=0))

    @property
    def explained(self) -> float:
        """Mean of l_ia of the particles, each under its own reference."""
        return float(self.sums.diagonal().sum() / self.counts.sum().clamp(min=1))

    def losses(self) -> Tensor:
        """Log-likelihood lost by merging each pair, (k, k); nothing where a reference has no particles."""
        counts = self.counts.clamp(min=1)
        means = self.sums / counts[:, None]
        apart = means.diagonal()[:, None] - means
        weight = self.counts[:, None] * self.counts / (counts[:, None] + counts)
        return weight * (apart + apart.T) / 2

    def shares(self) -> Tensor:
        """d_ab over the log-likelihood that the two explain of their own particles, a particle, (k, k)."""
        counts = self.counts.clamp(min=1)
        means = self.sums / counts[:, None]
        apart = means.diagonal()[:, None] - means
        explained = self.counts * means.diagonal()
        total = (self.counts[:, None] + self.counts).clamp(min=1)
        own = (explained[:, None] + explained) / total
        return (apart + apart.T) / 2 / own.clamp(min=1.0)

    def joined(self, first: int, second: int) -> Evidence:
        """The same with two references as one, in the place of the first."""
        sums, counts = self.sums.clone(), self.counts.clone()
        total = counts[first] + counts[second]
        share = counts[first] / total if total > 0 else 0.5
        sums[first] += sums[second]
        sums[:, first] = share * sums[:, first] + (1 - share) * sums[:, second]
        counts[first] = total
        kept = [k for k in range(len(counts)) if k != second]
        return Evidence(sums[kept][:, kept], counts[kept])


def merged(
    evidence: Evidence, clusters: int, owners: Sequence[int] | None = None
) -> tuple[list[list[int]], list[float]]:
    """Merge references until `clusters` are left, always the pair that loses least.

    Parameters
    ----------
    evidence : Evidence
    clusters : int
    owners : sequence of int, optional
        Known class to which each reference belongs, -1: none. Those of one class are one from the start, those of two
        are never merged, and as many as there are classes are left at least.

    Returns
    -------
    groups : list of list of int
        References that are one.
    losses : list of float
        Of each merge, in the order made, in units of log-likelihood.
    """
    groups, lost = [[k] for k in range(len(evidence.counts))], []
    known = list(owners or [-1] * len(groups))
    while len(groups) > clusters or _twice(known):
        first, second = torch.triu_indices(len(groups), len(groups), offset=1)
        one = torch.tensor(known)
        if _twice(known):
            kept = (one[first] == one[second]) & (one[first] >= 0)
        else:
            kept = (one[first] < 0) | (one[second] < 0)
        if not bool(kept.any()):
            break
        losses = evidence.losses()
        of_pairs = torch.where(kept, losses[first, second].cpu(), torch.inf)
        least = int(of_pairs.argmin())
        a, b = int(first[least]), int(second[least])
        lost.append(float(losses[a, b]))
        groups[a] += groups.pop(b)
        known[a] = max(known[a], known.pop(b))
        evidence = evidence.joined(a, b)
    return groups, lost


def _twice(owners: list[int]) -> bool:
    """Whether two references belong to one class."""
    known = [owner for owner in owners if owner >= 0]
    return len(set(known)) < len(known)


def told_apart(evidence: Evidence) -> tuple[list[list[int]], list[float]]:
    """Merge references that are one structure, as far as particles tell, however many that leaves.

    Always the pair with the least share of what it explains lost is merged, so that a class does not count for less
    because it is small; up to `APART` the two are one.

    Returns
    -------
    groups : list of list of int
        References that are one.
    shares : list of float
        Lost at each merge, on to a single reference; those beyond `APART` were not made.
    """
    groups, found, shares = [[k] for k in range(len(evidence.counts))], None, []
    while len(groups) > 1:
        table = evidence.shares()
        first, second = torch.triu_indices(len(groups), len(groups), offset=1)
        least = int(table[first, second].argmin())
        a, b = int(first[least]), int(second[least])
        shares.append(float(table[a, b]))
        if found is None and shares[-1] > APART:
            found = [list(group) for group in groups]
        groups[a] += groups.pop(b)
        evidence = evidence.joined(a, b)
    return found or groups, shares
