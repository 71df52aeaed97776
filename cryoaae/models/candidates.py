"""Codes that stand for a prior when expectations under a posterior are taken: self-normalised importance sampling.

Draws of the prior alone leave few candidates where a posterior is narrow, so others are proposed around given
centres. All are held against the one mixture they came from (deterministic mixture weights, Veach & Guibas 1995).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryoaae.draws import Draws
from cryoaae.priors.prior import Prior


@dataclass(frozen=True)
class Candidates:
    """Codes that stand for the prior.

    Parameters
    ----------
    codes : (*stack, m, dim)
    log_weights : (*stack, m)
        Logarithm of prior over proposal density: candidates near the centres count for less.
    """

    codes: Tensor
    log_weights: Tensor


def from_prior(prior: Prior, count: int, draws: Draws) -> Candidates:
    """Draw `count` candidates of equal weight."""
    codes = draws.each(lambda g: prior.sample(count, generator=g, dtype=draws.dtype))
    return Candidates(codes, torch.zeros_like(codes[..., 0]))


def with_local(prior: Prior, count: int, centres: Tensor, each: int, width: float, draws: Draws) -> Candidates:
    """Draw `count` candidates from the prior and some around each centre.

    Parameters
    ----------
    prior : Prior
        With a density.
    centres : (*stack, n, dim)
    each : int
        Candidates a centre, normal with the standard deviation `width`.
    """
    drawn = from_prior(prior, count, draws).codes
    around = centres.repeat_interleave(each, dim=-2)
    local = around + width * draws.normal(*around.shape[-2:])
    codes = torch.cat([drawn, local], dim=-2)
    log_prior = prior.log_density(codes)
    distances = torch.cdist(codes / width, centres / width).square()
    log_local = (-0.5 * distances).logsumexp(dim=-1) - math.log(centres.shape[-2])
    log_local = log_local - prior.dim * (math.log(width) + 0.5 * math.log(2 * math.pi))
    share = local.shape[-2] / codes.shape[-2]
    mixture = torch.logaddexp(log_prior + math.log(1 - share), log_local + math.log(share))
    return Candidates(codes, log_prior - mixture)


def has_density(prior: Prior) -> bool:
    """Whether proposals around centres can be weighted: in closed form, and by volume (one-hot codes have none)."""
    try:
        return bool(prior.log_density(torch.zeros(1, prior.dim)).isfinite())
    except NotImplementedError:
        return False
