"""Turning whole volumes of a working grid about their middle, losing nothing inside the band."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cryoaae.patches.source import to_source_grid
from cryoaae.physics.rotation import OVERSAMPLING, reflect_positions, sample_cubic, sample_positions


class Turner:
    """Turns volumes of one shape about voxel n // 2; what comes from beyond the faces is reflected.

    Parameters
    ----------
    shape_zyx : sequence of int
    rotation : (3, 3)
        On (z, y, x) vectors.
    """

    def __init__(
        self, shape_zyx: Sequence[int], rotation: Tensor, *, device: torch.device | None = None
    ) -> None:
        z, y, x = shape_zyx
        centre = torch.tensor([float(n // 2 * OVERSAMPLING) for n in shape_zyx])
        # Where each voxel comes from, (z, y, x, 3), on the source grid.
        self.positions = sample_positions(rotation, centre, (z, y, x), OVERSAMPLING, device=device)
        self._reflected = reflect_positions(self.positions, tuple(OVERSAMPLING * n for n in shape_zyx))

    def __call__(self, volume: Tensor) -> Tensor:
        """Turn a volume (z, y, x)."""
        return sample_cubic(to_source_grid(volume, 1)[None], self._reflected)[0]

    def mask(self, voxels: Tensor) -> Tensor:
        """Turn a mask (z, y, x) bool, to the nearest voxel; what comes from beyond the grid is False."""
        nearest = (self.positions / OVERSAMPLING).round().long()
        size = torch.tensor(voxels.shape, device=nearest.device)
        within = ((nearest >= 0) & (nearest < size)).all(dim=-1)
        z, y, x = nearest.clamp(min=0).minimum(size - 1).unbind(dim=-1)
        return voxels[z, y, x] & within
