"""Self-normalised importance sampling: candidates drawn once, weighted by the data (CryoWGEN-I).

    q(x | y)  ~  kappa(x) exp((b(x) - c(x, y)) / gamma),    weight_j  ~  exp((b_j - c(x_j, y)) / gamma),   x_j ~ kappa

Two kinds of candidates are valid: draws from a reference kappa that never saw y (other places, turned at
random); or draws given y_even, weighted by c(x, y_odd), whose noise is independent. Weighting draws by the y
that they were drawn from counts the data twice (SCIENCE E11). c is a negative log-likelihood, so a
spread is calibrated at gamma = 1 only.

Weights collapse as dimensions grow: patches here have eight coefficients or fewer. How many candidates
count is said place by place, and a place that cannot be trusted is not passed on as if it could.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from cryoaae.sampling.diagnostics import KHAT_MAX, pareto_smoothed

ESS_MIN = 30.0
WIDENING = 1.5


@dataclass(frozen=True)
class Weights:
    """Normalised weights of m candidates at p places.

    Parameters
    ----------
    weights : (p, m) float64
        Pareto-smoothed; rows sum to one.
    ess : (p,) float64
        Effective number of candidates, 1 / sum of squared weights.
    khat : (p,) float64
        Shape of the weights' tail.
    gamma : (p,) float64
        Temperature they were made at.
    fallen_back : (p,) bool
        Whether no temperature would do and all candidates weigh alike.
    """

    weights: Tensor
    ess: Tensor
    khat: Tensor
    gamma: Tensor
    fallen_back: Tensor

    @property
    def calibrated(self) -> Tensor:
        """Places whose spread may be called calibrated, (p,) bool."""
        return (self.gamma == 1.0) & ~self.fallen_back

    @property
    def message(self) -> str:
        """One line: how many places are calibrated, widened, fallen back."""
        back = int(self.fallen_back.sum())
        good = int(self.calibrated.sum())
        tempered = len(self.gamma) - good - back
        text = (
            f"{good} of {len(self.gamma)} places calibrated "
            f"(median effective number of candidates {float(self.ess.median()):.0f})"
        )
        if tempered:
            hottest = float(self.gamma[~self.fallen_back].max())
            text += f"; {tempered} at another temperature than 1, up to {hottest:.2g}: not calibrated"
        if back:
            text += f"; {back} fell back to unweighted candidates: draw more of them, or take smaller patches"
        return text


def squared_cost(candidates: Tensor, y: Tensor, noise_power: Tensor, measured: Tensor) -> Tensor:
    """Negative log-likelihood up to a constant of candidates (m, d) or (p, m, d) for data (p, d): (p, m).

    Parameters
    ----------
    noise_power, measured : (d,)
        Variance of the noise, and what was observed.
    """
    apart = candidates - y[:, None]
    return 0.5 * (apart.square() * (measured / noise_power)).sum(dim=-1)


def boltzmann_weights(costs: Tensor, *, gamma: float | Tensor = 1.0, potential: Tensor | None = None) -> Weights:
    """Weights exp((b - c) / gamma) of candidates, smoothed and judged.

    Parameters
    ----------
    costs : (p, m)
        c of each candidate at each place.
    gamma : float or (p,)
        Temperature.
    potential : (m,) or (p, m), optional
        Dual potential b of the candidates; none is plain Bayes with kappa as the prior.
    """
    temperature = torch.as_tensor(gamma, dtype=torch.float64, device=costs.device).expand(len(costs))
    if not bool((temperature > 0).all()):
        raise ValueError(f"temperature {float(temperature.min())}")
    gain = -costs.double() if potential is None else potential.double() - costs.double()
    log_weights, khat = pareto_smoothed(gain / temperature[:, None])
    weights = log_weights.softmax(dim=-1).to(costs.device)
    ess = 1.0 / weights.square().sum(dim=-1)
    return Weights(weights, ess, khat.to(costs.device), temperature, torch.zeros_like(temperature, dtype=torch.bool))


def gated_weights(
    costs: Tensor,
    *,
    gamma: float = 1.0,
    gamma_max: float = 8.0,
    ess_min: float = ESS_MIN,
    khat_max: float = KHAT_MAX,
    potential: Tensor | None = None,
) -> Weights:
    """Weights that pass a gate: the temperature of a place is widened until they do, or it falls back.

    A place with fewer than `ess_min` effective candidates or a tail above `khat_max` is tried again at 1.5 times
    the temperature, up to `gamma_max`; where that is not enough all candidates weigh alike: they are then
    draws from what they came from. Only places at gamma = 1 are `calibrated`.
    """
    found = boltzmann_weights(costs, gamma=gamma, potential=potential)
    while bool((failing := _failing(found, ess_min, khat_max)).any()):
        wider = torch.where(failing, found.gamma * WIDENING, found.gamma)
        if float(wider[failing].min()) > gamma_max * (1 + 1e-9):
            break
        again = boltzmann_weights(costs[failing], gamma=wider[failing], potential=_rows(potential, failing))
        found = _replaced(found, failing, again)
    failing = _failing(found, ess_min, khat_max)
    level = torch.where(failing[:, None], 1.0 / costs.shape[-1], found.weights)
    ess = torch.where(failing, float(costs.shape[-1]), found.ess)
    return Weights(level, ess, found.khat, found.gamma, failing)


def _failing(found: Weights, ess_min: float, khat_max: float) -> Tensor:
    # A tail that could not be fitted (NaN, infinite) is no tail to trust.
    return (found.ess < ess_min) | ~(found.khat <= khat_max)


def _rows(potential: Tensor | None, chosen: Tensor) -> Tensor | None:
    return potential[chosen] if potential is not None and potential.dim() == 2 else potential


def _replaced(old: Weights, where: Tensor, new: Weights) -> Weights:
    def merged(mine: Tensor, other: Tensor) -> Tensor:
        values = mine.clone()
        values[where] = other
        return values

    return Weights(*(merged(getattr(old, f.name), getattr(new, f.name)) for f in fields(Weights)))


def weighted_moments(candidates: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance, (p, d) each, of candidates (m, d) or (p, m, d) under weights (p, m)."""
    wide = candidates.double().expand(len(weights), *candidates.shape[-2:])
    mean = torch.einsum("pm,pmd->pd", weights, wide)
    return mean, torch.einsum("pm,pmd->pd", weights, (wide - mean[:, None]).square())


def resampled(candidates: Tensor, weights: Tensor, count: int, *, generator: torch.Generator) -> Tensor:
    """Draw `count` candidates at each place by their weights, (p, count, d)."""
    index = torch.multinomial(weights, count, replacement=True, generator=generator)
    wide = candidates.expand(len(weights), *candidates.shape[-2:])
    return wide.gather(1, index[..., None].expand(-1, -1, candidates.shape[-1]))
