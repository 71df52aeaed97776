"""Kullback-Leibler divergence of each code's own law: the variational autoencoder."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cryoaae.divergences import DIVERGENCES
from cryoaae.divergences.divergence import Codes
from cryoaae.draws import Draws
from cryoaae.nets.stacked import Stack
from cryoaae.priors.gaussian import Gaussian
from cryoaae.priors.prior import Prior


@DIVERGENCES.register("kl")
class KL(nn.Module):
    """KL(q(z|x) || p), averaged over samples x.

    Parameters
    ----------
    prior : Prior
        With a density.
    stack : tuple of int
        Not needed: it has no parameters.

    Notes
    -----
    Where the others compare the cloud of all codes with the prior, this pulls every code's law towards it
    (Kingma and Welling 2014, appendix B). Against N(0, s^2 I) it is
    ``sum_d (sigma_d^2 + mu_d^2) / (2 s^2) - 1/2 - log(sigma_d / s)``; against any other prior the estimate
    ``log q(z|x) - log p(z)`` at the one z that was drawn, whose gradient needs z to be drawn as
    ``mu + sigma eps``. A single sample is enough. It reads nothing of p.

    Raises
    ------
    ValueError
        If the prior has no density.
    """

    def __init__(self, prior: Prior, *, stack: Stack = ()) -> None:
        super().__init__()
        try:
            prior.log_density(torch.zeros(1, prior.dim))
        except NotImplementedError as error:
            raise ValueError(
                f"the prior {type(prior).__name__} has no density, so there is no KL divergence from it"
            ) from error
        self.prior = prior

    def forward(self, q: Codes, p: Codes, draws: Draws | None = None) -> Tensor:
        """Mean over samples in nats, (*stack,); nothing is drawn.

        Raises
        ------
        ValueError
            If codes come without `mean` and `log_std`, or there is none.
        """
        if q.mean is None or q.log_std is None:
            raise ValueError("a KL divergence needs the law of each code: mean and log_std")
        if q.mean.shape[-1] != self.prior.dim or not q.mean.shape[-2]:
            raise ValueError(f"means of shape {tuple(q.mean.shape)} are not (*stack, n, {self.prior.dim})")
        if isinstance(self.prior, Gaussian):
            return _from_gaussian(q.mean, q.log_std, self.prior.std).mean(dim=-1)
        return (_log_normal(q.samples, q.mean, q.log_std) - self.prior.log_density(q.samples)).mean(dim=-1)

    def critic_loss(self, q: Codes, p: Codes, draws: Draws | None = None) -> None:
        """None: there is nothing to train."""
        return None


def _from_gaussian(mean: Tensor, log_std: Tensor, std: float) -> Tensor:
    square = (log_std.mul(2).exp() + mean.square()) / (2 * std**2)
    return (square - 0.5 - log_std + math.log(std)).sum(dim=-1)


def _log_normal(z: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    standard = (z - mean) * (-log_std).exp()
    return (-0.5 * standard.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(dim=-1)
