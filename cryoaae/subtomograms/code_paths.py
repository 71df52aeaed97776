"""Ways through the codes of particles: along the principal modes of their styles, and from one particle to another.

    modes      1/n sum_i (z_i - m) (z_i - m)^T = V diag(l) V^T,      mode j = sqrt(l_j) v_j: one standard deviation
    between    z(t) = r(t) (sin((1 - t) w) u_1 + sin(t w) u_2) / sin w,      r(t) = (1 - t) |z_1| + t |z_2|

u_1 and u_2 are the directions of two styles and w is the angle between them. A straight line would pass nearer to the
mean of the prior than particles are: half-way between two draws of N(0, 1) lies at 0.7 of their length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Modes of less than this share of the variance are rounding.
LEAST_SHARE = 1e-6
# Nearer than this to the same, or to opposite, directions an arc has no plane of its own.
ALIGNED = 1e-3


@dataclass(frozen=True)
class CodeModes:
    """Principal modes of some styles, the strongest first.

    Parameters
    ----------
    mean : (dim,)
    directions : (modes, dim)
        One standard deviation along each; orthogonal.
    shares : (modes,)
        Of the variance.
    """

    mean: Tensor
    directions: Tensor
    shares: Tensor

    def coordinates(self, style: Tensor) -> Tensor:
        """Where a style (dim,) lies along the modes, in standard deviations, (modes,)."""
        return self.directions @ (style - self.mean) / self.directions.square().sum(dim=1)

    def moved(self, style: Tensor, mode: int, place: float) -> Tensor:
        """The style (dim,) with another coordinate along one mode; all else stays, also what no mode reaches."""
        return style + (place - self.coordinates(style)[mode]) * self.directions[mode]


def code_modes(styles: Tensor) -> CodeModes:
    """Principal modes of styles (n, dim); none where all are equal.

    Raises
    ------
    ValueError
        For no styles.
    """
    if not len(styles):
        raise ValueError("no styles")
    mean = styles.double().mean(dim=0)
    centred = styles.double() - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(styles))
    values, vectors = values.flip(0).clamp(min=0.0), vectors.flip(1).T
    shares = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    kept = shares > LEAST_SHARE
    # Either sign is the mode: that in which its greatest number is positive.
    greatest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    directions = values.sqrt()[:, None] * vectors * greatest.sign()
    return CodeModes(mean.float(), directions[kept].float(), shares[kept].float())


def between(first: Tensor, second: Tensor, count: int) -> Tensor:
    """Styles from one (dim,) to another, both ends included, (count, dim)."""
    t = torch.linspace(0, 1, count, dtype=torch.float64)[:, None]
    ends = torch.stack([first, second]).double()
    lengths = torch.linalg.vector_norm(ends, dim=1)
    straight = (1 - t) * ends[0] + t * ends[1]
    if not bool((lengths > 0).all()):
        return straight.float()
    ends = ends / lengths[:, None]
    angle = torch.arccos((ends[0] @ ends[1]).clamp(-1, 1))
    if not ALIGNED < float(angle) < torch.pi - ALIGNED:
        return straight.float()
    turned = (torch.sin((1 - t) * angle) * ends[0] + torch.sin(t * angle) * ends[1]) / torch.sin(angle)
    return (((1 - t) * lengths[0] + t * lengths[1]) * turned).float()
