"""Draws given one half, weighted place by place by the other (CryoWGEN-I by importance sampling).

    x_j ~ q(. | y_even),      weight_pj ~ exp(-c_p(x_j, y_odd) / gamma),      halves swapped for half of the draws

q is the learned sampler about the restoration of one half. The noise of the other half is independent of it; weighting
draws by the y that they were drawn from would count the data twice (SCIENCE E11). c_p is the misfit over a patch of a
few voxels: weights of larger ones collapse. How large the errors of q are by shell the other half says first: draws
that are too wide or too narrow are no draws given y_even.

What the other half does not hear, the wedge and what is slower than a place, is not chosen: pieces of three voxels of
many draws, put together, have lost the power that each had over longer ways, and nothing gives it back. There a draw
is the sampler's own given both halves:

    d = H (made of places, about the restoration of one half) + (1 - H) d_own,      H: heard by the other half

Where weights collapse even at a higher temperature a place falls back to the sampler's own draws given both halves.
Draws of all places are put together without seams: all take their choice by the same random numbers

    j_p = argmax_j ( log weight_pj + g_j ),      g_j Gumbel,      x = m + sum_j a_j (x_j - m) / sqrt(sum_j a_j^2)

so that neighbours whose weights agree choose the same draw (Gumbel-max, coupled); a_j(v) is the share of j in the
partition of unity at v, m the blended weighted mean. Each place keeps its law; nothing is averaged away between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from cryoaae.patches.spectra import interpolate
from cryoaae.physics.fourier import irfft, multiplicity, radius, rfft, shell_sum
from cryoaae.restoration.draw_sources import covering, covering_axes, generator_of
from cryoaae.restoration.half_likelihood import NYQUIST, HalfLikelihood
from cryoaae.restoration.learned_draws import WORK_SHARE, Faced, Learned
from cryoaae.restoration.sampled_region import SampledRegion, box_voxels
from cryoaae.restoration.turned_boxes import continued
from cryoaae.restoration.working import WorkingTomogram
from cryoaae.sampling.importance import Weights, gated_weights
from cryoaae.sampling.places import Places

# Learned draws given one half; each counts with either sign, for their law is symmetric.
CANDIDATES = 128
# Edge of a place and its distance to the next, working voxels.
PATCH, STEP = 3, 2
GAMMA_MAX = 8.0
# What is slower than this (cycles a working voxel) a place does not hear: it is measured so well that it would decide
# alone, and what reconstruction gets wrong there is the same in both halves.
SLOWEST = 0.07
# Shells that the size of draws is told in, how many draws tell it, and the least error believed, of the noise's power.
SHELLS, SIZED_BY, LEAST_ERROR = 24, 32, 0.02
# What of a draw is chosen place by place; drawn differently, draws that stand are no longer the same law's.
CHOSEN = "what the other half hears"
# What the generators of choices are for, besides seed and number; candidates have numbers that no draw has.
CHOICE, FIRST_CANDIDATE = 7, 1000


@dataclass(frozen=True)
class Weighted:
    """Candidates of one half and their weights by the other.

    Parameters
    ----------
    places : Places
    candidates : (m, z, y, x)
        Deviations from the restoration of the half that they were drawn given; each counts with either sign.
    weights : Weights
        Of 2 m candidates at each place, the second m with the sign turned; uniform where fallen back.
    """

    places: Places
    candidates: Tensor
    weights: Weights

    def __len__(self) -> int:
        return len(self.candidates)

    def candidate(self, index: int) -> Tensor:
        """Candidate `index` of 2 m, (z, y, x)."""
        sign = 1.0 if index < len(self) else -1.0
        return sign * self.candidates[index % len(self)]

    @cached_property
    def _kept(self) -> Tensor:
        """Weights of places that did not fall back, (places, 2 m); zero elsewhere."""
        return self.weights.weights * ~self.weights.fallen_back[:, None]

    @cached_property
    def fallen(self) -> Tensor:
        """Share of places that fell back, (z, y, x)."""
        return self.places.blended(self.weights.fallen_back.float())

    def moments(self) -> tuple[Tensor, Tensor]:
        """First and second moments of the deviation, blended, (z, y, x) each; places that fell back give nothing."""
        first, second = (torch.zeros(self.places.shape) for _ in range(2))
        even, odd = self._kept[:, : len(self)], self._kept[:, len(self) :]
        for j in range(len(self)):
            draw = self.candidate(j)
            first += self.places.blended((even - odd)[:, j].float()) * draw
            second += self.places.blended((even + odd)[:, j].float()) * draw.square()
        return first, second

    @cached_property
    def mean(self) -> Tensor:
        """Weighted mean of the deviation, (z, y, x), of the share that did not fall back."""
        return self.moments()[0]

    def draw(self, own: Tensor, *, generator: torch.Generator) -> Tensor:
        """One draw's deviation (z, y, x), about the half's restoration where places held, else the sampler's `own`."""
        gumbel = -torch.empty(2 * len(self), dtype=torch.float64).exponential_(generator=generator).log()
        chosen = (self.weights.weights.log() + gumbel).argmax(dim=1)
        chosen = torch.where(self.weights.fallen_back, -1, chosen)
        held = (1 - self.fallen).clamp(min=1e-6)
        centre = self.mean / held
        made, square = self.fallen * own, self.fallen.square()
        for index in chosen.unique().tolist():
            if index < 0:
                continue
            share = self.places.blended((chosen == index).float())
            made += share * (self.candidate(index) - centre)
            square += share.square()
        return self.mean + made / square.sqrt()


