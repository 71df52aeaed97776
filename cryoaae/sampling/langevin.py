"""Langevin walks on a posterior of a tomogram, preconditioned in Fourier space (CryoWGEN-II).

    E(x) = c(x) / gamma + |x|^2_{1/S} / 2 + further(x),     c(x) = |M F x - M F y|^2_{1/N} / 2 = -log likelihood

S is the power of a Gaussian reference: without it nothing bounds the wedge and chains diffuse (SCIENCE E10).
`further` is what a prior knows beyond the reference, -log(prior / reference). A step of size h is

    x' = x - h P grad E(x) + sqrt(2 h) P^(1/2) xi,     P = (M / (gamma N) + 1 / S)^-1

With ``temper="posterior"`` the whole of E is divided by gamma, not c alone: gamma -> 0 is then a MAP estimate, while
with "data" the wedge keeps the prior's spread at every gamma (SCIENCE E12b). They are one at gamma = 1, the only
temperature at which the spread is a calibrated one.

A step may be put to a Metropolis test (MALA; Roberts and Tweedie 1996), which makes its law exact for every h.

Likelihood and reference are Gaussian and diagonal: together N(m, P). With ``scheme="exact"`` their part of the same
equation is solved, not stepped (an Ornstein-Uhlenbeck process; after Cotter et al. 2013), U the further energy:

    x' = m + a (x - m) - (1 - a) P grad U(x) + sqrt(1 - a^2) P^(1/2) xi,     a = exp(-h)

Then only U limits the step, not the number of voxels; without it all steps are accepted and draws are exact.
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

# A chain that takes this step has forgotten where it was.
LARGEST_STEP = 20.0

Energy = Callable[[Tensor], Tensor]
Temper = Literal["data", "posterior"]
Scheme = Literal["euler", "exact"]
# First step of the exact scheme, before it is adapted: the chain forgets a third.
FIRST_EXACT = 0.4


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
        if self.further is None:
            return energy, gradient
        more, slope = self.further_and_gradient(volume)
        return energy + more, gradient + slope

    def further_and_gradient(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """The same of what the prior knows beyond the reference, temperature included; zeros where it knows nothing."""
        if self.further is None:
            return volume.new_zeros(len(volume)), torch.zeros_like(rfft(volume))
        scale = 1.0 / self.gamma if self.temper == "posterior" else 1.0
        with torch.enable_grad():
            moving = volume.detach().requires_grad_()
            more = self.further(moving) * scale
            (slope,) = torch.autograd.grad(more.sum(), moving)
        return more.detach(), rfft(slope) * self.band

    @cached_property
    def centre(self) -> Tensor:
        """Mean of the Gaussian that likelihood and reference make, m, as a spectrum."""
        return self.preconditioner * self._curvatures[0] * self._data


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


def _state(volume: Tensor, posterior: WedgePosterior, scheme: Scheme) -> _State:
    """A state with the energy that is stepped: all of it, or what is beyond the Gaussian part."""
    known = posterior.further_and_gradient if scheme == "exact" else posterior.energy_and_gradient
    return _State(volume, *known(volume))


def _noise(state: _State, posterior: WedgePosterior, generator: torch.Generator) -> Tensor:
    like = state.volume
    white = torch.randn(like.shape, generator=generator, device=generator.device, dtype=like.dtype)
    return rfft(white.to(like.device)) * posterior.band


def _exact_step(
    state: _State, posterior: WedgePosterior, step: float, generator: torch.Generator
) -> tuple[_State, Tensor]:
    """A step that solves the Gaussian part, and the logarithm of the Metropolis-Hastings ratio.

    The Gaussian part is reversible by itself, so that only the further energy is left in the ratio:

        U - U' + (<g, z' - a z> - <g', z - a z'>) / (1 + a) + (1 - a) / (1 + a) (g P g - g' P g') / 2,    z = x - m
    """
    shape, a = state.volume.shape, math.exp(-step)
    precondition, centre = posterior.preconditioner, posterior.centre
    apart = (rfft(state.volume) - centre) * posterior.band
    drift = math.sqrt(1 - a * a) * precondition.sqrt() * _noise(state, posterior, generator)
    after = a * apart - (1 - a) * precondition * state.gradient + drift
    new = _state(irfft(centre + after, shape[-3:]), posterior, "exact")

    def dot(one: Tensor, other: Tensor) -> Tensor:
        return _total((one.conj() * other).real.double(), shape)

    along = dot(state.gradient, after - a * apart) - dot(new.gradient, apart - a * after)
    curved = dot(state.gradient, precondition * state.gradient) - dot(new.gradient, precondition * new.gradient)
    return new, state.energy - new.energy + (along + (1 - a) * curved / 2) / (1 + a)


def _euler_step(
    state: _State, posterior: WedgePosterior, step: float, generator: torch.Generator
) -> tuple[_State, Tensor]:
    """A step of every chain, and the logarithm of the Metropolis-Hastings ratio."""
    shape = state.volume.shape
    noise = _noise(state, posterior, generator)
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
    state: _State, posterior: WedgePosterior, step: float, corrected: bool, generator: torch.Generator,
    scheme: Scheme,
) -> tuple[_State, float]:  # fmt: skip
    """Where the chains go, and the mean probability with which the step is accepted."""
    stepped = _exact_step if scheme == "exact" else _euler_step
    new, log_ratio = stepped(state, posterior, step, generator)
    # What overflowed is never accepted.
    probability = log_ratio.clamp(max=0.0).exp().nan_to_num(0.0)
    if corrected:
        uniform = torch.rand(probability.shape, generator=generator, device=generator.device)
        new = _chosen(new, state, uniform.to(probability.device) < probability)
    return new, float(probability.mean())


def _burnt_in(
    state: _State, posterior: WedgePosterior, step: float, steps: int, target: float, corrected: bool,
    generator: torch.Generator, scheme: Scheme,
) -> tuple[_State, float]:  # fmt: skip
    """Walk `steps` steps while the step size goes to where `target` of them are accepted."""
    logs: list[float] = []
    for i in range(steps):
        state, probability = _moved(state, posterior, step, corrected, generator, scheme)
        # Robbins-Monro: the changes add up without bound, their noise does not.
        step = min(step * math.exp((probability - target) / (1 + i) ** ADAPTATION_DECAY), LARGEST_STEP)
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
    scheme: Scheme = "euler",
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
    scheme : {"euler", "exact"}
        How the Gaussian part is stepped; see the module.
    """
    shape = start.shape[-3:]
    volume = irfft(rfft(start) * posterior.band, shape)
    state = _state(volume, posterior, scheme)
    by_size = FIRST_EXACT if scheme == "exact" else float(_total(posterior.band.double(), shape)) ** (-1 / 3)
    first = step if step is not None else by_size
    state, size = _burnt_in(state, posterior, first, burn_in, target_acceptance, corrected, generator, scheme)
    total, squares = (torch.zeros(shape, dtype=torch.float64, device=start.device) for _ in range(2))
    accepted, records = [], []
    for i in range(steps):
        state, probability = _moved(state, posterior, size, corrected, generator, scheme)
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
    scheme: Scheme = "euler",
) -> Tensor:
    """Cool chains (chains, z, y, x) through falling temperatures of the whole posterior, to a local MAP each.

    At every temperature the step is adapted anew for `steps` steps. The spread that is left is that of the last gamma:
    its square root, in units of the posterior's own at gamma = 1.
    """
    volume = start
    for gamma in gammas:
        cooler = replace(posterior, gamma=gamma, temper="posterior")
        volume = walk(cooler, volume, burn_in=steps, steps=1, generator=generator, scheme=scheme).last
    return volume
