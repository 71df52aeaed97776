"""Overlapping patches of a volume: sums over each, and values of each blended by a partition of unity.

    sum_p = sum over the voxels v of patch p of f(v),      blended(v) = sum_p w_p(v) value_p,      sum_p w_p(v) = 1

Patches are cubes on a grid, so indicator and window are products of three functions of one axis, and both maps are
three small matrix products, whatever the number of patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

# Patches beyond this edge have more dimensions than weights bear (SCIENCE: 95 effective of 20,000 in six).
LARGEST_PATCH = 12


@dataclass(frozen=True)
class Places:
    """Cubes of `patch` voxels, `step` apart, that cover a volume (z, y, x).

    Parameters
    ----------
    shape : (z, y, x)
    patch : int
        Edge in voxels, 1 to 12, at most the smallest edge of the volume.
    step : int
        Voxels from one patch to the next, 1 to `patch`; the last ones end with the volume.
    """

    shape: tuple[int, int, int]
    patch: int
    step: int

    def __post_init__(self) -> None:
        if not 1 <= self.patch <= min(*self.shape, LARGEST_PATCH):
            raise ValueError(f"patches of {self.patch} voxels in a volume of {self.shape}")
        if not 1 <= self.step <= self.patch:
            raise ValueError(f"patches of {self.patch} voxels {self.step} apart do not cover a volume")

    @cached_property
    def starts(self) -> tuple[list[int], list[int], list[int]]:
        """First voxel of the patches along z, y, x."""
        z, y, x = (_starts(n, self.patch, self.step) for n in self.shape)
        return z, y, x

    @property
    def grid(self) -> tuple[int, int, int]:
        """Patches along z, y, x."""
        z, y, x = (len(axis) for axis in self.starts)
        return z, y, x

    def __len__(self) -> int:
        z, y, x = self.grid
        return z * y * x

    @property
    def centres_zyx(self) -> Tensor:
        """Middles of the patches, (places, 3), voxels."""
        half = (self.patch - 1) / 2
        axes = (torch.tensor(axis, dtype=torch.float64) + half for axis in self.starts)
        return torch.cartesian_prod(*axes).reshape(-1, 3)

    @cached_property
    def _indicators(self) -> list[Tensor]:
        """Which voxels of an axis a patch holds, (patches, voxels) each."""
        made = []
        for axis, n in zip(self.starts, self.shape, strict=True):
            first = torch.tensor(axis)[:, None]
            voxel = torch.arange(n)
            made.append(((voxel >= first) & (voxel < first + self.patch)).float())
        return made

    @cached_property
    def _windows(self) -> list[Tensor]:
        """Windows along an axis that fall off linearly and add up to one at every voxel, (patches, voxels) each."""
        made = []
        for axis, n in zip(self.starts, self.shape, strict=True):
            middle = torch.tensor(axis)[:, None] + (self.patch - 1) / 2
            tent = (self.patch + 1) / 2 - (torch.arange(n) - middle).abs()
            window = tent.clamp(min=0.0)
            made.append(window / window.sum(dim=0))
        return made

    def sums(self, field: Tensor) -> Tensor:
        """Sum of a field (z, y, x) over each patch, (places,)."""
        return _along(field, self._indicators).flatten()

    def blended(self, values: Tensor) -> Tensor:
        """Values (places,) as a field (z, y, x) without edges."""
        windows = [window.T.to(values.device, values.dtype) for window in self._windows]
        return _along(values.reshape(self.grid), windows)


def _starts(size: int, patch: int, step: int) -> list[int]:
    last = size - patch
    return [*range(0, last, step), last]


def _along(values: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Apply a matrix (out, in) along each axis of (z, y, x)."""
    z, y, x = (matrix.to(values.device, values.dtype) for matrix in matrices)
    after = torch.tensordot(z, values @ x.T, dims=1)
    return torch.einsum("by,ayc->abc", y, after)