def weigh(
    candidates: Tensor,
    white: Callable[[Tensor], Tensor],
    residual: Tensor,
    places: Places,
    *,
    gamma: float = 1.0,
    gamma_max: float = GAMMA_MAX,
    advance: Callable[[], None] = lambda: None,
) -> Weighted:
    """Weigh deviations (m, z, y, x), with either sign, by data that they were not drawn from.

    Parameters
    ----------
    candidates : (m, z, y, x)
    white : callable
        Whitens a volume (z, y, x): -log likelihood is half the square of what it gives.
    residual : (z, y, x)
        The other half less the restoration that candidates deviate from, whitened.
    places : Places
    gamma, gamma_max : float
        Temperature, and how far the gate may widen it.
    advance : callable
        Called after every candidate; may raise to stop.
    """
    square, along = [], []
    for candidate in candidates:
        seen = white(candidate)
        square.append(places.sums(seen.square()) / 2)
        along.append(places.sums(seen * residual))
        advance()
    costs = torch.cat([torch.stack([s + sign * a for s, a in zip(square, along, strict=True)], dim=1)
                       for sign in (-1.0, 1.0)], dim=1)  # fmt: skip
    return Weighted(places, candidates, gated_weights(costs, gamma=gamma, gamma_max=max(gamma, gamma_max)))


def sizes_by_other_half(likelihood: HalfLikelihood, residual: Tensor, draws: Tensor) -> Tensor:
    """What brings draws to the size of the errors that the other half shows, by shell: (z, y, x // 2 + 1).

    Parameters
    ----------
    residual : (z, y, x)
        The other half less the restoration: error and independent noise.
    draws : (z, y, x // 2 + 1)
        Mean power of the draws.

    Notes
    -----
    One where nothing was measured, or what is slower than a place: there draws keep the size that they have.
    """
    shape = likelihood.shape
    k = radius(shape)
    heard = likelihood.support & (k >= SLOWEST)
    index = (k / NYQUIST * SHELLS).long().clamp(max=SHELLS - 1)

    def sums(values: Tensor) -> Tensor:
        return shell_sum(values.double() * heard * multiplicity(shape), index, SHELLS)

    noise = sums(likelihood.noise)
    error = torch.maximum(sums(rfft(residual).abs().square()) - noise, LEAST_ERROR * noise)
    drawn = sums(draws)
    gain = torch.where(drawn > 0, (error / drawn.clamp(min=torch.finfo(torch.float64).tiny)).sqrt(), 1.0)
    return torch.where(heard, interpolate(gain, k / NYQUIST).float(), 1.0)


