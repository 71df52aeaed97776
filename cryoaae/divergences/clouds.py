"""What divergences of two clouds have in common: which clouds may be compared, and squared distances."""

from __future__ import annotations

from torch import Tensor

from cryoaae.divergences.divergence import Codes


def two_clouds(q: Codes, p: Codes, dim: int) -> tuple[Tensor, Tensor]:
    """Return the samples of both, (*stack, n, dim) and (*stack, m, dim).

    Parameters
    ----------
    q, p : Codes
    dim : int
        Length of a code.

    Raises
    ------
    ValueError
        If a cloud is empty or has codes of another length, or if the stacks differ: broadcasting
        would make a number of them all the same.
    """
    x, y = q.samples, p.samples
    for cloud in (x, y):
        if cloud.dim() not in (2, 3) or cloud.shape[-1] != dim:
            raise ValueError(f"a cloud of shape {tuple(cloud.shape)} is not (*stack, n, {dim})")
        if not cloud.shape[-2]:
            raise ValueError("an empty cloud has no law")
    if x.shape[:-2] != y.shape[:-2]:
        raise ValueError(f"stacks {tuple(x.shape[:-2])} and {tuple(y.shape[:-2])} differ")
    return x, y


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2, (*stack, n, d) and (*stack, m, d) -> (*stack, n, m)."""
    # As a product, which is fast; from a common centre, since |x|^2 + |y|^2 - 2 x.y cancels far from zero.
    centre = x.detach().mean(dim=-2, keepdim=True)
    x, y = x - centre, y - centre
    norms = x.square().sum(dim=-1).unsqueeze(-1) + y.square().sum(dim=-1).unsqueeze(-2)
    return (norms - 2 * x @ y.mT).clamp(min=0)
