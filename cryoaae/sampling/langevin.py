"""Langevin walks on a posterior of a tomogram, preconditioned in Fourier space (CryoWGEN-II).

    E(x) = c(x) / gamma + |x|^2_{1/S} / 2 + further(x),     c(x) = |M F x - M F y|^2_{1/N} / 2 = -log likelihood

S is the power of a Gaussian reference: without it nothing bounds the wedge and chains diffuse (SCIENCE E10).
`further` is what a prior knows beyond the reference, -log(prior / reference). A step of size h is

    x' = x - h P grad E(x) + sqrt(2 h) P^(1/2) xi,     P = (M / (gamma N) + 1 / S)^-1

With ``temper="posterior"`` the whole of E is divided by gamma, not c alone: gamma -> 0 is then a MAP estimate, while
with "data" the wedge keeps the prior's spread at every gamma (SCIENCE E12b). They are one at gamma = 1, the only
temperature at which the spread is a calibrated one.

A step may be put to a Metropolis test (MALA; Roberts and Tweedie 1996), which makes its law exact for every h.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Literal

import torch
from torch import Tensor

from cryoaae.physics.fourier import irfft, multiplicity, rfft

# Best acceptance of MALA in many dimensions (Roberts and Rosenthal 1998).
TARGET_ACCEPTANCE = 0.574
# How fast the step is adapted: the change of log h fades as (1 + i)^-ADAPTATION_DECAY.
ADAPTATION_DECAY = 0.6
# The step that is kept is the mean over this last share of the burn-in.
ADAPTATION_KEPT = 0.5

Energy = Callable[[Tensor], Tensor]
Temper = Literal["data", "posterior"]


@dataclass(frozen=True)
class WedgePosterior:
    """Energy of a posterior, for any number of chains at once.

    Parameters
    ----------
    measured : (z, y, x) or (chains, z, y, x)
        The data y; chains may walk at different places.
    support : (z, y, x // 2 + 1) bool
        What was measured.
    noise_power, reference_power : (z, y, x // 2 + 1)
        N and S, per coefficient. Coefficients without reference power are held at zero.
    further : callable, optional
        Volumes (chains, z, y, x) to energies (chains,), differentiable. Nothing random: what it draws must be frozen.
    gamma : float
        Temperature.
    temper : {"data", "posterior"}
        What gamma divides.
    """

    measured: Tensor
    support: Tensor
    noise_power: Tensor
    reference_power: Tensor
    further: Energy | None = None
    gamma: float = 1.0
    temper: Temper = "data"

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ValueError(f"temperature {self.gamma}")
        if not bool((self.noise_power[self.support] > 0).all()):
            raise ValueError("noise power must be positive wherever something was measured")

    @cached_property
    def band(self) -> Tensor:
        """Coefficients that move, (z, y, x // 2 + 1) bool."""
        return self.reference_power > 0

    @cached_property
    def _curvatures(self) -> tuple[Tensor, Tensor]:
        """Of the likelihood and of the reference, per coefficient, temperature included."""
        likelihood = torch.where(self.support & self.band, 1.0 / self.noise_power, 0.0) / self.gamma
        reference = torch.where(self.band, 1.0 / self.reference_power, 0.0)
        return likelihood, reference / (self.gamma if self.temper == "posterior" else 1.0)

    @cached_property
    def _data(self) -> Tensor:
        return rfft(self.measured)

    @cached_property
    def preconditioner(self) -> Tensor:
        """P, the inverse curvature of likelihood and reference; zero where nothing moves."""
        likelihood, reference = self._curvatures
        return torch.where(self.band, 1.0 / (likelihood + reference), 0.0)

    def energy_and_gradient(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (chains,) and gradients (chains, z, y, x // 2 + 1), as spectra, of volumes (chains, z, y, x)."""
        likelihood, reference = self._curvatures
        spectrum = rfft(volume)
        apart = spectrum - self._data
        gradient = likelihood * apart + reference * spectrum
        power = likelihood * apart.abs().square() + reference * spectrum.abs().square()
        energy = 0.5 * _total(power, volume.shape)
        if self.further is not None:
            scale = 1.0 / self.gamma if self.temper == "posterior" else 1.0
            with torch.enable_grad():
                moving = volume.detach().requires_grad_()
                more = self.further(moving) * scale
                (slope,) = torch.autograd.grad(more.sum(), moving)
            energy, gradient = energy + more.detach(), gradient + rfft(slope) * self.band
        return energy, gradient


def _total(values: Tensor, shape: Sequence[int]) -> Tensor:
    """Sum over the full spectrum of values on the half spectrum, (..., z, y, x // 2 + 1) -> (...,)."""
    return (values * multiplicity(shape[-3:], device=values.device)).sum(dim=(-3, -2, -1))


@dataclass(frozen=True)
class LangevinRun:
    """What a walk gives.

    Parameters
    ----------
    last : (chains, z, y, x)
        Where the chains stand: one draw each.
    mean, variance : (z, y, x) float64
        Over all chains and all steps after the burn-in.
    records : (chains, draws, f)
        Functionals of every recorded state after the burn-in.
    step : float
        Size h after the burn-in.
    acceptance : float
        Mean probability of acceptance after the burn-in; of an uncorrected walk, what it would be.
    """

    last: Tensor
    mean: Tensor
    variance: Tensor
    records: Tensor
    step: float
    acceptance: float


@dataclass(frozen=True)
class _State:
    volume: Tensor
    energy: Tensor
    gradient: Tensor


def _proposed(
    state: _State, posterior: WedgePosterior, step: float, generator: torch.Generator
) -> tuple[_State, Tensor]:
    """A step of every chain, and the logarithm of the Metropolis-Hastings ratio."""
    shape = state.volume.shape
    white = torch.randn(shape, generator=generator, device=state.volume.device, dtype=state.volume.dtype)
    noise = rfft(white) * posterior.band
    precondition = posterior.preconditioner
    root = precondition.sqrt()
    drift = irfft(math.sqrt(2 * step) * root * noise - step * precondition * state.gradient, shape[-3:])
    new = state.volume + drift
    energy, gradient = posterior.energy_and_gradient(new)
    # log q(x | x') - log q(x' | x): the way back needs the noise -xi + sqrt(h / 2) P^(1/2) (g + g').
    back = math.sqrt(step / 2) * root * (state.gradient + gradient) - noise
    forth_and_back = 0.5 * _total(noise.abs().square() - back.abs().square(), shape)
    return _State(new, energy, gradient), state.energy - energy + forth_and_back


def _moved(
    state: _State, posterior: WedgePosterior, step: float, corrected: bool, generator: torch.Generator
) -> tuple[_State, float]:
    """Where the chains go, and the mean probability with which the step is accepted."""
    new, log_ratio = _proposed(state, posterior, step, generator)
    # What overflowed is never accepted.
    probability = log_ratio.clamp(max=0.0).exp().nan_to_num(0.0)
    if corrected:
        uniform = torch.rand(probability.shape, generator=generator, device=probability.device)
        new = _chosen(new, state, uniform < probability)
    return new, float(probability.mean())


def _burnt_in(
    state: _State, posterior: WedgePosterior, step: float, steps: int, target: float, corrected: bool,
    generator: torch.Generator,
) -> tuple[_State, float]:  # fmt: skip
    """Walk `steps` steps while the step size goes to where `target` of them are accepted."""
    logs: list[float] = []
    for i in range(steps):
        state, probability = _moved(state, posterior, step, corrected, generator)
        # Robbins-Monro: the changes add up without bound, their noise does not.
        step *= math.exp((probability - target) / (1 + i) ** ADAPTATION_DECAY)
        logs.append(math.log(step))
    return state, math.exp(fmean(logs[-math.ceil(ADAPTATION_KEPT * steps) :])) if logs else step


def walk(
    posterior: WedgePosterior,
    start: Tensor,
    *,
    burn_in: int,
    steps: int,
    generator: torch.Generator,
    step: float | None = None,
    corrected: bool = True,
    target_acceptance: float = TARGET_ACCEPTANCE,
    functionals: Callable[[Tensor], Tensor] | None = None,
    record_every: int = 1,
) -> LangevinRun:
    """Let chains walk on a posterior.

    Parameters
    ----------
    posterior : WedgePosterior
    start : (chains, z, y, x)
        Over-dispersed, or R-hat flatters; content outside the band is dropped.
    burn_in : int
        Steps in which the step size is adapted and nothing is kept; with none, `step` is kept as it is.
    steps : int
        Steps after that, one or more.
    generator : torch.Generator
    step : float, optional
        First step size h; 1 is the inverse curvature of likelihood and reference. Default: by dimension.
    corrected : bool
        Put steps to the Metropolis test. Without it the law is off by the order of h.
    target_acceptance : float
        To which the step is adapted; of an uncorrected walk, one near 1 keeps its error small.
    functionals : callable, optional
        Volumes (chains, z, y, x) to what is recorded of them, (chains, f), for `diagnose`.
    record_every : int
        Steps from one record to the next.
    """
    shape = start.shape[-3:]
    volume = irfft(rfft(start) * posterior.band, shape)
    state = _State(volume, *posterior.energy_and_gradient(volume))
    first = step if step is not None else float(_total(posterior.band.double(), shape)) ** (-1 / 3)
    state, size = _burnt_in(state, posterior, first, burn_in, target_acceptance, corrected, generator)
    total, squares = (torch.zeros(shape, dtype=torch.float64, device=start.device) for _ in range(2))
    accepted, records = [], []
    for i in range(steps):
        state, probability = _moved(state, posterior, size, corrected, generator)
        accepted.append(probability)
        total += state.volume.double().mean(dim=0) / steps
        squares += state.volume.double().square().mean(dim=0) / steps
        if functionals is not None and i % record_every == 0:
            records.append(functionals(state.volume))
    recorded = torch.stack(records, dim=1) if records else start.new_zeros(len(start), 0, 0)
    return LangevinRun(state.volume, total, squares - total.square(), recorded, size, fmean(accepted))


def _chosen(new: _State, old: _State, accept: Tensor) -> _State:
    wide = accept[:, None, None, None]
    return _State(
        torch.where(wide, new.volume, old.volume),
        torch.where(accept, new.energy, old.energy),
        torch.where(wide, new.gradient, old.gradient),
    )


def anneal(
    posterior: WedgePosterior,
    start: Tensor,
    gammas: Sequence[float],
    *,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Cool chains (chains, z, y, x) through falling temperatures of the whole posterior, to a local MAP each.

    At every temperature the step is adapted anew for `steps` steps. The spread that is left is that of the last gamma:
    its square root, in units of the posterior's own at gamma = 1.
    """
    volume = start
    for gamma in gammas:
        cooler = replace(posterior, gamma=gamma, temper="posterior")
        volume = walk(cooler, volume, burn_in=steps, steps=1, generator=generator).last
    return volume
