"""Parzen-window estimate of a log-likelihood, from samples of a model."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

log = logging.getLogger("cryoaae")

# Ten widths evenly spaced in their logarithm from 0.1 to 0.5, for pixels from 0 to 1.
SIGMAS = tuple(0.1 * 5 ** (i / 9) for i in range(10))
# A tile of distances is 4 MB in double precision, which a core keeps near.
TILE_ROWS, TILE_COLUMNS = 512, 1024


def parzen_log_likelihood(samples: Tensor, test: Tensor, sigma: float) -> Tensor:
    """Log density of test points under Gaussian windows around samples.

    Parameters
    ----------
    samples : (m, d)
        Centres of the windows.
    test : (n, d)
        Points to evaluate.
    sigma : float
        Standard deviation of a window in every coordinate.

    Returns
    -------
    (n,) float64
        In nats.

    Notes
    -----
    ``log p(x) = log 1/m sum_i exp(-|x - s_i|^2 / (2 sigma^2)) - d/2 log(2 pi sigma^2)`` (Breuleux et al. 2011;
    Makhzani et al. 2016, section 3). The products within ``|x - s|^2 = |x|^2 + |s|^2 - 2 x's`` are taken in the
    points' own precision, all sums of them in double: memory is that of a few tiles whatever m and n are.
    """
    return _log_likelihoods(samples, test, (sigma,))[0]


def choose_sigma(samples: Tensor, validation: Tensor, grid: Sequence[float] = SIGMAS) -> float:
    """Width of `grid` under which validation points, (n, d), are likeliest on average; the lesser of equals.

    A best width at the end of the grid is warned of: a better one may lie beyond.
    """
    widths = sorted(grid)
    means = _log_likelihoods(samples, validation, widths).mean(dim=1)
    best = int(means.argmax())
    if len(widths) > 1 and best in (0, len(widths) - 1):
        log.warning("Parzen window: the best width, %.3g, is at the end of those tried", widths[best])
    return widths[best]


def mean_and_sem(values: Tensor) -> tuple[float, float]:
    """Mean of (n,) values and its standard error, the sample's standard deviation over sqrt(n)."""
    values = values.double()
    return float(values.mean()), float(values.std() / math.sqrt(len(values)))


def _log_likelihoods(samples: Tensor, test: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Log densities under each width, (widths, n) float64."""
    if samples.dim() != 2 or test.dim() != 2 or samples.shape[1] != test.shape[1] or not len(samples):
        raise ValueError(f"samples {tuple(samples.shape)} and points {tuple(test.shape)} are not of one space")
    if not sigmas or min(sigmas) <= 0:
        raise ValueError(f"widths must be positive: {list(sigmas)}")
    m, d = samples.shape
    # Distances lose fewer digits the nearer to zero points lie.
    centre = samples.mean(dim=0, dtype=torch.float64).to(samples)
    samples, test = samples - centre, test - centre
    sums = torch.full((len(sigmas), len(test)), -math.inf, device=test.device, dtype=torch.float64)
    for rows, distance in _tiles(samples, test):
        for i, sigma in enumerate(sigmas):
            tile = torch.logsumexp(distance / (-2 * sigma**2), dim=1)
            sums[i, rows] = torch.logaddexp(sums[i, rows], tile)
    norms = [math.log(m) + d / 2 * math.log(2 * math.pi * sigma**2) for sigma in sigmas]
    return sums - torch.tensor(norms, device=sums.device, dtype=torch.float64)[:, None]


def _tiles(samples: Tensor, test: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Tiles of squared distances, (rows, columns) float64, and which rows they are of."""
    of_samples, of_test = (torch.linalg.vector_norm(x, dim=1, dtype=torch.float64).square() for x in (samples, test))
    for top in range(0, len(test), TILE_ROWS):
        rows = slice(top, top + TILE_ROWS)
        for left in range(0, len(samples), TILE_COLUMNS):
            columns = slice(left, left + TILE_COLUMNS)
            products = (test[rows] @ samples[columns].T).double()
            distance = products.mul_(-2).add_(of_test[rows, None]).add_(of_samples[columns]).clamp_(min=0)
            yield rows, distance
