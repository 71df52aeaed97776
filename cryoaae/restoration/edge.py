"""The edge of the wedge: coefficients that are neither measured for sure nor far from what was measured.

They lie within a Fourier voxel or two of the last tilt and hold a third of the power that a restoration is unsure of.
Nothing is measured there by which errors could be told directly, but when tilts are hidden the same zone lies at the
edge of what was hidden (`held_out.border_table`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cryoaae.restoration.held_out import GUARD, MEASURED_DEPTH, cells
from cryoaae.restoration.working import WorkingTomogram

# Depths in Fourier voxels at which a region's own values end or begin; between them they go over evenly, so that both
# sides have theirs wherever they are scored.
KNOTS = (MEASURED_DEPTH, MEASURED_DEPTH + 1, GUARD - 1, GUARD)


def edge_table(tomogram: WorkingTomogram) -> Tensor:
    """Cells of the edge of a tomogram's wedge, by shell alone."""
    depth = _depth(tomogram)
    return cells(tomogram.shape, torch.zeros_like(depth), (depth >= MEASURED_DEPTH) & (depth < GUARD))


def into_wedge(tomogram: WorkingTomogram, knots: Sequence[float] = KNOTS) -> Tensor:
    """How far in each coefficient lies, (z, y, x // 2 + 1) float64: 0 measured, 1 at the edge, 2 in the wedge.

    Parameters
    ----------
    tomogram : WorkingTomogram
    knots : four floats
        Depths in Fourier voxels where the measured region ends, the edge begins and ends, and the wedge begins.
    """
    depth = _depth(tomogram).double().nan_to_num(0.0, -math.inf, -math.inf)
    return torch.from_numpy(np.interp(depth.numpy(), knots, (0.0, 1.0, 1.0, 2.0)))


def between_regions(values: tuple[Tensor, Tensor, Tensor], into: Tensor) -> Tensor:
    """Values of the three regions (z, y, x // 2 + 1), going over evenly; `into` as of `into_wedge`."""
    seen, edge, missing = values
    return seen + into.clamp(max=1) * (edge - seen) + (into - 1).clamp(min=0) * (missing - edge)


def _depth(tomogram: WorkingTomogram) -> Tensor:
    return tomogram.wedge.solid().depth(tomogram.shape, object_zyx=tomogram.core_shape)
