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

from cryoaae.physics.fourier import frequencies

# Share of each axis over which the faces of a volume are faded out before scoring.
TAPER_SHARE = 1 / 8


def face_taper(shape_zyx: Sequence[int], *, share: float = TAPER_SHARE) -> Tensor:
    """Raised-cosine window (z, y, x) float64 that fades the faces, so that they do not leak.

    Parameters
    ----------
    shape_zyx : sequence of int
        Box in voxels.
    share : float
        Part of each axis over which each of its two faces is faded; 0.5 gives a Hann window.
    """
    window = torch.ones(1, 1, 1, dtype=torch.float64)
    for axis, n in enumerate(shape_zyx):
        to_face = torch.minimum(torch.arange(n), n - 1 - torch.arange(n)) + 1
        ramp = (to_face / max(n * share, 1.0)).clamp(max=1.0).double()
        along = 0.5 - 0.5 * torch.cos(math.pi * ramp)
        window = window * along.reshape([n if a == axis else 1 for a in range(3)])
    return window


def tapered(volume: Tensor, *, share: float = TAPER_SHARE) -> Tensor:
    """Volume (z, y, x) float64 without its mean and with its faces faded out."""
    values = volume.double()
    return (values - values.mean()) * face_taper(values.shape[-3:], share=share)


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
