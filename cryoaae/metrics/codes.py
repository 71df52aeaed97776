"""How well a cloud of held-out codes follows its prior."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryoaae.metrics.probes import probe_accuracy, probe_log_odds

# Two clouds of one law and size miss each other within so many neighbours once in 2^7.
NEIGHBOURS = 7
OUTSIDE = 0.01


class Sampled(Protocol):
    """What can be drawn from, such as a prior."""

    def sample(self, n: int, *, generator: torch.Generator) -> Tensor:
        """Draw (n, d)."""
        ...


@dataclass(frozen=True)
class Floor:
    """Mean and standard deviation of what a distance reads where there is none."""

    mean: float
    sd: float


def two_sample_accuracy(q: Tensor, p: Tensor, *, seed: int) -> float:
    """How often a fresh classifier tells on unseen codes which cloud they are from: 0.5 if nobody can.

    Parameters
    ----------
    q : (n, d)
    p : (m, d)
        Of the larger cloud as many are drawn as the smaller has, so that chance is one half. A random half of
        both fits the classifier (two hidden layers of 128 units), the other half is told apart.
    seed : int
        Of halves and classifier.

    Returns
    -------
    float
        Accuracy on the unseen half; its standard error is 1 / sqrt(4 min(n, m)) at chance.

    Notes
    -----
    The classifier two-sample test of Lopez-Paz and Oquab 2017. The best accuracy any classifier can have is
    ``(1 + TV) / 2``, TV being the total variation between the laws; what this one reaches is in the mean no more.
    """
    if q.dim() != 2 or q.shape[1:] != p.shape[1:] or min(len(q), len(p)) < 4:
        raise ValueError(f"clouds {tuple(q.shape)} and {tuple(p.shape)} cannot be split and told apart")
    generator = torch.Generator().manual_seed(seed)
    size = min(len(q), len(p))
    one, two = (x.detach().cpu()[torch.randperm(len(x), generator=generator)[:size]] for x in (q, p))
    half = size // 2
    train, test = torch.cat([one[:half], two[:half]]), torch.cat([one[half:], two[half:]])
    named = [torch.arange(2).repeat_interleave(n) for n in (half, size - half)]
    return probe_accuracy(train, named[0], test, named[1], seed=seed)


def fresh_log_ratio(q: Tensor, p: Tensor, points: Tensor, *, seed: int) -> Tensor:
    """Logarithm of the density of q over that of p as a fresh classifier sees it, at points.

    Parameters
    ----------
    q, p : (n, d)
        As many of both, so that the odds are the ratio of the densities.
    points : (m, d)
    seed : int
        Of the classifier.

    Returns
    -------
    (m,) float64
        To be trusted where either cloud has points.
    """
    if q.shape != p.shape:
        raise ValueError(f"clouds {tuple(q.shape)} and {tuple(p.shape)} are not as large as each other")
    named = torch.arange(2).repeat_interleave(len(q))
    return probe_log_odds(torch.cat([p.cpu(), q.cpu()]), named, points, seed=seed)


def mmd_floor(
    prior: Sampled,
    n: int,
    *,
    generator: torch.Generator,
    repeats: int,
    distance: Callable[[Tensor, Tensor], float],
) -> Floor:
    """Read a distance between pairs of clouds of one law: what equality looks like at this size.

    Parameters
    ----------
    prior : Sampled
    n : int
        Codes a cloud.
    generator : torch.Generator
    repeats : int
        Pairs of fresh clouds; two or more.
    distance : callable
        Of two clouds (n, d), such as the unbiased squared MMD; its mean is 0 then, and its deviation shrinks as 1/n.
    """
    if repeats < 2:
        raise ValueError(f"{repeats} repeat(s) have no deviation")
    read = [
        float(distance(prior.sample(n, generator=generator), prior.sample(n, generator=generator)))
        for _ in range(repeats)
    ]
    return Floor(float(np.mean(read)), float(np.std(read, ddof=1)))


def holes(codes: Tensor, prior_draws: Tensor, reference_draws: Tensor) -> float:
    """Share of the prior that no code fills.

    Parameters
    ----------
    codes : (n, d)
    prior_draws : (m, d)
        A cloud of the prior to compare with, best of the codes' size: the finer both are, the smaller the
        holes that show.
    reference_draws : (r, d)
        Other draws of the prior, the places where codes are looked for.

    Returns
    -------
    float
        0 in the mean if codes have the prior's law, 1 if they are nowhere near it; below 0 by chance only.

    Notes
    -----
    A place is missed if its 7 nearest prior draws are all nearer than its nearest code. Under one continuous law
    of codes and draws the order of their distances is random, so with k = 7 a share of exactly
    ``e = prod_i (m - i) / (m + n - i)``, i = 0 ... k - 1, is missed, about 2^-k; ``(missed - e) / (1 - e)`` is
    returned. As 1 - "coverage" of Naeem et al. 2020, but for the correction. The yardstick is local, a few
    spacings of the cloud wherever it lies: one for the whole law would be set by its thin tails, and hide any
    hole in its middle. Where codes are r times rarer than draws, (1 + 1/r)^-k is missed. The rim hides a part of
    every hole, little of it in the plane, most of it beyond five or so dimensions, where all points are near
    some border: a hole found is there, one not found need not be absent. Not meant for laws with atoms,
    such as one-hot codes.
    """
    missed = float((_reach(codes, reference_draws, 1) > _reach(prior_draws, reference_draws, NEIGHBOURS)).mean())
    m, n = len(prior_draws), len(codes)
    expected = math.prod((m - i) / (m + n - i) for i in range(NEIGHBOURS))
    return (missed - expected) / (1 - expected)


def spill(codes: Tensor, prior_draws: Tensor, reference_draws: Tensor) -> float:
    """Share of codes that lie outside of the prior.

    Parameters
    ----------
    codes : (n, d)
    prior_draws : (m, d)
        A cloud of the prior.
    reference_draws : (r, d)
        Other draws of the prior.

    Returns
    -------
    float
        About 0 if codes have the prior's law, or any within it; 1 if all are outside; at least -1/99.

    Notes
    -----
    A code is outside if its distance to its 7th nearest prior draw is beyond the 99th percentile of that distance
    over the reference draws: it lies where the prior is thinner than almost anywhere a draw falls. Of the
    prior's own codes e = 1 % do; returned is ``(outside - e) / (1 - e)``.
    """
    outside = float(outside_prior(codes, prior_draws, reference_draws).double().mean())
    return (outside - OUTSIDE) / (1 - OUTSIDE)


def outside_prior(codes: Tensor, prior_draws: Tensor, reference_draws: Tensor) -> Tensor:
    """Which codes `spill` counts as outside of the prior, (n,) bool; of the prior's own, 1 %."""
    limit = np.quantile(_reach(prior_draws, reference_draws, NEIGHBOURS), 1 - OUTSIDE)
    return torch.from_numpy(_reach(prior_draws, codes, NEIGHBOURS) > limit)


