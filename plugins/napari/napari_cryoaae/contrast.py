"""Contrast limits of a volume that is too large to look through: from a sparse sample of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.reports.style import contrast_limits

PLANES = 12
SAMPLE_VOXELS = 200_000


def sparse_sample(data: NDArray[Any]) -> NDArray[np.float64]:
    """Finite values of a regular sample of (z, y, x), reading at most `PLANES` planes."""
    depth, rows, columns = data.shape
    planes = np.unique(np.linspace(0, depth - 1, min(depth, PLANES) + 2).round().astype(int)[1:-1])
    stride = max(1, int(np.sqrt(len(planes) * rows * columns / SAMPLE_VOXELS)))
    values = np.concatenate([np.asarray(data[z, ::stride, ::stride], np.float64).ravel() for z in planes])
    return values[np.isfinite(values)]


def sampled_limits(data: NDArray[Any]) -> tuple[float, float]:
    """Grey levels that leave half a percent out at each end; never equal, whatever the volume holds."""
    values = sparse_sample(data)
    return contrast_limits([values]) if values.size else (0.0, 1.0)
