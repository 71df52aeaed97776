"""First variation of the debiased Sinkhorn divergence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cryoaae.divergences.clouds import squared_distances
from cryoaae.divergences.sinkhorn import potentials, self_potential, softmin
from cryoaae.divergences.witnesses import WITNESSES
from cryoaae.divergences.witnesses.witness import checked

ITERATIONS = 1000


@WITNESSES.register("sinkhorn")
class SinkhornWitness(nn.Module):
    """``h(x) = f(x) - s(x)``: dual potentials of q to p and of q to itself, extended to any point.

    Parameters
    ----------
    dim : int
        Length of a point; points are taken to have variance 1 along every axis.
    capacity : int
        Points a cloud may have.
    temperature : float
        Of the entropy, over `dim`, which is about the typical cost.
    tolerance : float
        Largest error of a marginal, relative to its weight.

    Notes
    -----
    ``S = OT(q, p) - OT(q, q) / 2 - OT(p, p) / 2``, cost |x - y|^2 / 2. By the envelope theorem its first
    variation is that of the potentials (Feydy et al. 2019, proposition 2), and a potential is defined everywhere by
    the other one: ``f(x) = -gamma log mean_j exp((b_j - c(x, y_j)) / gamma)``.
    """

    clouds: Tensor
    duals: Tensor
    counts: Tensor
    zero: Tensor

    def __init__(self, dim: int, capacity: int, *, temperature: float = 0.1, tolerance: float = 1e-2) -> None:
        super().__init__()
        self.dim, self.capacity, self.gamma, self.tolerance = dim, capacity, temperature * dim, tolerance
        self.register_buffer("clouds", torch.zeros(2, capacity, dim))  # again, real
        self.register_buffer("duals", torch.zeros(2, capacity))
        self.register_buffer("counts", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("zero", torch.tensor(0.0))

    def solve(self, again: Tensor, real: Tensor, *, generator: torch.Generator) -> Tensor:
        """Take up two clouds and return their divergence; nothing is drawn."""
        checked(again, real, self.dim, self.capacity)
        to_again, to_real = self._potentials(again, real)
        itself, real_itself = (self._to_itself(cloud) for cloud in (again, real))
        for row, (cloud, dual) in enumerate(((again, itself), (real, to_real))):
            self.counts[row] = len(cloud)
            self.clouds[row, : len(cloud)], self.duals[row, : len(cloud)] = cloud, dual
        self.zero.zero_()
        self.zero.copy_(self(real).mean())
        return to_again.mean() + to_real.mean() - itself.mean() - real_itself.mean()

    def forward(self, points: Tensor) -> Tensor:
        """Debiased potential at points (b, dim), (b,)."""
        to_itself, to_real = (self._extended(points, row) for row in range(2))
        return to_real - to_itself - self.zero

    def between(self, one: Tensor, other: Tensor, *, generator: torch.Generator) -> Tensor:
        """Sinkhorn divergence of clouds (n, dim) and (m, dim); nothing is drawn."""
        to_one, to_other = self._potentials(one, other)
        return to_one.mean() + to_other.mean() - self._to_itself(one).mean() - self._to_itself(other).mean()

    def _potentials(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        cost = squared_distances(one, other) / 2
        return potentials(cost, self.gamma, tolerance=self.tolerance, iterations=ITERATIONS)

    def _to_itself(self, cloud: Tensor) -> Tensor:
        cost = squared_distances(cloud, cloud) / 2
        return self_potential(cost, self.gamma, tolerance=self.tolerance, iterations=ITERATIONS)

    def _extended(self, points: Tensor, row: int) -> Tensor:
        count = int(self.counts[row])
        cost = squared_distances(points, self.clouds[row, :count]) / 2
        return softmin(cost, self.duals[row, :count], cost.new_full((1,), self.gamma))
