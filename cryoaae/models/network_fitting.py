"""Fitting a `NetworkSampler` by the learned objective alone: halves, their difference, and turns.

A network has no density, so the objective of `sampling.self_supervised` reads: the mean descends squared errors, the
deviations energy scores about the slower copy's mean, both on two kinds of pairs,

- data: y_even and y_odd, draws with fresh half-difference noise, where y_odd was measured;
- conditional EM: x' drawn given y_even by the slower copy, turned to R x', measured again; and R x'.

Scored are band-passed patches, in which a net of small convolutions can tell laws apart. What no such score tells soon
is how wide draws are where the signal is weak: EM hands an error of the spread back almost whole. The halves tell it
at once, so widths are set and not learned, cell by cell of (shell, angle):

    where y_odd was measured     E |y_odd - m(y_even)|^2 - noise
    in the wedge                 signal - E |m|^2,      isotropy carrying the signal's power there
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cryoaae.models.network_sampler import HalfStatistics, NetworkSampler
from cryoaae.nets.deviation import BAND_ENDS, Seen
from cryoaae.sampling.basis import FourierBasis, grid_turns
from cryoaae.sampling.energy_score import BandPatches, energy_score
from cryoaae.sampling.self_supervised import Halves, follow, other_noise

# The last band of the functionals ends at Nyquist.
FREQ_ENDS = (*BAND_ENDS, 0.5)
# Longest gradient that is followed; early ones of a U-Net are longer.
LONGEST = 0.5
# No cell is taken to be known better than with this share of what a Wiener filter leaves.
LEAST_OPEN = 0.1


@dataclass(frozen=True)
class NetworkFit:
    """How a network is fitted.

    Parameters
    ----------
    steps, batch : int
        Updates, and places in each.
    rate, spread_rate : float
        Of Adam, for the mean and for the deviations; they fall by a half cosine.
    warm_up_steps : int
    draws : int
        Draws a place in an energy score.
    patch : int
        Edge of the patches that are scored, voxels.
    data_places : int
        Of the batch, those that the data are scored on.
    data_weight : float
        Of the data, beside conditional EM.
    memory : float
        The slower copy is a mean over the last 1 / `memory` of the fit so far.
    width_steps : int
        Updates that widths are a mean over, until the end.
    many : int
        Places that the halves' statistics are taken from, and the widths in the end.
    """

    steps: int = 1200
    batch: int = 16
    rate: float = 3e-3
    spread_rate: float = 9e-3
    warm_up_steps: int = 20
    draws: int = 2
    patch: int = 4
    data_places: int = 4
    data_weight: float = 0.5
    memory: float = 20.0
    width_steps: int = 100
    many: int = 2048


class NetworkFitting:
    """Fits a `NetworkSampler` to pairs of halves.

    Parameters
    ----------
    basis : FourierBasis
    measured : (d,) bool
    halves : callable
        ``halves(count, generator)``: observations (count, d) of places, twice, alike but for their noise.
    settings : NetworkFit
    generator : torch.Generator
        Of every random number.
    """

    def __init__(
        self, basis: FourierBasis, measured: Tensor, halves: Halves, settings: NetworkFit, *, generator: torch.Generator
    ) -> None:
        self.measured, self.halves, self.settings, self.generator, self.done = measured, halves, settings, generator, 0
        even, odd = halves(settings.many, generator)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
            self.sampler = NetworkSampler(basis, measured, HalfStatistics.of(even, odd, basis, measured))
        with torch.no_grad():
            self.sampler.deviation.know_loudness(self.sampler.seen(even[: settings.batch]))
        # The slower copy, and what is handed out in the end.
        self.teacher = copy.deepcopy(self.sampler).requires_grad_(False)
        # Errors left, widths drawn and what a Wiener filter leaves: mean squares, by coordinate.
        self.powers = torch.zeros(3, basis.size)
        self.everything = Scored(self.sampler.left_open, torch.ones_like(measured), basis, settings.patch)
        self.data = Scored(self.sampler.signal + self.sampler.noise, measured, basis, settings.patch)
        self.sources = grid_turns(basis.shape)[1]
        self.optimiser = torch.optim.Adam(
            [
                {"params": [*self.sampler.unet.parameters(), self.sampler.open], "lr": settings.rate},
                {"params": self.sampler.deviation.parameters(), "lr": settings.spread_rate},
            ],
            betas=(0.9, 0.99),
        )
        optim, warm_up = torch.optim.lr_scheduler, settings.warm_up_steps
        self.schedule = optim.SequentialLR(
            self.optimiser,
            [
                optim.LinearLR(self.optimiser, 1 / warm_up, total_iters=warm_up),
                optim.CosineAnnealingLR(self.optimiser, max(1, settings.steps - warm_up)),
            ],
            milestones=[warm_up],
        )

    def run(self, steps: int | None = None) -> NetworkSampler:
        """Take `steps` updates (default: all that are left); return the averaged sampler."""
        for _ in range(self.settings.steps - self.done if steps is None else steps):
            self.step()
        if self.done == self.settings.steps:
            self.settle()
        return self.teacher

    @torch.no_grad()
    def settle(self) -> None:
        """Set the widths of what is handed out by many places at once."""
        batches = max(1, self.settings.many // self.settings.batch)
        for index in range(batches):
            self._drawn(*self.halves(self.settings.batch, self.generator), share=1 / (index + 1))

    def step(self) -> None:
        """One update of the sampler, and of the copy that follows it."""
        settings = self.settings
        even, odd = self.halves(settings.batch, self.generator)
        few = settings.data_places
        self.optimiser.zero_grad()
        loss = self.em_score(even, odd) + settings.data_weight * self.data_score(even[:few], odd[:few])
        loss.backward()
        for group in self.optimiser.param_groups:
            nn.utils.clip_grad_norm_(group["params"], LONGEST)
        self.optimiser.step()
        self.schedule.step()
        self.done += 1
        follow(self.teacher, self.sampler, min(1.0, settings.memory / (self.done + settings.memory)))

    def data_score(self, even: Tensor, odd: Tensor) -> Tensor:
        """Mean and draws given the even half against the odd half, where it was measured."""
        with torch.no_grad():
            centre = self.teacher.mean(even)
        seen = self.sampler.seen(even)
        count = self.settings.draws
        noise = torch.stack([other_noise(even, odd, k + 1, self.generator) for k in range(count)])
        draws = centre + self._deviations(seen) + noise
        return self.data.error(self.sampler.restored(seen), odd) + self.data.spread(draws, odd)

    def em_score(self, even: Tensor, odd: Tensor) -> Tensor:
        """Mean and draws given a draw that was turned and measured again, against that draw."""
        with torch.no_grad():
            share = 1 / min(self.done + 1, self.settings.width_steps)
            known = self._turned(self._drawn(even, odd, share))
            again = known * self.measured + other_noise(even, odd, 1, self.generator)
            centre = self.teacher.mean(again)
        seen = self.sampler.seen(again)
        draws = centre + self._deviations(seen)
        return self.everything.error(self.sampler.restored(seen), known) + self.everything.spread(draws, known)

    def _drawn(self, even: Tensor, odd: Tensor, share: float) -> Tensor:
        """A draw (b, d) of the slower copy given the even half, by widths to which the odd half adds this share."""
        teacher = self.teacher
        seen = teacher.seen(even)
        mean = teacher.restored(seen)
        deviation = teacher.deviations(seen, 1, generator=self.generator)[0] / teacher.spread[teacher.cell]
        left = torch.where(self.measured, (odd - mean).square() - teacher.noise, teacher.signal - mean.square())
        self.powers.lerp_(torch.stack([left.mean(dim=0), deviation.square().mean(dim=0), teacher.left_open]), share)
        self._set_widths()
        return mean + teacher.spread[teacher.cell] * deviation

    def _set_widths(self) -> None:
        """Of both samplers."""
        sums = torch.zeros(3, len(self.sampler.spread)).index_add_(1, self.sampler.cell, self.powers)
        width = (torch.maximum(sums[0], LEAST_OPEN * sums[2]) / sums[1]).sqrt()
        for sampler in (self.sampler, self.teacher):
            sampler.spread.copy_(width)

    def _deviations(self, seen: Seen) -> Tensor:
        return self.sampler.deviations(seen, self.settings.draws, generator=self.generator)

    def _turned(self, coefficients: Tensor) -> Tensor:
        """Coefficients (b, d) of the volumes, each by a turn of its own."""
        basis = self.sampler.basis
        volumes = basis.volume(coefficients)
        chosen = torch.randint(len(self.sources), (len(volumes),), generator=self.generator)
        turned = torch.gather(volumes.flatten(1), 1, self.sources[chosen]).reshape(volumes.shape)
        return basis.coefficients(turned).float()


class Scored:
    """Squared errors and energy scores on some coordinates, in units of a power (d,)."""

    def __init__(self, power: Tensor, where: Tensor, basis: FourierBasis, patch: int) -> None:
        self.where, self.basis, self.unit = where, basis, power[where].sqrt()
        spectrum = basis.on_half_spectrum(torch.where(where, power, torch.inf))
        # Beyond the last shell there is nothing.
        spectrum[spectrum == 0] = torch.inf
        self.patches = BandPatches(basis.shape, freq_edges=FREQ_ENDS, patch=patch, power=spectrum)

    def error(self, mean: Tensor, target: Tensor) -> Tensor:
        """Of a mean (b, d), divided by the unit once.

        Not divided, it would be an error of the strong coefficients alone; divided twice, of the many weak ones.
        """
        return ((mean - target)[:, self.where].square() / self.unit).mean() / self.unit.mean()

    def spread(self, draws: Tensor, target: Tensor) -> Tensor:
        """Energy score of draws (k, b, d)."""
        mine, other = (self.patches(self.basis.volume(values * self.where).float()) for values in (draws, target))
        return energy_score(mine, other).mean()
