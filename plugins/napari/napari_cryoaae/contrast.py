"""Contrast limits of a volume that is too large to look through: from a sparse sample of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryoaae.reports.style import contrast_limits

PLANES = 12
SAMPLE_VOXELS = 200_000


def sample_slices(shape_zyx: Sequence[int]) -> list[tuple[slice, slice, slice]]:
    """Blocks (1, y, x) of a regular sample of a volume: at most `PLANES` planes of it."""
    depth, rows, columns = shape_zyx
    planes = np.unique(np.linspace(0, depth - 1, min(depth, PLANES) + 2).round().astype(int)[1:-1])
    stride = max(1, int(np.sqrt(len(planes) * rows * columns / SAMPLE_VOXELS)))
    every = slice(None, None, stride)
    return [(slice(z, z + 1), every, every) for z in planes.tolist()]


def sparse_sample(data: NDArray[Any]) -> NDArray[np.float64]:
    """Finite values of a regular sample of (z, y, x), reading at most `PLANES` planes."""
    values = np.concatenate([np.asarray(data[block], np.float64).ravel() for block in sample_slices(data.shape)])
    return values[np.isfinite(values)]


def sampled_limits(data: NDArray[Any]) -> tuple[float, float]:
    """Grey levels that leave half a percent out at each end; never equal, whatever the volume holds."""
    values = sparse_sample(data)
    return contrast_limits([values]) if values.size else (0.0, 1.0)
