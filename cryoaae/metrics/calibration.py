"""Whether a stated spread is that of the errors: coverage, and the local contrast that a spread must beat.

A spread that follows the strength of the restoration looks right: errors are large where there is something. The
local root mean square of the restoration is therefore the null that a spread's rank correlation with the
errors is held against.
"""

from __future__ import annotations

import math

import torch
from scipy.stats import norm, t
from torch import Tensor


def coverage(error: Tensor, spread: Tensor, *, nominal: float = 0.9, draws: int | None = None) -> float:
    """Share of the errors that lie within the interval of a normal law with that spread.

    Parameters
    ----------
    error, spread : tensors of one shape
        Voxels, or coefficients.
    nominal : float
        Probability of the interval.
    draws : int, optional
        How many draws the spread was made from, about the estimate: the interval is then that of Student's law with
        as many degrees of freedom, which a right spread from so few covers as stated.
    """
    end = (1 + nominal) / 2
    width = float(norm.ppf(end) if draws is None else t.ppf(end, draws))
    return float((error.abs() <= width * spread).double().mean())


def mean_crps(error: Tensor, spread: Tensor) -> float:
    """Mean continuous ranked probability score of normal laws about the estimate, tensors of one shape; less is better.

    Notes
    -----
    s (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)), z = error / s (Gneiting and Raftery 2007, section 4.2); the
    absolute error where the spread is zero.
    """
    size, width = error.abs().double(), spread.double()
    z = size / width.clamp(min=torch.finfo(torch.float64).tiny)
    phi = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    score = width * (z * torch.erf(z / math.sqrt(2)) + 2 * phi - 1 / math.sqrt(math.pi))
    return float(torch.where(width > 0, score, size).mean())


def coverage_if_right(draws: int, *, nominal: float = 0.9) -> float:
    """Share that `coverage` finds if the spread is right, but made from so many draws about the estimate.

    Error over spread is then not normal, but of Student's law with as many degrees of freedom as there are draws.
    """
    return float(2 * t.cdf(norm.ppf((1 + nominal) / 2), draws) - 1)


def local_rms(volume: Tensor, window: int) -> Tensor:
    """Root mean square over cubes of `window` voxels (odd) around each voxel, (z, y, x); faces see fewer voxels."""
    pooled = torch.nn.functional.avg_pool3d(
        volume.double().square()[None], window, stride=1, padding=window // 2, count_include_pad=False
    )
    return pooled[0].sqrt()
