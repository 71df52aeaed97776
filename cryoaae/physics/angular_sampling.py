"""What a tilt series adds to a place from elsewhere: the copies that tilts apart from each other make.

Projections d apart in angle sample the coefficients at a distance f from the tilt axis f d apart. So every structure
comes back in copies of itself m / (f d) away along the beam of that tilt, m = +-1, +-2, ... (Crowther et al. 1970;
Bracewell and Riddle 1967). At tilt t a place with a depth u of specimen on one side of it and v on the other holds
copies of as much structure as

    g - 1 = floor(u f d / cos t) + floor(v f d / cos t)

places have, in power: of a specimen D thick 2 n - n (n + 1) / a on the average over its depth, a = D f d / cos t,
n = floor(a). Below a = 1 (Crowther's criterion) there is none. Both halves hold the same copies, so that no half
difference tells of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cryoaae.physics.wedge import MissingWedge

# Beyond this tilt a specimen's thickness along the beam is no longer what the cosine says.
STEEPEST_DEG = 80.0


def copied_power(
    wedge: MissingWedge,
    shape_zyx: Sequence[int],
    thickness: float,
    depths: tuple[float, float] | None = None,
    *,
    device: torch.device | str | None = None,
) -> Tensor:
    """Power that copies of structure elsewhere add to each coefficient, over that of a place's own structure, g - 1.

    Parameters
    ----------
    wedge : MissingWedge
        In the laboratory frame. Without a list of tilts nothing is known of gaps between them, and none are taken.
    shape_zyx : sequence of int
        Box whose coefficients are asked for.
    thickness : float
        Of the specimen at no tilt, in voxels of that box.
    depths : (float, float), optional
        First and last depth, in voxels from one face, that is averaged over. Default: all of the specimen.

    Returns
    -------
    Tensor
        (z, y, x // 2 + 1) float32. The region between the end tilts is meant; beyond it the end gap's value stands.
    """
    beam, across = wedge.coordinates(shape_zyx, device)
    if wedge.tilts_deg is None or len(wedge.tilts_deg) < 2:
        return torch.zeros(beam.shape, device=device)
    sign = torch.where(across < 0, -1.0, 1.0)  # planes are even in k
    angle = torch.atan2(beam * sign, across * sign).contiguous()
    planes = wedge.plane_angles_rad().to(angle.device)
    after = torch.searchsorted(planes, angle).clamp(1, len(planes) - 1)
    gap = planes[after] - planes[after - 1]
    a_voxel = torch.hypot(beam, across) * gap / torch.cos(angle.abs().clamp(max=math.radians(STEEPEST_DEG)))
    low, high = depths or (0.0, thickness)
    sides = ((low, high), (thickness - high, thickness - low))
    return sum((_mean_floor(a_voxel, *side) for side in sides), torch.zeros_like(a_voxel)).float()


def _mean_floor(slope: Tensor, low: float, high: float) -> Tensor:
    """Mean of floor(slope u) for u from `low` to `high`, both at least 0."""

    def integral(u: float) -> Tensor:
        whole = (slope * u).floor()
        return whole * u - whole * (whole + 1) / (2 * slope.clamp(min=1e-9))

    return (integral(high) - integral(low)) / (high - low)
