"""Sliced Wasserstein distance: transport along lines, where it is a sort."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cryoaae.divergences import DIVERGENCES
from cryoaae.divergences.clouds import two_clouds
from cryoaae.divergences.divergence import Codes
from cryoaae.draws import Draws
from cryoaae.nets.stacked import Stack
from cryoaae.priors.prior import Prior


@DIVERGENCES.register("sliced")
class Sliced(nn.Module):
    """Sliced squared Wasserstein-2 distance.

    Parameters
    ----------
    prior : Prior
    stack : tuple of int
        Not needed: it has no parameters.
    directions : int
        Random directions, drawn anew at each call.

    Notes
    -----
    ``mean over unit vectors u of W_2^2(u.x, u.y)`` (Bonneel et al. 2015), in squared units of a code: a shift
    by t gives ``|t|^2 / dim``. One point in a cloud is enough, it is then a Dirac and the distance right; two
    clouds of n points of one law are about 1 / n apart.
    """

    def __init__(self, prior: Prior, *, stack: Stack = (), directions: int = 128) -> None:
        super().__init__()
        if directions < 1:
            raise ValueError(f"{directions} directions")
        self.dim, self.directions = prior.dim, directions

    def forward(self, q: Codes, p: Codes, draws: Draws | None = None) -> Tensor:
        """Mean over directions, (*stack,); `draws` is needed but for codes of length 1.

        Raises
        ------
        ValueError
            If a direction must be drawn and there is nothing to draw it from.
        """
        x, y = two_clouds(q, p, self.dim)
        # A line has one direction.
        if self.dim > 1:
            if draws is None:
                raise ValueError("random directions need draws")
            drawn = draws.normal(self.dim, self.directions).to(x)
            direction = nn.functional.normalize(drawn, dim=-2)
            x, y = x @ direction, y @ direction
        return wasserstein2(x, y).mean(dim=-1)

    def critic_loss(self, q: Codes, p: Codes, draws: Draws | None = None) -> None:
        """None: there is nothing to train."""
        return None


def wasserstein2(x: Tensor, y: Tensor) -> Tensor:
    """Squared Wasserstein-2 distance of clouds on a line, (*stack, n, k) and (*stack, m, k) -> (*stack, k).

    Parameters
    ----------
    x, y : (*stack, n, k), (*stack, m, k)
        Points of k pairs of clouds; n and m may differ.

    Notes
    -----
    ``int_0^1 (F^-1(t) - G^-1(t))^2 dt`` of the two quantile functions. They are constant on the pieces
    between multiples of 1/n and of 1/m, so the integral is an exact sum for any two sizes.
    """
    x, y = x.sort(dim=-2).values, y.sort(dim=-2).values
    n, m = x.shape[-2], y.shape[-2]
    if n == m:
        return (x - y).square().mean(dim=-2)
    # Ends of the pieces in integers, units of 1 / (n m): none is lost or doubled by rounding.
    end = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique()
    width = end.diff(prepend=end.new_zeros(1)).to(x) / (n * m)
    i, j = ((end - 1) // m).to(x.device), ((end - 1) // n).to(x.device)
    difference = x.index_select(-2, i) - y.index_select(-2, j)
    return (difference.square() * width[:, None]).sum(dim=-2)
