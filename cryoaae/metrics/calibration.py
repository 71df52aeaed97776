"""Whether a stated spread is that of the errors: coverage, and the local contrast that a spread must beat.

A spread that follows the strength of the restoration looks right: errors are large where there is something. The
local root mean square of the restoration is therefore the null that a spread's rank correlation with the
errors is held against.
"""

from __future__ import annotations

import torch
from scipy.stats import norm, t
from torch import Tensor


def coverage(error: Tensor, spread: Tensor, *, nominal: float = 0.9) -> float:
    """Share of the errors that lie within the interval of a normal law with that spread.

    Parameters
    ----------
    error, spread : tensors of one shape
        Voxels, or coefficients.
    nominal : float
        Probability of the interval.
    """
    return float((error.abs() <= norm.ppf((1 + nominal) / 2) * spread).double().mean())


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
