"""Fourier sectors: the direction of each coefficient across the tilt axis, and tapers for finite boxes.

The angle of a coefficient is that of the central plane that holds it and the tilt axis, seen along
the axis: ``atan2(kz, across)`` folded to (-90, 90], with ``across`` = kx for a tilt axis along y.
The projection at tilt t measures the plane at angle -t (physics.wedge).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cryoaae.physics.fourier import frequencies, taper

# Share of each axis over which the faces of a volume are faded out before scoring.
TAPER_SHARE = 1 / 8


def tapered(volume: Tensor, *, share: float = TAPER_SHARE) -> Tensor:
    """Volume (z, y, x) float64 without its mean and with its faces faded out."""
    values = volume.double()
    return (values - values.mean()) * taper(values.shape[-3:], share=share, dtype=values.dtype)


def across_beam(shape_zyx: Sequence[int], tilt_axis_deg: float) -> tuple[Tensor, Tensor]:
    """Frequencies (across, beam) of the half spectrum, broadcastable to (z, y, x // 2 + 1).

    Folded onto across >= 0, in cycles per voxel; `tilt_axis_deg` runs from y towards x.
    """
    kz, ky, kx = frequencies(shape_zyx, dtype=torch.float64)
    axis = math.radians(tilt_axis_deg)
    across = math.cos(axis) * kx - math.sin(axis) * ky
    sign = torch.where(across < 0, -1.0, 1.0)
    return across * sign, kz * sign


def plane_angle(shape_zyx: Sequence[int], tilt_axis_deg: float) -> tuple[Tensor, Tensor]:
    """Angle in degrees and distance from the tilt axis in cycles per voxel, (z, y, x // 2 + 1) each."""
    across, beam = across_beam(shape_zyx, tilt_axis_deg)
    return torch.rad2deg(torch.atan2(beam, across)), torch.hypot(beam, across)
