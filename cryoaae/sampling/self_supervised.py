"""Fitting a sampler by the learned objective alone: halves, their difference, and turns.

Nothing here knows the truth, its law, or the noise level. Two terms:

- data: draws given y_even, plus fresh half-difference noise, against y_odd where it was measured: the noise-matched
  energy score.
- conditional EM (SCIENCE 3.6): x' is drawn given y_even by a slower copy of the sampler, turned by a random R and
  measured again with fresh noise; the sampler given T R x' + n is scored on R x', all of which is known, by its log
  density (a network without one would use the energy score here too).

A fixed point is a law of structures, invariant under turns, that explains the data. What one orientation
hides another has shown: the law is the true one as far as turned coefficients are seen together at some
orientation. Of a single structure's own wedge nothing else can be known.

The energy score compares small random groups of coordinates, anew in every step: a norm over many numbers at
once hardly feels their law (`energy_score`). Even so it learns means and single variances well and the many small
covariances of a dense law hardly at all, which is why the second term does not use it: of d^2 entries every
sample tells something to the log density, and by our estimate 1 / d^2 as much to the energy score.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cryoaae.sampling.basis import FourierBasis, grid_turns
from cryoaae.sampling.energy_score import energy_score
from cryoaae.sampling.linear_sampler import LinearSampler, half_map_powers

Halves = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class SamplerFit:
    """How a sampler is fitted.

    Parameters
    ----------
    steps, batch : int
        Updates, and places in each.
    rate : float
        First step of natural gradient descent; falls as 1 / (1 + step / rate_steps), or noise in the weights would
        stay in the draws as spread.
    rate_steps : float
    draws : int
        Draws a place in an energy score.
    group : int
        Coordinates that are compared at once.
    data_weight, em_weight : float
        Weights of the two terms.
    memory : float
        The slower copy is a mean over the last 1 / `memory` of the fit so far.
    start_places : int
        Places that the start's powers are measured on.
    """

    steps: int = 1500
    batch: int = 256
    rate: float = 0.2
    rate_steps: float = 150.0
    draws: int = 2
    group: int = 4
    data_weight: float = 0.25
    em_weight: float = 1.0
    memory: float = 6.0
    start_places: int = 4096


class SamplerFitting:
    """Fits a `LinearSampler` to pairs of halves.

    Parameters
    ----------
    basis : FourierBasis
    measured : (d,) bool
        What a half measures, laboratory frame.
    halves : callable
        (count, generator) to y_even, y_odd, (count, d) each: other places of the data at every call.
    settings : SamplerFit
    generator : torch.Generator
    """

    def __init__(
        self,
        basis: FourierBasis,
        measured: Tensor,
        halves: Halves,
        settings: SamplerFit,
        *,
        generator: torch.Generator,
    ) -> None:
        self.basis, self.measured, self.halves = basis, measured, halves
        self.settings, self.generator, self.done = settings, generator, 0
        even, odd = halves(settings.start_places, generator)
        powers = half_map_powers(even, odd, basis, measured)
        covariance = (even.mT @ even + odd.mT @ odd) / (2 * len(even))
        self.sampler = LinearSampler(*powers, measured, covariance)
        # The slower copy, and what is handed out in the end.
        self.teacher = LinearSampler(*powers, measured, covariance)
        self.noisy_scale = (self.sampler.scale.square() + powers[1]).sqrt()
        self.turns = turn_matrices(basis).to(even)
        self.ties = wedge_symmetries(self.turns, measured)

    def run(self, steps: int | None = None) -> LinearSampler:
        """Take `steps` updates (default: all that are left); return the averaged sampler."""
        for _ in range(self.settings.steps - self.done if steps is None else steps):
            self.step()
        return self.teacher

    def step(self) -> None:
        """One update of the sampler, and of the copy that follows it."""
        s = self.settings
        even, odd = self.halves(s.batch, self.generator)
        loss = s.data_weight * self.data_score(even, odd) + s.em_weight * self.em_score(even, odd)
        weights = list(self.sampler.parameters())
        slopes = torch.autograd.grad(loss, weights)
        rate = s.rate / (1 + self.done / s.rate_steps)
        with torch.no_grad():
            # Natural gradient (Amari 1998): the log score's curvature is the inverse of this on the left, and one on
            # the right, where data are whitened.
            metric = self.sampler.spread_weight @ self.sampler.spread_weight.mT
            for weight, slope in zip(weights, slopes, strict=True):
                weight.sub_(rate * metric @ self._tied(slope))
        self.done += 1
        follow(self.teacher, self.sampler, min(1.0, s.memory / (self.done + s.memory)))

    def data_score(self, even: Tensor, odd: Tensor) -> Tensor:
        """Draws given the even half, plus noise, against the odd half where it was measured."""
        count = self.settings.draws
        noise = torch.stack([other_noise(even, odd, k + 1, self.generator) for k in range(count)])
        noisy = self.sampler.draws(even, count, generator=self.generator) + noise
        rows = torch.nonzero(self.measured).flatten()
        whole = len(rows) // self.settings.group * self.settings.group
        chosen = rows[torch.randperm(len(rows), generator=self.generator)[:whole]]
        parts = [(values / self.noisy_scale)[..., chosen] for values in (noisy, odd)]
        mine, other = (part.unflatten(-1, (-1, self.settings.group)) for part in parts)
        return energy_score(mine, other).sum(dim=-1).mean()

    def em_score(self, even: Tensor, odd: Tensor) -> Tensor:
        """Log score of a draw, given itself turned and measured again.

        The spread is scored about the slower copy's mean: noise of the sampler's own gain would become spread.
        """
        with torch.no_grad():
            drawn = self.teacher.draws(even, 1, generator=self.generator)[0]
            turn = self.turns[int(torch.randint(len(self.turns), (1,), generator=self.generator))]
            known = drawn @ turn.mT
            again = known * self.measured + other_noise(even, odd, 1, self.generator)
            centre = self.teacher.mean(again)
        return self.sampler.log_score(again, known, centre=centre).mean()

    def _tied(self, slope: Tensor) -> Tensor:
        """Mean of a gradient over the turns that keep the wedge: a sampler commutes with them."""
        total = torch.zeros_like(slope)
        for order, sign in self.ties:
            total += slope[order][:, order] * (sign[:, None] * sign)
        return total / len(self.ties)


def other_noise(even: Tensor, odd: Tensor, places: int, generator: torch.Generator) -> Tensor:
    """Half differences of other places, (b, d), with a random sign: samples of the noise of one half."""
    signs = torch.randint(2, (len(even), 1), generator=generator) * 2 - 1
    return ((even - odd) / math.sqrt(2)).roll(places, 0) * signs


def turn_matrices(basis: FourierBasis) -> Tensor:
    """Turns of the grid onto itself as orthogonal matrices on coordinates, (t, d, d)."""
    units = basis.volume(torch.eye(basis.size, dtype=torch.float64))
    sources = grid_turns(basis.shape)[1]
    return torch.stack([basis.coefficients(units.flatten(-3)[:, s].reshape(units.shape)).mT for s in sources])


def wedge_symmetries(turns: Tensor, measured: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Turns (t, d, d) that keep the wedge and only permute coordinates, as (order, sign), (d,) each.

    The identity always; the half turns of a symmetric range on boxes of even size, where no phase is left.
    """
    ties = []
    for turn in turns:
        size, order = turn.abs().max(dim=1)
        if bool((size > 1 - 1e-4).all()) and torch.equal(measured[order], measured):
            ties.append((order, turn.gather(1, order[:, None])[:, 0].sign()))
    return ties


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, rate: float) -> None:
    """Bring a slow copy's weights a share of the way to a fast one's."""
    for mine, other in zip(slow.parameters(), fast.parameters(), strict=True):
        mine.lerp_(other, rate)