class Importance:
    """Deviations by importance sampling on a box of the tomogram; see the module."""

    knows_places: ClassVar[bool] = True
    wedge_within: ClassVar[float] = Learned.wedge_within
    centred: ClassVar[bool] = False
    needs_halves: ClassVar[bool] = True
    takes: ClassVar[tuple[str, ...]] = ("gamma", "region", "at")

    def __init__(
        self,
        tomogram: WorkingTomogram,
        estimate: Tensor,
        *,
        seed: int,
        turns: str,
        gamma: float = 1.0,
        region: int = 48,
        at: tuple[int, int, int] | None = None,
    ) -> None:
        self.tomogram, self.seed, self.gamma = tomogram, seed, gamma
        self.estimate = estimate[covering(tomogram.plan.frame)]
        self.region = SampledRegion.about(tomogram, region, at)
        self.inner = self.region.cut(tomogram)
        self.around = Learned(tomogram, estimate, seed=seed, turns=turns)
        self.likelihood = HalfLikelihood.of(self.inner)
        self.part = covering(self.inner.plan.frame)
        z, y, x = (s.stop - s.start for s in self.part)
        patch = min(PATCH, z, y, x)
        self.places = Places((z, y, x), patch, min(STEP, patch))
        # What surrounds a box is part of what a restorer sees: halves are restored whole.
        restored = tomogram.restore_each(tomogram.halves)
        self.restored = [half[covering(tomogram.plan.frame)][self.region.box] for half in restored]
        self.sides = [self._weighed(given) for given in (0, 1)]

    def deviation(self, number: int) -> Tensor:
        """Draw `number` (from 1) less the estimate, (z, y, x): working voxels in the tomogram."""
        generator = generator_of(self.seed, number, CHOICE)
        given = int(torch.randint(2, (1,), generator=generator))
        side, around = self.sides[given], self.around.deviation(number)
        own = around[self.region.box]
        heard = self._heard(own)
        apart = self._heard(self.restored[given] - self.estimate[self.region.box])
        made = side.draw(heard, generator=generator) + (1 - side.fallen) * apart
        return self.region.faded(own - heard + self._heard(made), around)

    def facts(self) -> dict[str, Any]:
        """How many candidates count, place by place, and what became of the places; plain data."""
        both = [side.weights for side in self.sides]
        ess = torch.cat([w.ess for w in both])
        held = ~torch.cat([w.fallen_back for w in both])
        start = torch.tensor([s.start for s in self.region.box], dtype=torch.float64)
        bin_ = self.inner.plan.frame.working_bin
        return {
            "candidates": 2 * CANDIDATES, "patch": self.places.patch, "step": self.places.step, "gamma": self.gamma,
            "region_zyx": [[s.start, s.stop] for s in self.region.box],
            "places": len(ess), "calibrated": int(torch.cat([w.calibrated for w in both]).sum()),
            "fallen_back": int((~held).sum()), "ess_median": float(ess[held].median()) if bool(held.any()) else None,
            "message": _message(both),
            "each": {
                "centre_zyx": ((self.places.centres_zyx + start) * bin_).round(decimals=1).tolist(),
                "ess": [w.ess.round(decimals=1).tolist() for w in both],
                "khat": [_finite(w.khat) for w in both],
                "gamma": [w.gamma.round(decimals=3).tolist() for w in both],
                "fallen_back": [w.fallen_back.tolist() for w in both],
            },
        }  # fmt: skip

    @staticmethod
    def work(
        tomogram: WorkingTomogram, number: int, *, seed: int, turns: str, region: int = 48, **_: Any
    ) -> list[int]:
        """Working voxels that take as long to restore as a draw does, with its share of 16 of what is done once."""
        whole, box = math.prod(tomogram.plan.frame.working_zyx), box_voxels(tomogram, region)
        return [round(WORK_SHARE * (whole + 2 * CANDIDATES / 16 * box))]

    @staticmethod
    def made_from() -> dict[str, str]:
        return {**Learned.made_from(), "chosen": CHOSEN}

    def _heard(self, volume: Tensor) -> Tensor:
        """The part of a volume (z, y, x) of the box that the other half hears."""
        axes = covering_axes(self.inner.plan.frame)
        return self.likelihood.heard(continued(volume.contiguous(), axes), SLOWEST)[self.part]

    # -- once for the tomogram ---------------------------------------------------------------------

    def _weighed(self, given: int) -> Weighted:
        """Draws given one half, brought to the size of its errors, and weighed by the other."""
        likelihood, inner, axes = self.likelihood, self.inner, covering_axes(self.inner.plan.frame)
        estimate = continued(self.restored[given].contiguous(), axes)
        residual = inner.halves[1 - given] - estimate
        one = replace(inner, halves=[inner.halves[given]])
        source = Learned(one, estimate, seed=self.seed, turns="any", faced=Faced.of(inner, half=given))
        kept = torch.empty(CANDIDATES, *self.places.shape)
        power = torch.zeros(likelihood.support.shape, dtype=torch.float64)
        for j in range(CANDIDATES):
            kept[j] = draw = source.deviation(FIRST_CANDIDATE + 2 * j + given)
            if j < SIZED_BY:
                power += rfft(continued(draw, axes)).abs().square() / SIZED_BY
            inner.advance(WORK_SHARE * draw.numel())
        heard = sizes_by_other_half(likelihood, residual, power) * likelihood.hears(SLOWEST)
        for j in range(CANDIDATES):
            kept[j] = irfft(rfft(continued(kept[j], axes)) * heard, likelihood.shape)[self.part]

        def white(draw: Tensor) -> Tensor:
            return likelihood.white(continued(draw, axes), SLOWEST)[self.part]

        return weigh(
            kept, white, likelihood.white(residual, SLOWEST)[self.part], self.places, gamma=self.gamma,
            advance=lambda: inner.advance(0.0),
        )  # fmt: skip


def _message(both: list[Weights]) -> str:
    """What became of all places, in a line."""
    named = [torch.cat([getattr(w, name) for w in both]) for name in ("weights", "ess", "khat", "gamma", "fallen_back")]
    return Weights(*named).message


def _finite(values: Tensor) -> list[float | None]:
    """Numbers as JSON has them: none where there is no tail, or too short a one."""
    return [round(value, 3) if math.isfinite(value) else None for value in values.tolist()]