def jensen_shannon_bound(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """Lower bound of the Jensen-Shannon divergence between p and q, in nats: 0 to log 2.

    Parameters
    ----------
    logits_p, logits_q : (*stack, n)
        A discriminator's logits, "is from p", on samples of p and of q that it was not fitted to.

    Returns
    -------
    (*stack,) float64
        Below 0 for a discriminator worse than chance.

    Notes
    -----
    ``log 2 + 1/2 E_p log s(D) + 1/2 E_q log s(-D)``, s the sigmoid; equality for D = log p / q
    (Goodfellow et al. 2014, theorem 1).
    """
    real = torch.nn.functional.logsigmoid(logits_p.double()).mean(dim=-1)
    fake = torch.nn.functional.logsigmoid(-logits_q.double()).mean(dim=-1)
    return math.log(2) + (real + fake) / 2


def _reach(cloud: Tensor, points: Tensor, k: int) -> NDArray[Any]:
    """Distance of each point to its k-th nearest of a cloud, (n,)."""
    from sklearn.neighbors import NearestNeighbors

    if len(cloud) < k or not len(points):
        raise ValueError(f"a cloud of {len(cloud)} and {len(points)} points are too few for {k} neighbours")
    near = NearestNeighbors(n_neighbors=k).fit(cloud.detach().cpu().double().numpy())
    found: NDArray[Any] = near.kneighbors(points.detach().cpu().double().numpy())[0][:, -1]
    return found
