"""Entropic optimal transport: as a debiased divergence, and as a plan with its potentials."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn

from cryoaae.divergences import DIVERGENCES
from cryoaae.divergences.clouds import squared_distances, two_clouds
from cryoaae.divergences.divergence import Codes
from cryoaae.draws import Draws
from cryoaae.nets.stacked import Stack
from cryoaae.priors.prior import Prior

# Distance from which temperatures come down, in units of scale sqrt(dim): twice the span of a normal cloud.
DIAMETER = 16.0
# Iterations between two looks at the marginals; a look waits for the device.
LOOK_EVERY = 10
COOLING = 0.5


@DIVERGENCES.register("sinkhorn")
class Sinkhorn(nn.Module):
    """Debiased Sinkhorn divergence, cost |x - y|^2 / 2.

    Parameters
    ----------
    prior : Prior
    stack : tuple of int
        Not needed: it has no parameters.
    gamma : float
        Temperature, in units of the prior's scale^2.
    scaling : float
        Ratio of successive blurs on the way down to sqrt(gamma), one iteration each: nearer to 1 is slower
        and nearer to convergence.

    Notes
    -----
    ``S(q, p) = OT(q, p) - OT(q, q) / 2 - OT(p, p) / 2`` with ``OT(q, p) = min_pi <pi, c> + gamma KL(pi | q x p)``
    (Feydy et al. 2019, eq. 3), solved by geomloss; gamma -> 0: half the squared Wasserstein-2 distance. Zero for
    equal clouds; two clouds of n points of one law are apart by their sampling error. One point in a cloud is
    enough, it is then a Dirac and the divergence right.

    The gradient is that of the converged problem taken at potentials that are nearly so. Between two clouds of
    256 points of one law in 2-D, gamma = 0.05, where it is worst, it errs by 0.5 (scaling 0.7), 0.15 (0.9) or
    0.06 (0.95) of its length; far from the prior by some percent.
    """

    def __init__(self, prior: Prior, *, stack: Stack = (), gamma: float = 0.05, scaling: float = 0.7) -> None:
        super().__init__()
        if gamma <= 0 or not 0 < scaling < 1:
            raise ValueError(f"gamma {gamma} must be positive and scaling {scaling} between 0 and 1")
        from geomloss import SamplesLoss

        self.dim = prior.dim
        # Left to geomloss, the diameter is that of the whole stack, and one member's outlier changes the others.
        self.loss = SamplesLoss(
            "sinkhorn",
            p=2,
            blur=math.sqrt(gamma) * prior.scale,
            diameter=DIAMETER * math.sqrt(prior.dim) * prior.scale,
            scaling=scaling,
            debias=True,
            backend="tensorized",
        )

    def forward(self, q: Codes, p: Codes, draws: Draws | None = None) -> Tensor:
        """Divergence in squared units of a code, (*stack,); nothing is drawn."""
        x, y = two_clouds(q, p, self.dim)
        # S(x, y) = S(x - E x, y - E y) + |E x - E y|^2 / 2: the shift costs no iterations, however far it is.
        at, to = x.mean(dim=-2, keepdim=True), y.mean(dim=-2, keepdim=True)
        return self.loss(x - at, y - to) + (at - to).square().sum(dim=(-2, -1)) / 2

    def critic_loss(self, q: Codes, p: Codes, draws: Draws | None = None) -> None:
        """None: there is nothing to train."""
        return None


def entropic_plan(
    x: Tensor, y: Tensor, gamma: float, *, tolerance: float = 1e-6, iterations: int = 1000
) -> tuple[Tensor, Tensor, Tensor]:
    """Couple two clouds of equal weights at cost |x_i - y_j|^2 / 2.

    Parameters
    ----------
    x, y : (..., n, d), (..., m, d)
    gamma : float
        Temperature, in squared units of x.
    tolerance, iterations
        As in `potentials`.

    Returns
    -------
    a, b : (..., n), (..., m)
        Potentials.
    plan : (..., n, m)
        Coupling; sums to 1.
    """
    cost = squared_distances(x.detach(), y.detach()) / 2
    a, b = potentials(cost, gamma, tolerance=tolerance, iterations=iterations)
    return a, b, coupling(a, b, cost, gamma)


def coupling(a: Tensor, b: Tensor, cost: Tensor, gamma: float) -> Tensor:
    """Plan of two potentials: ``exp((a_i + b_j - C_ij) / gamma) / (n m)``, (..., n, m)."""
    return ((a.unsqueeze(-1) + b.unsqueeze(-2) - cost) / gamma).exp() / (cost.shape[-2] * cost.shape[-1])


@torch.no_grad()
def potentials(cost: Tensor, gamma: float, *, tolerance: float = 1e-6, iterations: int = 1000) -> tuple[Tensor, Tensor]:
    """Solve entropic transport between uniform weights, in logarithms.

    Parameters
    ----------
    cost : (..., n, m)
    gamma : float
        Temperature, in units of the cost.
    tolerance : float
        Largest error of a marginal, relative to its weight. Rounding bounds what can be reached: about
        the precision of the numbers times range of costs / gamma.
    iterations : int
        At most; a warning tells that they were too few.

    Returns
    -------
    a, b : (..., n), (..., m)
        Potentials, see `coupling`; columns of the plan are exact. Without gradient: of the transport cost
        it is the plan itself (envelope theorem).

    Notes
    -----
    ``a_i = -gamma log mean_j exp((b_j - C_ij) / gamma)`` and the same for b (Peyre and Cuturi 2019, section
    4.4), while the temperature halves from the range of the costs to gamma. Each problem of a batch stops
    by itself, so it is solved as it would be alone.
    """
    if gamma <= 0:
        raise ValueError(f"a temperature of {gamma} is not positive")
    spread = (cost.amax(dim=(-2, -1)) - cost.amin(dim=(-2, -1))).unsqueeze(-1)  # (..., 1)
    # What rounding leaves of a marginal: exponents are as large as range / gamma.
    enough = (4 * torch.finfo(cost.dtype).eps * spread / gamma).clamp(min=tolerance)
    a, b = cost.new_zeros(cost.shape[:-1]), cost.new_zeros(cost.mT.shape[:-1])
    done = torch.zeros_like(spread, dtype=torch.bool)
    for step in range(iterations):
        heat = (spread * COOLING**step).clamp(min=gamma)
        row = softmin(cost, b, heat)
        if step % LOOK_EVERY == LOOK_EVERY - 1:
            # A row sums to exp((a - row) / gamma) / n.
            error = ((a - row) / gamma).expm1().abs().amax(dim=-1, keepdim=True)
            done = done | ((error <= enough) & (heat <= gamma))
            if bool(done.all()):
                return a, b
        a = torch.where(done, a, row)
        b = torch.where(done, b, softmin(cost.mT, a, heat))
    warnings.warn(f"potentials not converged after {iterations} iterations at {gamma}", RuntimeWarning, stacklevel=2)
    return a, b


@torch.no_grad()
def self_potential(cost: Tensor, gamma: float, *, tolerance: float = 1e-6, iterations: int = 1000) -> Tensor:
    """Solve entropic transport of a cloud to itself, (n, n) costs to the one potential (n,) that both sides have.

    Parameters
    ----------
    cost : (n, n)
        Symmetric.
    gamma, tolerance, iterations
        As in `potentials`.

    Notes
    -----
    ``s <- (s + softmin(C - s)) / 2`` (Feydy et al. 2019, section 3.1): the plain iteration overshoots to and fro.
    """
    if gamma <= 0:
        raise ValueError(f"a temperature of {gamma} is not positive")
    spread = (cost.amax() - cost.amin()).reshape(1)
    enough = (4 * torch.finfo(cost.dtype).eps * spread / gamma).clamp(min=tolerance)
    s = cost.new_zeros(len(cost))
    for step in range(iterations):
        heat = (spread * COOLING**step).clamp(min=gamma)
        row = softmin(cost, s, heat)
        if step % LOOK_EVERY == LOOK_EVERY - 1:
            error = ((s - row) / gamma).expm1().abs().amax()
            if bool((error <= enough) & (heat <= gamma)):
                return s
        s = (s + row) / 2
    warnings.warn(f"potential not converged after {iterations} iterations at {gamma}", RuntimeWarning, stacklevel=2)
    return s


def softmin(cost: Tensor, potential: Tensor, heat: Tensor) -> Tensor:
    """``-heat log mean_j exp((potential_j - cost_ij) / heat)``, (..., n, m) -> (..., n); heat (..., 1)."""
    count = cost.shape[-1]
    exponent = (potential.unsqueeze(-2) - cost) / heat.unsqueeze(-1)
    return -heat * (exponent.logsumexp(dim=-1) - math.log(count))
