"""Whether draws suffice: R-hat and effective sample size of chains, Pareto k of importance weights.

The estimators are those of ArviZ (its array functions need numpy and scipy alone): rank-normalised split
R-hat and bulk effective sample size after Vehtari et al. 2021; k of the generalised Pareto law fitted to
the largest weights by Zhang and Stephens 2009, and the weights smoothed by it, after Vehtari et al. 2024.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

RHAT_MAX = 1.05
ESS_MIN = 50.0
# Below this k the smoothed weights' averages converge at a rate worth having (Vehtari et al. 2024, section 3).
KHAT_MAX = 0.7
# R-hat compares halves of chains, and a spectrum of lags needs some draws to be one.
FEWEST_DRAWS = 8


@dataclass(frozen=True)
class Diagnosis:
    """What chains say of their own convergence.

    Parameters
    ----------
    names : tuple of str
        Functionals that were recorded.
    rhat, ess : (f,) float64
        R-hat and bulk effective sample size of each, over all chains.
    """

    names: tuple[str, ...]
    rhat: Tensor
    ess: Tensor

    @property
    def converged(self) -> bool:
        """Whether every functional has R-hat below 1.05 and an effective sample size above 50."""
        return bool((self.rhat < RHAT_MAX).all() and (self.ess > ESS_MIN).all())

    @property
    def message(self) -> str:
        """One line: the worst functional, and what to do if it is not good enough."""
        i, j = int(self.rhat.nan_to_num(torch.inf).argmax()), int(self.ess.nan_to_num(0.0).argmin())
        worst = (
            f"largest R-hat {float(self.rhat[i]):.3f} ({self.names[i]}), "
            f"smallest effective sample size {float(self.ess[j]):.0f} ({self.names[j]})"
        )
        if self.converged:
            return f"chains agree: {worst}"
        return f"chains have not converged: {worst}; take more steps, or do not use this spread"


def diagnose(chains: Tensor, names: Sequence[str] | None = None) -> Diagnosis:
    """Judge chains (c, n, f) of n draws of f functionals, burn-in left out.

    Raises
    ------
    ValueError
        With fewer than two chains or 8 draws: nothing could be compared.
    """
    c, n, f = chains.shape
    if c < 2 or n < FEWEST_DRAWS:
        raise ValueError(f"{c} chain(s) of {n} draws cannot be compared: need 2 of {FEWEST_DRAWS}")
    named = tuple(names) if names is not None else tuple(str(i) for i in range(f))
    if len(named) != f:
        raise ValueError(f"{len(named)} names for {f} functionals")
    return Diagnosis(named, split_rhat(chains), bulk_ess(chains))


def split_rhat(chains: Tensor) -> Tensor:
    """Rank-normalised split R-hat, the larger of plain and folded, (c, n, f) -> (f,) float64."""
    from arviz_stats.base import array_stats

    return _tensor(array_stats.rhat(_array(chains), chain_axis=0, draw_axis=1, method="rank"))


def bulk_ess(chains: Tensor) -> Tensor:
    """Effective number of independent draws in the bulk of the law, (c, n, f) -> (f,) float64."""
    from arviz_stats.base import array_stats

    return _tensor(array_stats.ess(_array(chains), chain_axis=0, draw_axis=1, method="bulk"))


def pareto_smoothed(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Smooth the largest importance weights and say how heavy their tail is.

    Parameters
    ----------
    log_weights : (p, m)
        Of m candidates at p places, up to a constant a place.

    Returns
    -------
    log_weights : (p, m) float64
        Smoothed, and normalised so that the weights of a place sum to one.
    khat : (p,) float64
        Shape of the tail; above 0.7 averages cannot be trusted. Weights that are all alike have none (-inf); infinite
        where so few count that there is nothing to fit.
    """
    rows = [_smoothed_row(row) for row in _array(log_weights)]
    return torch.stack([_tensor(weights) for weights, _ in rows]), _tensor([khat for _, khat in rows])


def _smoothed_row(log_weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    from arviz_stats.base import array_stats

    plain = log_weights - np.logaddexp.reduce(log_weights)
    if np.ptp(plain) < np.finfo(float).eps * len(plain):
        return plain, -math.inf
    try:
        with np.errstate(all="ignore"):
            # It takes log-likelihoods left out, whose weight is their inverse: hence the sign.
            smoothed, khat = array_stats.psislw(-plain, axis=-1)
    except ValueError:  # a tail of equal weights, or of fewer than five
        return plain, math.inf
    if not (math.isfinite(float(khat)) and np.isfinite(smoothed).any()):
        return plain, math.inf
    return smoothed, float(khat)


def _array(values: Tensor) -> NDArray[np.float64]:
    return values.detach().double().cpu().numpy()


def _tensor(values: ArrayLike) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.asarray(values, dtype=np.float64)))
