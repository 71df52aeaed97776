"""Maximum mean discrepancy with inverse multiquadratic kernels of several widths."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from cryoaae.divergences import DIVERGENCES
from cryoaae.divergences.clouds import squared_distances, two_clouds
from cryoaae.divergences.divergence import Codes
from cryoaae.draws import Draws
from cryoaae.nets.stacked import Stack
from cryoaae.priors.prior import Prior

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@DIVERGENCES.register("mmd")
class MMD(nn.Module):
    """Unbiased MMD^2 between codes and prior.

    Parameters
    ----------
    prior : Prior
        Its `dim` and `scale` set the widths of the kernels.
    stack : tuple of int
        Not needed: it has no parameters.
    scales : sequence of float
        Widths of the kernels, in units of 2 dim scale^2.

    Notes
    -----
    See `mmd2`. Being unbiased it may be negative: about its error, where the laws agree. Fewer than two
    points in either cloud are refused; with two or more it is right on average, whatever their number.
    """

    def __init__(self, prior: Prior, *, stack: Stack = (), scales: Sequence[float] = SCALES) -> None:
        super().__init__()
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales {tuple(scales)} are not all positive")
        self.dim, self.base, self.scales = prior.dim, 2 * prior.dim * prior.scale**2, tuple(scales)

    def forward(self, q: Codes, p: Codes, draws: Draws | None = None) -> Tensor:
        """MMD^2, (*stack,); nothing is drawn."""
        return mmd2(*two_clouds(q, p, self.dim), base=self.base, scales=self.scales)

    def critic_loss(self, q: Codes, p: Codes, draws: Draws | None = None) -> None:
        """None: there is nothing to train."""
        return None


def mmd2(x: Tensor, y: Tensor, *, base: float, scales: Sequence[float] = SCALES) -> Tensor:
    """Estimate the squared maximum mean discrepancy, (*stack,).

    Parameters
    ----------
    x : (*stack, n, d)
    y : (*stack, m, d)
    base : float
        Squared length.
    scales : sequence of float
        Widths of the kernels, in units of `base`.

    Notes
    -----
    ``mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)``, the U-statistic of
    Gretton et al. 2012, lemma 6, with ``k(a, b) = sum_s C / (C + |a - b|^2)``, ``C = s base``
    (Tolstikhin et al. 2018, section 4 and their code).
    """
    if min(x.shape[-2], y.shape[-2]) < 2:
        raise ValueError(f"clouds of {x.shape[-2]} and {y.shape[-2]} points: an unbiased MMD needs two in each")
    within = _pairs(_kernel(x, x, base, scales)) + _pairs(_kernel(y, y, base, scales))
    return within - 2 * _kernel(x, y, base, scales).mean(dim=(-2, -1))


def _kernel(x: Tensor, y: Tensor, base: float, scales: Sequence[float]) -> Tensor:
    squared = squared_distances(x, y)
    kernel = squared.new_zeros(())
    for scale in scales:
        kernel = kernel + scale * base / (scale * base + squared)
    return kernel


def _pairs(kernel: Tensor) -> Tensor:
    # A point is no pair with itself: leaving the diagonal in is what makes the plug-in estimate biased.
    n = kernel.shape[-1]
    return (kernel.sum(dim=(-2, -1)) - kernel.diagonal(dim1=-2, dim2=-1).sum(dim=-1)) / (n * (n - 1))
