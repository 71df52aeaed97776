"""The noise of a reconstruction of which there is one volume alone, told from its quietest blocks.

In weighted back-projection every coefficient of a tomogram averages those of projections. How many there are falls as
1 / k with the frequency k, and so the noise of white projections rises as k; what filters and interpolation take away
is smooth:

    N(k) = k e^(a - b k^2)

(Radermacher 1992, "Weighted back-projection methods"). Where nothing is featureless, the quietest blocks hold
structure as well, most of it at low frequencies, where it may be a hundred times as strong as the noise. Their power Q
is therefore a bound, which is reached where structures have none left. The curve is the highest one below Q:

    maximise  sum over shells of k^2 log N(k)      with  N <= Q

In x = k^2 log (N / k) is a straight line, so it is the edge of the lower convex hull of log (Q / k) at the mean x.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Share of the loudest shell's Q / k below which a shell holds nothing: the volume was cut off there.
SILENT = 1e-6


def reconstruction_noise(quiet: Tensor) -> Tensor:
    """Power of the noise by shell.

    Parameters
    ----------
    quiet : (shells,) float64
        Power of the quietest blocks in equal shells from 0 to Nyquist, per measured coefficient.

    Returns
    -------
    (shells,) float64
        The curve up to the highest shell at which it reaches `quiet`, and `quiet` beyond.
    """
    k = (torch.arange(len(quiet), dtype=torch.float64) + 0.5) / len(quiet) * 0.5
    held = (quiet / k > SILENT * (quiet / k).max()).nonzero()[:, 0]
    if len(held) < 2:
        return quiet.clone()
    x, y = k[held] ** 2, (quiet[held] / k[held]).log()
    middle = float(x.square().sum() / x.sum())
    low, high = _hull_edge(x, y, middle)
    slope = (y[high] - y[low]) / (x[high] - x[low])
    curve = k * (y[low] + slope * (k**2 - x[low])).exp()
    return torch.where(torch.arange(len(quiet)) < held[high], torch.minimum(curve, quiet), quiet)


def _hull_edge(x: Tensor, y: Tensor, at: float) -> tuple[int, int]:
    """Ends of the edge of the points' lower convex hull that lies over `at`; x rises."""
    before, after = (x <= at).nonzero()[:, 0], (x > at).nonzero()[:, 0]
    share = (at - x[before, None]) / (x[after][None] - x[before, None])
    level = y[before, None] + share * (y[after][None] - y[before, None])
    row, column = divmod(int(level.argmin()), len(after))
    return int(before[row]), int(after[column])
